package packetlog

import (
	"io"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"corewire/internal/packet"
)

// Capture writes entries as pcapng: two interfaces, inside's first, nanoseconds, and for each packet a comment with the
// rule, its place, group, state and prefix. It uses gopacket's pcapgo, which the captures of package ring use too.
type Capture struct{ ng *pcapgo.NgWriter }

// NewCapture writes a section's header and the interfaces.
func NewCapture(w io.Writer, inside, outside string) (*Capture, error) {
	dev := func(port packet.Port, name string) pcapgo.NgInterface {
		return pcapgo.NgInterface{Name: name, Description: port.String(), LinkType: layers.LinkTypeEthernet, TimestampResolution: 9}
	}
	ng, err := pcapgo.NewNgWriterInterface(w, dev(packet.Inside, inside), pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "corewire"}})
	if err != nil {
		return nil, err
	}
	if _, err := ng.AddInterface(dev(packet.Outside, outside)); err != nil {
		return nil, err
	}
	return &Capture{ng}, nil
}

// Write appends an entry.
func (c *Capture) Write(e *Entry) error {
	info := gopacket.CaptureInfo{Timestamp: e.Time, CaptureLength: len(e.Frame), Length: max(e.Length, len(e.Frame)), InterfaceIndex: int(e.Port)}
	return c.ng.WritePacketWithOptions(info, e.Frame, pcapgo.NgPacketOptions{Comments: []string{e.comment()}})
}

// Flush writes what is buffered.
func (c *Capture) Flush() error { return c.ng.Flush() }
