package packet_test

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"corewire/internal/packet"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// captures is where real captures are, if they are there; they are not part of the repository.
const captures = "../../../shared/data"

// readCapture calls frame for each frame of a pcap or pcapng file of Ethernet or raw IP frames; a raw datagram gets an
// Ethernet header. A file that cannot be read, or only in part, is no error: many are malformed on purpose.
func readCapture(name string, frame func([]byte)) {
	f, err := os.Open(name)
	if err != nil {
		return
	}
	defer f.Close()
	var r interface {
		ReadPacketData() ([]byte, gopacket.CaptureInfo, error)
		LinkType() layers.LinkType
	}
	if r, err = pcapgo.NewReader(f); err != nil {
		if _, err = f.Seek(0, io.SeekStart); err != nil {
			return
		}
		if r, err = pcapgo.NewNgReader(f, pcapgo.DefaultNgReaderOptions); err != nil {
			return
		}
	}
	for {
		b, _, err := r.ReadPacketData()
		if err != nil {
			return
		}
		switch r.LinkType() {
		case layers.LinkTypeEthernet:
			frame(b)
		case layers.LinkTypeRaw, layers.LinkTypeIPv4, layers.LinkTypeIPv6, 12:
			h := make([]byte, 14, 14+len(b))
			h[12] = 0x08
			if len(b) > 0 && b[0]>>4 == 6 {
				h[12], h[13] = 0x86, 0xdd
			}
			frame(append(h, b...))
		}
	}
}

// TestCaptures parses real captures, malformed ones among them, and compares Parse with its twin, and with gopacket
// where a TCP or UDP header is whole.
func TestCaptures(t *testing.T) {
	if _, err := os.Stat(captures); err != nil {
		t.Skipf("no captures: %v (they are not part of the repository)", err)
	}
	files, frames, compared := 0, 0, 0
	problems := map[packet.Problem]int{}
	classes := map[packet.Class]int{}
	badSums := 0
	err := filepath.WalkDir(captures, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(filepath.Ext(name), "cap") {
			return err
		}
		files++
		n := 0
		readCapture(name, func(frame []byte) {
			if n++; n > 2000 || testing.Short() && n > 50 {
				return
			}
			frames++
			p := checkTwin(t, frame)
			classes[p.Class]++
			problems[p.Problem]++
			if !p.VerifyChecksum() {
				badSums++
			}
			if p.Problem == 0 && (p.Proto == packet.ProtoTCP || p.Proto == packet.ProtoUDP) && !p.Is(packet.Fragment) {
				compared++
				compareGopacket(t, name, n, &p)
			}
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d frames of %d files, %d compared with gopacket, %d with a wrong transport checksum", frames, files, compared, badSums)
	for c, n := range classes {
		t.Logf("class %v: %d", c, n)
	}
	for p, n := range problems {
		t.Logf("problem %q: %d", p, n)
	}
}

// compareGopacket compares addresses and ports with what gopacket decodes, where it decodes without an error.
func compareGopacket(t *testing.T, name string, n int, p *packet.Packet) {
	t.Helper()
	g := gopacket.NewPacket(p.Frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	ip, transport := g.NetworkLayer(), g.TransportLayer()
	if ip == nil || transport == nil {
		return
	}
	src, dst := ip.NetworkFlow().Src().Raw(), ip.NetworkFlow().Dst().Raw()
	want := string(rss(p.Src, p.Dst, p.Family))
	if string(src)+string(dst) != want {
		t.Errorf("%s frame %d: addresses %x and %x, gopacket has %x %x", name, n, p.Src, p.Dst, src, dst)
	}
	ports := transport.TransportFlow()
	if s, d := be(ports.Src().Raw()), be(ports.Dst().Raw()); s != int(p.SrcPort) || d != int(p.DstPort) {
		t.Errorf("%s frame %d: ports %d and %d, gopacket has %d and %d", name, n, p.SrcPort, p.DstPort, s, d)
	}
}
