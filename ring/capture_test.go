package ring

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"corewire/internal/packet"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// testRecord is a frame of a test capture.
type testRecord struct {
	at     int64 // ns since 1970
	link   linkType
	data   []byte
	length int // on the wire; 0: len(data)
}

func (r testRecord) wire() int { return max(r.length, len(r.data)) }

// pcap returns a capture file in the given byte order, of resolution ns per tick (1 or 1000).
func pcap(order binary.AppendByteOrder, resolution int64, link linkType, rs ...testRecord) []byte {
	magic := uint32(0xa1b2c3d4)
	if resolution == 1 {
		magic = 0xa1b23c4d
	}
	b := order.AppendUint32(nil, magic)
	b = order.AppendUint16(order.AppendUint16(b, 2), 4)
	b = order.AppendUint32(order.AppendUint32(b, 0), 0)
	b = order.AppendUint32(order.AppendUint32(b, 262144), uint32(link))
	for _, r := range rs {
		b = order.AppendUint32(order.AppendUint32(b, uint32(r.at/1e9)), uint32(r.at%1e9/resolution))
		b = order.AppendUint32(order.AppendUint32(b, uint32(len(r.data))), uint32(r.wire()))
		b = append(b, r.data...)
	}
	return b
}

// pcapng returns a capture file in the given byte order with an interface per link type; those with an odd number
// have nanoseconds, the others the default of microseconds.
func pcapng(order binary.AppendByteOrder, rs ...testRecord) []byte {
	block := func(b []byte, kind uint32, body []byte) []byte {
		for len(body)%4 != 0 {
			body = append(body, 0)
		}
		n := uint32(len(body) + 12)
		b = order.AppendUint32(order.AppendUint32(b, kind), n)
		return order.AppendUint32(append(b, body...), n)
	}
	section := order.AppendUint16(order.AppendUint16(order.AppendUint32(nil, 0x1a2b3c4d), 1), 0)
	b := block(nil, 0x0a0d0d0a, order.AppendUint64(section, 1<<64-1))
	seen := map[linkType]uint32{}
	for _, r := range rs {
		i, ok := seen[r.link]
		if !ok {
			i = uint32(len(seen))
			seen[r.link] = i
			d := order.AppendUint32(order.AppendUint16(order.AppendUint16(nil, uint16(r.link)), 0), 0)
			if i%2 == 1 {
				d = order.AppendUint16(order.AppendUint16(d, 9), 1) // if_tsresol
				d = append(d, 9, 0, 0, 0, 0, 0, 0, 0)               // and the end of options
			}
			b = block(b, 1, d)
		}
		ticks := uint64(r.at)
		if i%2 == 0 {
			ticks /= 1000
		}
		p := order.AppendUint32(order.AppendUint32(order.AppendUint32(nil, i), uint32(ticks>>32)), uint32(ticks))
		p = order.AppendUint32(order.AppendUint32(p, uint32(len(r.data))), uint32(r.wire()))
		b = block(b, 6, append(p, r.data...))
	}
	return b
}

