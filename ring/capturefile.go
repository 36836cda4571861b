package ring

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// captureBuffer is the size of the buffers in front of capture files.
const captureBuffer = 256 << 10

// captureReader reads one capture file, pcap (either byte order, micro- or nanoseconds) or pcapng (several sections and
// interfaces, link types and resolutions of their own), plain or compressed with gzip.
type captureReader struct {
	name   string
	file   *os.File
	read   func() ([]byte, gopacket.CaptureInfo, error) // the format's
	link   linkType                                     // of a pcap file
	mixed  bool                                         // pcapng: each frame says its link type
	number int                                          // frames read

	// The next frame, valid after next and until the one after.
	data   []byte
	kind   linkType
	time   time.Time
	length int // on the wire
	err    error
}

// openCapture opens a capture file and reads its header.
func openCapture(name string) (*captureReader, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open capture: %w", err)
	}
	r := &captureReader{name: name, file: f}
	if err := r.header(); err != nil {
		return nil, errors.Join(fmt.Errorf("open capture %s: %w", name, err), f.Close())
	}
	return r, nil
}

// header finds out the format.
func (r *captureReader) header() error {
	b := bufio.NewReaderSize(r.file, captureBuffer)
	magic, err := b.Peek(2)
	if err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(b)
		if err != nil {
			return err
		}
		b = bufio.NewReaderSize(z, captureBuffer)
	}
	magic, err = b.Peek(4)
	if err != nil {
		if len(magic) == 0 && err == io.EOF {
			return errors.New("the file is empty")
		}
		if err == io.EOF {
			return errors.New("not a pcap or pcapng file: too short")
		}
		return err
	}
	switch binary.BigEndian.Uint32(magic) {
	case 0x0a0d0d0a: // pcapng, section header
		ng, err := pcapgo.NewNgReader(b, pcapgo.NgReaderOptions{WantMixedLinkType: true})
		if err != nil {
			return truncated(err)
		}
		r.mixed, r.read = true, ng.ZeroCopyReadPacketData
	case 0xa1b2c3d4, 0xd4c3b2a1, 0xa1b23c4d, 0x4d3cb2a1: // pcap: micro- and nanoseconds, either byte order
		p, err := pcapgo.NewReader(b)
		if err != nil {
			return truncated(err)
		}
		r.link, r.read = linkType(p.LinkType()), p.ZeroCopyReadPacketData
		return r.link.supported()
	default:
		return fmt.Errorf("not a pcap or pcapng file: begins with %x", magic)
	}
	return nil
}

// supported returns an error for link types that no Ethernet header can stand in for.
func (l linkType) supported() error {
	if _, ok := l.headerSize(); !ok {
		return fmt.Errorf("link type %v is not supported (Ethernet, raw IP, BSD loopback and Linux cooked captures are)", l)
	}
	return nil
}

// truncated says more about an end of file where none should be.
func truncated(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w (truncated file?)", err)
	}
	return err
}

// next reads the next frame into r's fields and reports whether there is one. If not, r.err says why unless the file
// came to its regular end; after that there are no more frames.
func (r *captureReader) next() bool {
	if r.read == nil {
		return false
	}
	data, ci, err := r.read()
	kind := r.link
	if err == nil && r.mixed {
		if l, ok := ci.AncillaryData[0].(layers.LinkType); ok {
			kind = linkType(l)
		}
		err = kind.supported()
	}
	if err != nil {
		r.read, r.data = nil, nil
		// An end within a frame, right behind its header, looks like a regular one but for the header's length.
		if err == io.EOF && (r.mixed || ci.CaptureLength == 0) {
			return false
		}
		r.err = fmt.Errorf("read capture %s frame %d: %w", r.name, r.number+1, truncated(err))
		return false
	}
	r.number++
	if data == nil {
		data = []byte{} // a frame of which nothing was captured: nil would be the end
	}
	r.data, r.kind, r.length = data, kind, max(ci.Length, len(data))
	if !ci.Timestamp.IsZero() { // a simple packet block has none: it takes the one before
		r.time = ci.Timestamp
	}
	return true
}

func (r *captureReader) close() error {
	if err := r.file.Close(); err != nil {
		return fmt.Errorf("close capture: %w", err)
	}
	return nil
}

// captureWriter writes one capture file: pcapng, or pcap with nanoseconds where the name ends in .pcap.
type captureWriter struct {
	name  string
	file  *os.File
	ng    *pcapgo.NgWriter // pcapng, once the first link type is known
	links map[linkType]int // its interfaces
	plain *pcapgo.Writer   // pcap, likewise
	link  linkType         // its link type
	buf   *bufio.Writer    // in front of file
	pcap  bool             // the format asked for
	port  string           // interface name in pcapng: the port's
}

// createCapture creates the file, or empties it.
func createCapture(name, port string, pcap bool) (*captureWriter, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, fmt.Errorf("create capture: %w", err)
	}
	return &captureWriter{name: name, file: f, buf: bufio.NewWriterSize(f, captureBuffer), pcap: pcap, port: port, links: map[linkType]int{}}, nil
}

// write appends a frame of length bytes, of which data was captured.
func (w *captureWriter) write(kind linkType, at time.Time, data []byte, length int) error {
	i, err := w.begin(kind)
	if err != nil {
		return fmt.Errorf("write capture %s: %w", w.name, err)
	}
	ci := gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(data), Length: length, InterfaceIndex: i}
	if w.pcap {
		err = w.plain.WritePacket(ci, data)
	} else {
		err = w.ng.WritePacket(ci, data)
	}
	if err != nil {
		return fmt.Errorf("write capture %s: %w", w.name, err)
	}
	return nil
}

// begin makes the file ready for frames of a link type and returns its interface number.
func (w *captureWriter) begin(kind linkType) (int, error) {
	if w.pcap {
		if w.plain == nil {
			w.plain, w.link = pcapgo.NewWriterNanos(w.buf), kind
			return 0, w.plain.WriteFileHeader(maxSnapLength, layers.LinkType(kind))
		}
		if kind != w.link {
			return 0, fmt.Errorf("a pcap file holds one link type: %v after %v (pcapng holds several)", kind, w.link)
		}
		return 0, nil
	}
	if i, ok := w.links[kind]; ok {
		return i, nil
	}
	dev := pcapgo.NgInterface{Name: w.port, LinkType: layers.LinkType(kind), SnapLength: 0, TimestampResolution: 9}
	i := 0
	var err error
	if w.ng == nil {
		info := pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "corewire"}}
		w.ng, err = pcapgo.NewNgWriterInterface(w.buf, dev, info)
	} else {
		i, err = w.ng.AddInterface(dev)
	}
	if err == nil {
		w.links[kind] = i
	}
	return i, err
}

// maxSnapLength is MAXIMUM_SNAPLEN of tcpdump and libpcap.
const maxSnapLength = 262144

// close completes the file. One without frames gets a header of link type kind.
func (w *captureWriter) close(kind linkType) error {
	var errs []error
	if w.plain == nil && w.ng == nil {
		_, err := w.begin(kind)
		errs = append(errs, err)
	}
	if w.ng != nil {
		errs = append(errs, w.ng.Flush())
	}
	errs = append(errs, w.buf.Flush(), w.file.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write capture %s: %w", w.name, err)
	}
	return nil
}
