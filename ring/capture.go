package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"corewire/internal/packet"
)

// CaptureConfig names the capture files of a Capture: either File and Port, or Inside and Outside or one of them.
type CaptureConfig struct {
	// File holds the frames of both ports; Port says where one arrived. It gets the frame with an Ethernet header,
	// synthetic if need be, and must not keep it.
	File string
	Port func(frame []byte) packet.Port

	// Inside and Outside hold the frames that arrived at that port. They are merged by time, each in its own order;
	// of two frames with the same time, inside's is first.
	Inside, Outside string

	// OutInside and OutOutside get the frames that are sent out of that port: pcapng, or pcap with nanoseconds if
	// the name ends in .pcap. Empty means that nobody wants them.
	OutInside, OutOutside string
}

// Limits of a capture's pool. Its memory is only taken as far as it is used.
const (
	captureChunk  = 128 << 10 // holds any IP datagram and offloaded (GSO) frame; what is longer is cut and marked
	captureChunks = 4096      // most frames that may be held at a time, as fragments for example
)

// Captured describes the frame that Capture.Next made ready.
type Captured struct {
	Number    int         // counts the frames of both ports from 1, in the order of Next
	Port      packet.Port // where it arrived
	Time      time.Time   // from the file, which may run backwards; the frame before's where the file has none
	Length    int         // bytes on the wire, with the synthetic Ethernet header if it has one
	Truncated bool        // the frame is shorter than Length: cut by the capture's snap length, or longer than a chunk
}

// Capture is a Wire that plays capture files. Next makes one frame ready, Receive of its port returns it; frames that
// are sent go to files. There is one worker, and no time passes but the files'.
//
// Frames of link types without Ethernet header (raw IP, BSD loopback, Linux cooked) get a synthetic one, which is taken
// off again before they are written: files keep their link type.
type Capture struct {
	home  *home
	in    []*captureReader // in order of ports, or one
	ports []packet.Port    // of in; only if split is nil
	split func([]byte) packet.Port
	out   [packet.Ports]*captureWriter
	stats [packet.Ports]memoryStats

	ready  bool // frame waits for Receive
	frame  packet.Frame
	now    Captured
	number int
	tag    [tagSize]byte // of the newest frame: Alloc's frames are written like it
	err    error         // first error of writing
	closed bool
}

// A chunk's headroom holds what the frame's file needs and Ethernet has no place for.
//
//	0     2        4         8                28      256
//	┌─────┬────────┬─────────┬─────────────────┬───────┬───────────────
//	│ link│ header │ missing │ link's header   │       │ Ethernet frame
//	│ type│ size   │ bytes   │                 │       │
//	└─────┴────────┴─────────┴─────────────────┴───────┴───────────────
const (
	tagHeader = 8
	tagSize   = tagHeader + maxLinkSize
)

// OpenCapture opens all files. On error nothing is left open; output files that were created stay.
func OpenCapture(c CaptureConfig) (w *Capture, err error) {
	w = &Capture{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.closeFiles())
			w = nil
		}
	}()
	open := func(name string, port packet.Port) error {
		if name == "" {
			return nil
		}
		r, err := openCapture(name)
		if err != nil {
			return err
		}
		w.in, w.ports = append(w.in, r), append(w.ports, port)
		return nil
	}
	switch {
	case c.File != "" && (c.Inside != "" || c.Outside != ""):
		return w, fmt.Errorf("open capture %s: a file for both ports excludes files for each", c.File)
	case c.File != "" && c.Port == nil:
		return w, fmt.Errorf("open capture %s: nothing says at which port a frame arrived", c.File)
	case c.File == "" && c.Inside == "" && c.Outside == "":
		return w, errors.New("open capture: no file")
	case c.File != "":
		w.split = c.Port
		err = open(c.File, packet.Inside)
	default:
		if err = open(c.Inside, packet.Inside); err == nil {
			err = open(c.Outside, packet.Outside)
		}
	}
	if err != nil {
		return w, err
	}
	for p, name := range [packet.Ports]string{packet.Inside: c.OutInside, packet.Outside: c.OutOutside} {
		if name == "" {
			continue
		}
		if err = w.unused(name); err != nil {
			return w, err
		}
		if w.out[p], err = createCapture(name, packet.Port(p).String(), strings.HasSuffix(name, ".pcap")); err != nil {
			return w, err
		}
	}
	pool, err := newPool(PoolConfig{Workers: 1, Chunks: captureChunks, ChunkSize: captureChunk}, mapLazily)
	if err != nil {
		return w, err
	}
	pool.retain()
	w.home = &pool.homes[0]
	binary.LittleEndian.PutUint16(w.tag[:], uint16(linkEthernet))
	for _, r := range w.in {
		r.next()
	}
	return w, nil
}