func file(t testing.TB, name string, data []byte) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// play reads a capture to its end, forwards every frame, and returns what Next said and the frames.
func play(t testing.TB, w *Capture) (infos []Captured, frames [][]byte, err error) {
	t.Helper()
	for {
		info, err := w.Next()
		if err != nil {
			balance(t, []Wire{w}, 0)
			return infos, frames, err
		}
		var f [4]packet.Frame
		if n := w.Receive(info.Port.Other(), f[:]); n != 0 {
			t.Fatalf("frame %d of %v was received at the other port", info.Number, info.Port)
		}
		balance(t, []Wire{w}, 0)
		if n := w.Receive(info.Port, f[:]); n != 1 {
			t.Fatalf("frame %d: received %d frames", info.Number, n)
		}
		balance(t, []Wire{w}, 1)
		if n := w.Receive(info.Port, f[1:]); n != 0 {
			t.Fatalf("frame %d was received twice", info.Number)
		}
		if info.Truncated != (len(f[0].Data) < info.Length) {
			t.Errorf("frame %d: %d bytes of %d, truncated %v", info.Number, len(f[0].Data), info.Length, info.Truncated)
		}
		infos, frames = append(infos, info), append(frames, bytes.Clone(f[0].Data))
		if n := w.Send(info.Port.Other(), f[:1]); n != 1 {
			t.Fatalf("frame %d was not sent", info.Number)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

func byFirst(frame []byte) packet.Port { return packet.Port(frame[len(frame)-1] & 1) }

const second = int64(1e9)

// ip4 is enough of a datagram for the link layer to know one.
func ip(version byte, n int, tag byte) []byte {
	b := bytes.Repeat([]byte{tag}, n)
	b[0] = version<<4 | 5
	return b
}

func ether(b []byte) []byte {
	return append(append([]byte("ABCDEFabcdef"), 0x08, 0x00), b...)
}

// TestCaptureFormats reads the same frames from every kind of file and writes them again.
func TestCaptureFormats(t *testing.T) {
	rs := []testRecord{
		{at: 1_700_000_000*second + 123456000, link: linkEthernet, data: ether(ip(4, 50, 1))},
		{at: 1_700_000_000*second + 123457000, link: linkEthernet, data: ether(ip(4, 81, 2))},
		{at: 1_700_000_001*second + 999999000, link: linkEthernet, data: ether(ip(4, 33, 3)), length: 1500},
		{at: 1_700_000_001*second + 1000, link: linkEthernet, data: ether(ip(4, 2, 4))}, // back in time
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(pcap(binary.LittleEndian, 1, linkEthernet, rs...))
	z.Close()
	for name, data := range map[string][]byte{
		"le-us.pcap":  pcap(binary.LittleEndian, 1000, linkEthernet, rs...),
		"be-us.pcap":  pcap(binary.BigEndian, 1000, linkEthernet, rs...),
		"le-ns.pcap":  pcap(binary.LittleEndian, 1, linkEthernet, rs...),
		"be-ns.pcap":  pcap(binary.BigEndian, 1, linkEthernet, rs...),
		"le.pcapng":   pcapng(binary.LittleEndian, rs...),
		"be.pcapng":   pcapng(binary.BigEndian, rs...),
		"zip.pcap.gz": zipped.Bytes(),
		"two.pcapng":  append(pcapng(binary.BigEndian, rs[:2]...), pcapng(binary.LittleEndian, rs[2:]...)...),
	} {
		t.Run(name, func(t *testing.T) {
			in := file(t, name, data)
			for _, ext := range []string{".pcap", ".pcapng"} {
				c := CaptureConfig{File: in, Port: byFirst, OutInside: in + ".i" + ext, OutOutside: in + ".o" + ext}
				w, err := OpenCapture(c)
				if err != nil {
					t.Fatal(err)
				}
				infos, frames, err := play(t, w)
				if err != io.EOF {
					t.Fatal(err)
				}
				if len(frames) != len(rs) {
					t.Fatalf("%d frames", len(frames))
				}
				for i, r := range rs {
					want := Captured{Number: i + 1, Port: byFirst(r.data), Time: time.Unix(0, r.at).UTC(), Length: r.wire(), Truncated: i == 2}
					if infos[i] != want || !bytes.Equal(frames[i], r.data) {
						t.Errorf("frame %d: %+v %x, want %+v %x", i, infos[i], frames[i], want, r.data)
					}
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				// What went out: odd frames arrive outside and leave inside.
				for name, want := range map[string][]testRecord{c.OutInside: {rs[0], rs[2]}, c.OutOutside: {rs[1], rs[3]}} {
					sameFile(t, name, want)
				}
			}
		})
	}
}

// sameFile reads a capture back and compares it.
func sameFile(t *testing.T, name string, want []testRecord) {
	t.Helper()
	r, err := openCapture(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for i, rec := range want {
		if !r.next() {
			t.Fatalf("%s ends before frame %d: %v", name, i, r.err)
		}
		if r.kind != rec.link || !bytes.Equal(r.data, rec.data) || r.length != rec.wire() || r.time.UnixNano() != rec.at {
			t.Errorf("%s frame %d: %v %x of %d at %v, want %v %x of %d", name, i, r.kind, r.data, r.length, r.time, rec.link, rec.data, rec.wire())
		}
	}
	if r.next() || r.err != nil {
		t.Errorf("%s has more frames than %d, or an error: %v", name, len(want), r.err)
	}
}

// TestCaptureLinkTypes: every link type becomes Ethernet with the right type, and itself again in the output.
func TestCaptureLinkTypes(t *testing.T) {
	sll := func(kind uint16) []byte {
		return append(bytes.Repeat([]byte{9}, 14), byte(kind>>8), byte(kind))
	}
	sll2 := func(kind uint16) []byte {
		return append([]byte{byte(kind >> 8), byte(kind)}, bytes.Repeat([]byte{8}, 18)...)
	}
	cat := func(a, b []byte) []byte { return append(bytes.Clone(a), b...) }
	v4, v6 := ip(4, 40, 2), ip(6, 60, 2)
	var rs []testRecord
	var want [][]byte // the Ethernet frames
	for _, c := range []struct {
		link   linkType
		header []byte
		data   []byte
		kind   uint16
	}{
		{linkEthernet, nil, ether(v4), 0},
		{linkRaw, nil, v4, etherIPv4},
		{linkRaw, nil, v6, etherIPv6},
		{linkRaw, nil, ip(7, 20, 2), 0},
		{linkIPv4, nil, v4, etherIPv4},
		{linkIPv6, nil, v6, etherIPv6},
		{linkNull, []byte{2, 0, 0, 0}, v4, etherIPv4},
		{linkNull, []byte{0, 0, 0, 2}, v4, etherIPv4},
		{linkNull, []byte{30, 0, 0, 0}, v6, etherIPv6},
		{linkNull, []byte{0, 0, 0, 24}, v6, etherIPv6},
		{linkNull, []byte{7, 0, 0, 0}, v6, 0},
		{linkLoop, []byte{0, 0, 0, 2}, v4, etherIPv4},
		{linkLoop, []byte{0, 0, 0, 24}, v6, etherIPv6},
		{linkSLL, sll(0x0800), v4, etherIPv4},
		{linkSLL, sll(0x86dd), v6, etherIPv6},
		{linkSLL, sll(0x0806), v6, 0x0806},
		{linkSLL2, sll2(0x0800), v4, etherIPv4},
		{linkSLL2, sll2(0x8100), v4, 0x8100},
	} {
		rs = append(rs, testRecord{at: int64(len(rs)) * second, link: c.link, data: cat(c.header, c.data)})
		if c.link == linkEthernet {
			want = append(want, c.data)
		} else {
			want = append(want, cat(cat(syntheticMAC[:], []byte{byte(c.kind >> 8), byte(c.kind)}), c.data))
		}
	}
	in := file(t, "all.pcapng", pcapng(binary.LittleEndian, rs...))
	out := filepath.Join(t.TempDir(), "out.pcapng")
	w, err := OpenCapture(CaptureConfig{Inside: in, OutOutside: out})
	if err != nil {
		t.Fatal(err)
	}
	_, frames, err := play(t, w)
	if err != io.EOF || len(frames) != len(rs) {
		t.Fatalf("%d frames, %v", len(frames), err)
	}
	for i := range rs {
		if !bytes.Equal(frames[i], want[i]) {
			t.Errorf("frame %d of link type %v became\n%x, want\n%x", i, rs[i].link, frames[i], want[i])
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sameFile(t, out, rs)

	// pcap files of each link type alone, and what their numbers become.
	for link, to := range map[linkType]linkType{12: 101, 14: 101, 101: 101, 228: 228, 113: 113, 276: 276} {
		data := v4
		if n, _ := link.headerSize(); n > 0 {
			data = cat(bytes.Repeat([]byte{0}, n), v4)
		}
		in := file(t, "in.pcap", pcap(binary.BigEndian, 1, link, testRecord{at: 5, data: data}))
		out := in + ".out.pcap"
		w, err := OpenCapture(CaptureConfig{Outside: in, OutInside: out})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := play(t, w); err != io.EOF {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		sameFile(t, out, []testRecord{{at: 5, link: to, data: data}})
	}
	// Two link types do not fit into one pcap file.
	w, err = OpenCapture(CaptureConfig{Inside: in, OutOutside: out + ".pcap"})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		var f [1]packet.Frame
		if _, e := w.Next(); e != nil {
			break
		}
		w.Send(packet.Outside, f[:w.Receive(packet.Inside, f[:])])
		err = w.Flush()
	}
	if err == nil || !strings.Contains(err.Error(), "one link type: 101 (Raw) after 1 (Ethernet)") {
		t.Errorf("several link types in a pcap file: %v", err)
	}
	if w.Close() == nil {
		t.Error("Close forgot the error")
	}
}

// TestCaptureMerge merges two files by time.
func TestCaptureMerge(t *testing.T) {
	at := func(tag byte, times ...int64) []byte {
		var rs []testRecord
		for _, s := range times {
			rs = append(rs, testRecord{at: s, data: ether(ip(4, 30, tag))})
		}
		return pcap(binary.LittleEndian, 1, linkEthernet, rs...)
	}
	w, err := OpenCapture(CaptureConfig{
		Inside:  file(t, "in.pcap", at(1, 10, 20, 20, 50, 40, 41)),
		Outside: file(t, "out.pcap", at(2, 5, 20, 30, 45)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	infos, _, err := play(t, w)
	if err != io.EOF {
		t.Fatal(err)
	}
	got := ""
	for _, c := range infos {
		got += fmt.Sprintf("%c%d ", c.Port.String()[0], c.Time.UnixNano())
	}
	if want := "o5 i10 i20 i20 o20 o30 o45 i50 i40 i41 "; got != want {
		t.Errorf("merged to %s, want %s", got, want)
	}
}

// TestCaptureTruncated cuts files at every byte: the frames before come, then an error that says which one is damaged.
func TestCaptureTruncated(t *testing.T) {
	rs := []testRecord{{at: 1000, link: 1, data: ether(ip(4, 30, 1))}, {at: 2000, link: 1, data: ether(ip(4, 41, 1))}}
	for name, make := range map[string]func(...testRecord) []byte{
		"pcap":   func(rs ...testRecord) []byte { return pcap(binary.LittleEndian, 1, linkEthernet, rs...) },
		"pcapng": func(rs ...testRecord) []byte { return pcapng(binary.BigEndian, rs...) },
	} {
		data := make(rs...)
		whole := map[int]int{} // cuts after which the file is complete, and its frames
		for i := range rs {
			whole[len(make(rs[:i+1]...))] = i + 1
		}
		header := len(make())
		whole[header] = 0
		if name == "pcapng" {
			whole[len(make(rs[0]))-12-20-44] = 0 // behind the interface description
		}
		for cut := range data {
			path := file(t, "cut", data[:cut])
			w, err := OpenCapture(CaptureConfig{Inside: path})
			if cut < header {
				if err == nil {
					t.Fatalf("%s cut at %d was opened", name, cut)
				}
				if !strings.Contains(err.Error(), path) {
					t.Errorf("%s cut at %d: %v", name, cut, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			infos, _, err := play(t, w)
			if n, ok := whole[cut]; ok {
				if err != io.EOF || len(infos) != n {
					t.Errorf("%s cut at %d: %d frames and %v, want %d and EOF", name, cut, len(infos), err, n)
				}
			} else if want := fmt.Sprintf("%s frame %d: unexpected EOF (truncated file?)", path, len(infos)+1); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s cut at %d: %v, want %s", name, cut, err, want)
			}
			if _, again := w.Next(); again == nil {
				t.Error("a frame after the end")
			}
			w.Close()
		}
	}
}

func TestCaptureErrors(t *testing.T) {
	good := file(t, "good.pcap", pcap(binary.LittleEndian, 1, linkEthernet, testRecord{data: ether(ip(4, 30, 1))}))
	for _, c := range []struct {
		config CaptureConfig
		want   string
	}{
		{CaptureConfig{}, "no file"},
		{CaptureConfig{File: good}, "nothing says at which port"},
		{CaptureConfig{File: good, Port: byFirst, Inside: good}, "excludes"},
		{CaptureConfig{Inside: good + "x"}, "no such file"},
		{CaptureConfig{Inside: file(t, "empty", nil)}, "is empty"},
		{CaptureConfig{Inside: file(t, "elf", []byte("\x7fELF and so on"))}, "not a pcap or pcapng file: begins with 7f454c46"},
		{CaptureConfig{Inside: file(t, "short", []byte("ab"))}, "too short"},
		{CaptureConfig{Inside: file(t, "wifi", pcap(binary.LittleEndian, 1, 105))}, "link type 105 (802.11) is not supported"},
		{CaptureConfig{Inside: file(t, "odd", pcap(binary.LittleEndian, 1, 9999))}, "link type 9999 is not supported"},
		{CaptureConfig{Inside: good, OutOutside: good}, "it is in use"},
		{CaptureConfig{Inside: good, OutOutside: good + ".o", OutInside: good + ".o"}, "it is in use"},
		{CaptureConfig{Inside: good, OutOutside: filepath.Join(good, "x")}, "not a directory"},
	} {
		w, err := OpenCapture(c.config)
		if err == nil {
			w.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.config, err, c.want)
		}
	}
	// An interface in the middle of a file that nobody can read.
	w, err := OpenCapture(CaptureConfig{Inside: file(t, "mixed", pcapng(binary.LittleEndian,
		testRecord{link: 1, data: ether(ip(4, 30, 1))}, testRecord{link: 105, data: ip(4, 30, 1)}))})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	infos, _, err := play(t, w)
	if len(infos) != 1 || err == nil || !strings.Contains(err.Error(), "mixed frame 2: link type 105") {
		t.Errorf("%d frames, then %v", len(infos), err)
	}
	// A damaged file does not keep the other's frames back.
	bad := pcap(binary.LittleEndian, 1, linkEthernet, testRecord{at: 1, data: ether(ip(4, 30, 1))}, testRecord{at: 2, data: ether(ip(4, 30, 1))})
	w, err = OpenCapture(CaptureConfig{Inside: file(t, "bad", bad[:len(bad)-1]), Outside: file(t, "fine",
		pcap(binary.LittleEndian, 1, linkEthernet, testRecord{at: 7, data: ether(ip(4, 30, 1))}))})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if infos, _, err = play(t, w); len(infos) != 2 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d frames, then %v", len(infos), err)
	}
	// A frame that was not received.
	w2, err := OpenCapture(CaptureConfig{Inside: good})
	if err != nil {
		t.Fatal(err)
	}
	w2.Next()
	if _, err := w2.Next(); err == nil || err == io.EOF {
		t.Errorf("Next over a waiting frame: %v", err)
	}
	w2.Close()
	w2.Close()
}

// TestCaptureLarge: offloaded frames of 64 KiB are whole; frames beyond a chunk are cut and marked.
func TestCaptureLarge(t *testing.T) {
	big, huge := ether(ip(4, 65535, 1)), ether(ip(4, 200_000, 2))
	in := file(t, "big.pcap", pcap(binary.LittleEndian, 1, linkEthernet, testRecord{data: big}, testRecord{data: huge}))
	w, err := OpenCapture(CaptureConfig{Inside: in, OutOutside: in + ".out"})
	if err != nil {
		t.Fatal(err)
	}
	infos, frames, err := play(t, w)
	if err != io.EOF {
		t.Fatal(err)
	}
	if !bytes.Equal(frames[0], big) || infos[0].Truncated {
		t.Errorf("64 KiB frame: %+v", infos[0])
	}
	if room := w.Pool().Room(); !bytes.Equal(frames[1], huge[:room]) || infos[1].Length != len(huge) || !infos[1].Truncated {
		t.Errorf("200 kB frame: %+v, %d bytes", infos[1], len(frames[1]))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sameFile(t, in+".out", []testRecord{{link: 1, data: big}, {link: 1, data: huge[:captureChunk-Headroom], length: len(huge)}})
}

// TestCaptureAlloc: a frame of the firewall's own is written like those that it read.
func TestCaptureAlloc(t *testing.T) {
	v4, v6 := ip(4, 40, 1), ip(6, 60, 1)
	sll := append(bytes.Repeat([]byte{9}, 14), 0x08, 0x00)
	for _, c := range []struct {
		in   testRecord
		want []byte // an IPv6 reply to it
	}{
		{testRecord{link: linkEthernet, data: ether(v4)}, append(append(append([]byte{}, syntheticMAC[:]...), 0x86, 0xdd), v6...)},
		{testRecord{link: linkRaw, data: v4, length: 1000}, v6},
		{testRecord{link: linkNull, data: append([]byte{2, 0, 0, 0}, v4...)}, append([]byte{0, 0, 0, 30}, v6...)},
		{testRecord{link: linkSLL, data: append(bytes.Clone(sll), v4...)}, append(append(bytes.Clone(sll[:14]), 0x86, 0xdd), v6...)},
	} {
		in := file(t, "in.pcap", pcap(binary.LittleEndian, 1, c.in.link, c.in))
		w, err := OpenCapture(CaptureConfig{Inside: in, OutInside: in + ".out"})
		if err != nil {
			t.Fatal(err)
		}
		var f [1]packet.Frame
		w.Next()
		w.Release(f[:w.Receive(packet.Inside, f[:])])
		w.Alloc(f[:])
		b := append(append(append(f[0].Data[:0], syntheticMAC[:]...), 0x86, 0xdd), v6...)
		f[0].Data = f[0].Data[:len(b)]
		w.Send(packet.Inside, f[:])
		balance(t, []Wire{w}, 0)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		sameFile(t, in+".out", []testRecord{{link: c.in.link, data: c.want}})
	}
}

// TestCaptureHeld holds frames back, as fragments are, until no chunk is left.
func TestCaptureHeld(t *testing.T) {
	rs := make([]testRecord, captureChunks+1)
	for i := range rs {
		rs[i] = testRecord{at: int64(i), link: 1, data: ether(ip(4, 30, byte(i)))}
	}
	w, err := OpenCapture(CaptureConfig{Inside: file(t, "many", pcap(binary.LittleEndian, 1, linkEthernet, rs...))})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	held := make([]packet.Frame, captureChunks)
	for i := range held {
		if _, err := w.Next(); err != nil {
			t.Fatal(err)
		}
		w.Receive(packet.Inside, held[i:i+1])
	}
	balance(t, []Wire{w}, captureChunks)
	if _, err := w.Next(); err == nil || err == io.EOF {
		t.Errorf("Next without chunks: %v", err)
	}
	for i := range held {
		if !bytes.Equal(held[i].Data, rs[i].data) {
			t.Fatalf("held frame %d changed", i)
		}
	}
	w.Release(held)
	if info, err := w.Next(); err != nil || info.Number != captureChunks+1 {
		t.Errorf("after release: %+v, %v", info, err)
	}
}

// FuzzCapture plays damaged files: no crash, and the chunks add up.
func FuzzCapture(f *testing.F) {
	rs := []testRecord{
		{at: 1000, link: linkEthernet, data: ether(ip(4, 30, 1))},
		{at: 2000, link: linkSLL2, data: bytes.Repeat([]byte{1}, 60)},
		{at: 3000, link: linkNull, data: []byte{2, 0}, length: 70},
	}
	f.Add(pcapng(binary.LittleEndian, rs...))
	f.Add(pcapng(binary.BigEndian, rs...))
	f.Add(pcap(binary.LittleEndian, 1, linkRaw, rs...))
	f.Add(pcap(binary.BigEndian, 1000, linkSLL, rs...))
	var written bytes.Buffer
	ng, err := pcapgo.NewNgWriter(&written, layers.LinkTypeEthernet)
	if err != nil {
		f.Fatal(err)
	}
	ng.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(1, 2), CaptureLength: 4, Length: 4}, []byte("data"))
	ng.Flush()
	f.Add(written.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		in := file(t, "fuzz", data)
		w, err := OpenCapture(CaptureConfig{File: in, Port: func([]byte) packet.Port { return packet.Outside }, OutInside: in + ".out"})
		if err != nil {
			return
		}
		defer w.Close()
		if _, _, err := play(t, w); err == nil {
			t.Error("no end")
		}
	})
}
