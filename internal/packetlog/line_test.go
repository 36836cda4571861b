package packetlog

import (
	"net/netip"
	"strings"
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// entry makes an entry of a frame as a worker would.
func entry(frame []byte) Entry {
	p := packet.Packet{Frame: frame}
	packet.Parse(&p)
	return Entry{Target: "LOG", In: "eth1", Out: "eth2", Length: len(frame), L3: int(p.L3), End: int(p.End), Frame: frame}
}

var (
	a4, b4 = pt.IP("192.0.2.1"), pt.IP("198.51.100.2")
	a6, b6 = pt.IP("2001:db8::1"), pt.IP("2001:db8::2")
)

// Each form of a line, as the kernel writes it; TestLogLines of tools/oracle compares with a running one.
func TestLine(t *testing.T) {
	plain := func(*Entry) {}
	for _, test := range []struct {
		name  string
		frame []byte
		with  func(*Entry)
		want  string // behind MAC=…
	}{
		{"syn", pt.NewTCP(netip.AddrPortFrom(a4, 1234), netip.AddrPortFrom(b4, 80), packet.SYN), plain,
			"SRC=192.0.2.1 DST=198.51.100.2 LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=0 PROTO=TCP SPT=1234 DPT=80 WINDOW=65535 RES=0x00 SYN URGP=0 "},
		{"mark", pt.NewUDP(netip.AddrPortFrom(a4, 53), netip.AddrPortFrom(b4, 5353)), func(e *Entry) { e.Mark = 0x2a },
			"SRC=192.0.2.1 DST=198.51.100.2 LEN=28 TOS=0x00 PREC=0x00 TTL=64 ID=0 PROTO=UDP SPT=53 DPT=5353 LEN=8 MARK=0x2a "},
		{"six", pt.NewUDP(netip.AddrPortFrom(a6, 53), netip.AddrPortFrom(b6, 5353)), plain,
			"SRC=2001:0db8:0000:0000:0000:0000:0000:0001 DST=2001:0db8:0000:0000:0000:0000:0000:0002 LEN=48 TC=0 HOPLIMIT=64 FLOWLBL=0 PROTO=UDP SPT=53 DPT=5353 LEN=8 "},
		{"other", pt.NewIP(a4, b4, 89), plain,
			"SRC=192.0.2.1 DST=198.51.100.2 LEN=20 TOS=0x00 PREC=0x00 TTL=64 ID=0 PROTO=89 "},
	} {
		e := entry(test.frame)
		test.with(&e)
		e.Prefix = test.name + ": "
		got := string(e.AppendLine(nil))
		head, rest, _ := strings.Cut(got, "SRC=")
		if want := test.name + ": IN=eth1 OUT=eth2 MAC="; !strings.HasPrefix(head, want) {
			t.Errorf("%s: %q, want it to begin with %q", test.name, got, want)
		}
		if "SRC="+rest != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, "SRC="+rest, test.want)
		}
	}
	e := entry(pt.NewUDP(netip.AddrPortFrom(a4, 1), netip.AddrPortFrom(b4, 2)))
	e.Prefix = "a\nb\x1b"
	if got := string(e.AppendLine(nil)); !strings.HasPrefix(got, `a\x0ab\x1bIN=`) {
		t.Errorf("control characters: %q", got)
	}
}

// Whatever was captured, however short: no panic, one line, a bounded length.
func FuzzLine(f *testing.F) {
	for _, frame := range [][]byte{
		pt.NewTCP(netip.AddrPortFrom(a4, 1), netip.AddrPortFrom(b4, 2), packet.SYN), pt.NewUDP(netip.AddrPortFrom(a6, 1), netip.AddrPortFrom(b6, 2)), pt.NewIP(a6, b6, packet.ProtoAH, pt.PayloadLen(20)),
	} {
		f.Add(frame, uint16(len(frame)), uint8(0), uint16(14))
	}
	f.Fuzz(func(t *testing.T, frame []byte, kept uint16, flags uint8, l3 uint16) {
		e := entry(frame)
		if flags&16 != 0 {
			e.L3 = int(l3)
		}
		e.Frame = frame[:min(len(frame), int(kept))]
		e.IPOptions, e.TCPOptions, e.Sequence, e.MACDecode = flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&8 != 0
		b := e.AppendLine(nil)
		if strings.ContainsAny(string(b), "\n\r\x00") {
			t.Errorf("%q", b)
		}
		if len(b) > 4*len(frame)+2000 {
			t.Errorf("%d bytes of %d", len(b), len(frame))
		}
	})
}

// A frame with a VLAN tag: the kernel has taken it out by then, and says so with --log-macdecode.
func TestLineVLAN(t *testing.T) {
	frame := pt.NewUDP(netip.AddrPortFrom(a4, 1), netip.AddrPortFrom(b4, 2), pt.VLAN(7))
	e := entry(frame)
	line := string(e.AppendLine(nil))
	if !strings.Contains(line, ":08:00 SRC=") {
		t.Error(line)
	}
	e.MACDecode = true
	if line = string(e.AppendLine(nil)); !strings.Contains(line, " VPROTO=8100 VID=7 MACPROTO=0800 SRC=") {
		t.Error(line)
	}
}