// unused returns an error if an output file is one of the files in use, by whatever name.
func (w *Capture) unused(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return nil // not there yet, or create says what is wrong
	}
	if !info.Mode().IsRegular() {
		return nil // a pipe or /dev/null may be used twice
	}
	files := []*os.File{}
	for _, r := range w.in {
		files = append(files, r.file)
	}
	for _, out := range w.out {
		if out != nil {
			files = append(files, out.file)
		}
	}
	for _, f := range files {
		if other, err := f.Stat(); err == nil && os.SameFile(info, other) {
			return fmt.Errorf("create capture %s: it is in use as %s", name, f.Name())
		}
	}
	return nil
}

// Pool returns the wire's pool.
func (w *Capture) Pool() *Pool { return w.home.pool }

// Next makes the next frame ready for Receive and describes it. It returns io.EOF after the last one, and an error that
// names file and frame where a file is damaged, after all frames that could be read from all files. It is an error to
// call Next while a frame waits for Receive, or while callers hold all frames.
func (w *Capture) Next() (Captured, error) {
	if w.closed {
		return Captured{}, errors.New("read capture: closed")
	}
	if w.ready {
		return Captured{}, fmt.Errorf("read capture: frame %d was not received", w.now.Number)
	}
	first := -1
	for i, r := range w.in {
		if r.data != nil && (first < 0 || r.time.Before(w.in[first].time)) {
			first = i
		}
	}
	if first < 0 {
		errs := []error{}
		for _, r := range w.in {
			errs = append(errs, r.err)
		}
		if err := errors.Join(errs...); err != nil {
			return Captured{}, err
		}
		return Captured{}, io.EOF
	}
	if len(w.home.free) == 0 {
		return Captured{}, fmt.Errorf("read capture: all %d chunks are held", captureChunks)
	}
	r := w.in[first]
	w.load(r)
	port := w.ports[first]
	if w.split != nil {
		port = w.split(w.frame.Data)
	}
	w.number++
	missing := int(binary.LittleEndian.Uint32(w.tag[4:]))
	w.now = Captured{Number: w.number, Port: port, Time: r.time, Length: len(w.frame.Data) + missing, Truncated: missing > 0}
	w.ready = true
	r.next()
	return w.now, nil
}

// load copies the reader's frame into a chunk, with its tag, as an Ethernet frame.
func (w *Capture) load(r *captureReader) {
	pool := w.home.pool
	base := pool.base(w.home.pop(ownerFill))
	f, _ := pool.frame(base+Headroom, uint32(pool.Room()))
	data := r.data
	size, _ := r.kind.headerSize()
	size = min(size, len(data))
	n := 0
	if r.kind != linkEthernet {
		copy(f.Data, syntheticMAC[:])
		binary.BigEndian.PutUint16(f.Data[12:], r.kind.etherType(data))
		n = etherSize
	}
	k := copy(f.Data[n:], data[size:])
	f.Data = f.Data[:n+k]

	tag := w.tag[:]
	clear(tag)
	binary.LittleEndian.PutUint16(tag, uint16(r.kind.file()))
	binary.LittleEndian.PutUint16(tag[2:], uint16(size))
	binary.LittleEndian.PutUint32(tag[4:], uint32(r.length-size-k))
	copy(tag[tagHeader:], data[:size])
	copy(pool.area[base:], tag)
	w.frame = f
}

