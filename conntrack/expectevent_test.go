package conntrack

import (
	"encoding/xml"
	"slices"
	"strings"
	"testing"

	"corewire/internal/packet"
)

// expectSink is an ExpectSink.
type expectSink struct {
	events []ExpectEvent
	room   int
}

func (s *expectSink) Push(e []ExpectEvent) int {
	n := min(len(e), s.room-len(s.events))
	s.events = append(s.events, e[:n]...)
	return n
}

func (s *expectSink) take() []string {
	var out []string
	for i := range s.events {
		e := &s.events[i]
		line := string(e.AppendEvent(nil, FormatConntrack))
		head, _, _ := strings.Cut(line, " mask-")
		out = append(out, head)
		if err := xml.Unmarshal(e.AppendEventXML(nil), new(struct{})); err != nil {
			panic(err)
		}
	}
	s.events = s.events[:0]
	return out
}

// TestExpectEvents: whoever listens is told when something is expected, and when it no longer is, for whatever reason;
// nothing is told of PPTP call ids, and a new deadline is no event.
func TestExpectEvents(t *testing.T) {
	x, err := NewExpectations(4)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	s := &expectSink{room: 100}
	x.Listen(s)
	key := packet.Key{A: addr4(0x0a000001), B: addr4(0x0a000002), APort: 1000, BPort: 21, Proto: packet.ProtoTCP, Family: 4}
	m := &master{key: &key, helper: HelperFTP}
	want := func(dport uint16) *wanted {
		return &wanted{tuple: expectTuple{key.B, key.A, makePorts(0, dport, 0, packet.ProtoTCP, 4)}, flags: expectAnyPt, policy: policy{1, 300_000}}
	}
	check := func(what string, lines ...string) {
		t.Helper()
		if got := s.take(); !slices.Equal(got, lines) {
			t.Errorf("%s: %q, want %q", what, got, lines)
		}
	}
	line := func(kind string, left string, dport string) string {
		return kind + " " + left + " proto=6 src=10.0.0.2 dst=10.0.0.1 sport=0 dport=" + dport
	}
	const fresh, gone = "    [NEW]", "[DESTROY]"

	x.expect(m, want(2000), 5000)
	check("made", line(fresh, "300", "2000"))
	x.expect(m, want(2000), 7000)
	check("replaced by the same", line(gone, "298", "2000"), line(fresh, "300", "2000"))
	x.expect(m, want(2001), 8000)
	check("the oldest gave way", line(gone, "299", "2000"), line(fresh, "300", "2001"))
	if !x.refresh(m, 0, key.A, 2001, packet.ProtoTCP, 500_000) {
		t.Error("not refreshed")
	}
	check("refreshed")
	var e expected
	c := expectTuple{key.B, key.A, makePorts(20, 2001, 0, packet.ProtoTCP, 4)}
	if !x.claim(&c, 9000, &e) {
		t.Error("not expected")
	}
	check("it came", line(gone, "491", "2001"))
	x.expect(m, want(2002), 10_000)
	s.take()
	x.swept.Store(400_000 - 100)
	x.sweep(400_000)
	check("its time is over", line(gone, "0", "2002"))
	x.expect(m, want(2003), 500_000)
	s.take()
	x.forget(m)
	check("its master has gone", line(gone, "300", "2003"))

	call := expectTuple{key.A, key.B, makePorts(5, 6, 0, packet.ProtoGRE, 4)}
	p := &master{key: &key, helper: HelperPPTP}
	x.connectCall(p, &call, 500_000)
	check("a call, both ways", "    [NEW] 300 proto=47 src=10.0.0.1 dst=10.0.0.2 srckey=0x5 dstkey=0x6", "    [NEW] 300 proto=47 src=10.0.0.2 dst=10.0.0.1 srckey=0x6 dstkey=0x5")
	out := make([]ExpectInfo, 8)
	if n, _ := x.Delete(0, out, func(i *ExpectInfo) bool { return i.DstPort == 6 }, 501_000); n != 1 || out[0].DstPort != 6 {
		t.Errorf("%d deleted: %+v", n, out[:n])
	}
	check("deleted", "[DESTROY] 299 proto=47 src=10.0.0.1 dst=10.0.0.2 srckey=0x5 dstkey=0x6")
	if x.Len() != 1 || x.calls.Load() != 2 {
		t.Errorf("%d expected, %d call ids", x.Len(), x.calls.Load())
	}
	if n := x.Flush(); n != 1 {
		t.Errorf("%d flushed", n)
	}
	check("flushed", "[DESTROY] 299 proto=47 src=10.0.0.2 dst=10.0.0.1 srckey=0x6 dstkey=0x5")
	x.Listen(nil)
	x.expect(m, want(1), 502_000)
	check("nobody listens")
}

// TestExpectXML: the forms that the conntrack tool (1.4.7) printed of an expectation on Linux 6.18.
func TestExpectXML(t *testing.T) {
	x := ExpectInfo{Src: packet.Addr{Lo: 1}, Dst: packet.Addr{Lo: 1}, DstPort: 2056, AnyPort: true, Proto: packet.ProtoTCP, Family: 6, Helper: HelperFTP, Left: 299_900,
		Master: packet.Key{A: packet.Addr{Lo: 1}, B: packet.Addr{Lo: 1}, APort: 21, BPort: 33756, Proto: packet.ProtoTCP, Family: 6}, MasterFlipped: true}
	const want = `<flow><layer3 protonum="10" protoname="ipv6"><expected><src>::1</src><dst>::1</dst></expected><mask><src>ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff</src><dst>ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff</dst></mask><master><src>::1</src><dst>::1</dst></master></layer3><layer4 protonum="6" protoname="tcp"><expected><sport>0</sport><dport>2056</dport></expected><mask><sport>0</sport><dport>65535</dport></mask><master><sport>33756</sport><dport>21</dport></master></layer4><meta><helper-name>ftp</helper-name><timeout>299</timeout><class>0</class></meta></flow>`
	if got := string(x.AppendXML(nil)); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}