// Receive is Wire.Receive. It returns the frame of the last Next, once, if that arrived at port.
func (w *Capture) Receive(port packet.Port, f []packet.Frame) int {
	if !w.ready || w.now.Port != port || len(f) == 0 {
		return 0
	}
	w.home.pool.owners.move(w.home.pool.chunk(w.frame.Addr), ownerFill, ownerCaller)
	f[0] = w.frame
	w.ready, w.frame = false, packet.Frame{}
	w.home.given++
	w.stats[port].rx.Add(1)
	return 1
}

// Send is Wire.Send. It takes all frames and writes them with the time of the last Next. An error of writing comes up in
// Flush and Close; until then frames go nowhere.
func (w *Capture) Send(port packet.Port, f []packet.Frame) int {
	for i := range f {
		if out := w.out[port]; out != nil && w.err == nil {
			w.err = w.write(out, &f[i])
		}
	}
	w.home.put(f)
	w.stats[port].tx.Add(uint64(len(f)))
	return len(f)
}

// write writes a frame as it came: with its own link-layer header instead of the synthetic one.
func (w *Capture) write(out *captureWriter, f *packet.Frame) error {
	pool := w.home.pool
	base := pool.base(pool.chunk(f.Addr))
	tag := pool.area[base : base+tagSize]
	kind := linkType(binary.LittleEndian.Uint16(tag))
	missing := int(binary.LittleEndian.Uint32(tag[4:]))
	data := f.Data
	if kind != linkEthernet && len(data) >= etherSize {
		size := int(binary.LittleEndian.Uint16(tag[2:]))
		header := tag[tagHeader : tagHeader+size]
		if full, _ := kind.headerSize(); size == full {
			kind.setEtherType(header, binary.BigEndian.Uint16(data[12:]))
		}
		// The header's place is in front of the datagram, over the synthetic one and the headroom.
		at := f.Addr + etherSize - uint64(size)
		data = pool.area[at : f.Addr+uint64(len(data))]
		copy(data, header)
	}
	return out.write(kind, w.now.Time, data, len(data)+missing)
}

// Release is Wire.Release.
func (w *Capture) Release(f []packet.Frame) { w.home.put(f) }

// Alloc is Wire.Alloc. The frames are written with the link type of the last frame read; if that is not Ethernet, the
// Ethernet header that the caller puts in front is only looked at for its type.
func (w *Capture) Alloc(f []packet.Frame) int {
	n := w.home.alloc(f)
	for i := range f[:n] {
		tag := w.home.pool.area[w.home.pool.base(w.home.pool.chunk(f[i].Addr)):]
		copy(tag, w.tag[:])
		binary.LittleEndian.PutUint32(tag[4:], 0) // nothing is missing
	}
	return n
}

// Flush is Wire.Flush. It returns the first error of writing.
func (w *Capture) Flush() error { return w.err }

// Wait is Wire.Wait. Nothing arrives by waiting: it returns at once.
func (w *Capture) Wait(time.Duration) error { return nil }

// Wake is Wire.Wake and does nothing, since Wait does not sleep.
func (w *Capture) Wake() {}

// Account is Wire.Account.
func (w *Capture) Account(a *Account) {
	w.home.account(a)
	if w.ready {
		a.RX = 1
	}
}

// Stats is Wire.Stats.
func (w *Capture) Stats(s *Stats) {
	*s = Stats{}
	for i := range w.stats {
		s.Port[i].RX = w.stats[i].rx.Load()
		s.Port[i].TX = w.stats[i].tx.Load()
	}
}

// Close is Wire.Close. It completes the output files; an error means that one of them is not complete.
func (w *Capture) Close() error {
	if w.closed {
		return nil
	}
	w.closed = true
	return errors.Join(w.err, w.closeFiles(), w.home.pool.release())
}

func (w *Capture) closeFiles() error {
	var errs []error
	kind := linkEthernet
	if len(w.in) > 0 && !w.in[0].mixed {
		kind = w.in[0].link.file()
	}
	for _, out := range w.out {
		if out != nil {
			errs = append(errs, out.close(kind))
		}
	}
	for _, r := range w.in {
		errs = append(errs, r.close())
	}
	return errors.Join(errs...)
}

var _ Wire = (*Capture)(nil)
