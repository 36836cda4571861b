package conntrack

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// sctpLine builds a packet from words: direction, the tag by name, and chunks: "> 0 init:A" is an INIT of the client
// with tag 0 that offers tag A. A and B are the tags that the client and the server offered; X is a wrong one.
func sctpLine(t *testing.T, line string) []byte {
	t.Helper()
	tags := map[string]uint32{"0": 0, "A": 0xa0a0a0a0, "B": 0xb1b1b1b1, "X": 0xdeadbeef}
	kinds := map[string]uint8{"data": 0, "init": 1, "initack": 2, "sack": 3, "heartbeat": 4, "heartbeatack": 5, "abort": 6, "shutdown": 7,
		"shutdownack": 8, "error": 9, "echo": 10, "cookieack": 11, "complete": 14, "odd": 200}
	f := strings.Fields(line)
	src, dst := streamClient, streamServer
	if f[0] == "<" {
		src, dst = dst, src
	}
	tag, ok := tags[f[1]]
	if !ok {
		t.Fatalf("tag %q in %q", f[1], line)
	}
	var chunks []byte
	for _, w := range f[2:] {
		name, offer, _ := strings.Cut(w, ":")
		name, reflected := strings.CutSuffix(name, "/t")
		if name == "zero" { // a chunk with length 0
			chunks = append(chunks, 0, 0, 0, 0)
			continue
		}
		kind, ok := kinds[name]
		if !ok {
			t.Fatalf("chunk %q in %q", w, line)
		}
		flags := uint8(0)
		if reflected {
			flags = 1
		}
		body := make([]byte, 16)
		binary.BigEndian.PutUint32(body, tags[offer])
		if offer == "short" {
			body = body[:12]
		}
		chunks = append(chunks, packettest.SCTPChunk(kind, flags, body)...)
	}
	return packettest.NewSCTP(src, dst, tag, chunks)
}

var sctpReasons = map[Reason]string{ReasonSCTPChunk: "(chunk)", ReasonSCTPVtag: "(tag)", ReasonSCTPState: "(state)"}

// TestSCTPScripts holds the rules of nf_conntrack_proto_sctp.c. After => stand the state, the entry's state, the seconds
// left, U for UNREPLIED and A for ASSURED.
func TestSCTPScripts(t *testing.T) {
	const open = `
		> 0 init:A => NEW CLOSED 10 U
		< A initack:B => ESTABLISHED COOKIE_WAIT 3
		> B echo => ESTABLISHED COOKIE_ECHOED 3
		< A cookieack => ESTABLISHED ESTABLISHED 210 A`
	for _, s := range []struct{ name, text string }{
		{"association and shutdown", open + `
		> B data sack => ESTABLISHED ESTABLISHED 210 A
		> B shutdown => ESTABLISHED SHUTDOWN_SENT 3 A
		< A shutdownack => ESTABLISHED SHUTDOWN_ACK_SENT 3 A
		> B complete => ESTABLISHED CLOSED 10 A`},
		{"shutdown by the server", open + `
		< A shutdown => ESTABLISHED SHUTDOWN_RECD 3 A
		> B shutdownack => ESTABLISHED SHUTDOWN_ACK_SENT 3 A
		< A complete => ESTABLISHED CLOSED 10 A`},
		{"a repeated INIT does not refresh", `
		> 0 init:A => NEW CLOSED 10 U
		wait 4
		> 0 init:A => NEW CLOSED 6 U`},
		{"abort, by either tag", open + `
		> A abort => INVALID(tag) ESTABLISHED 210 A
		> A abort/t => ESTABLISHED CLOSED 10 A`},
		{"wrong tags", open + `
		> X data => INVALID(tag) ESTABLISHED 210 A
		> X shutdown => INVALID(tag) ESTABLISHED 210 A
		> X echo => INVALID(tag) ESTABLISHED 210 A
		> X complete => INVALID(tag) ESTABLISHED 210 A
		> X init:A => INVALID(tag) ESTABLISHED 210 A`},
		{"an INIT ACK with another tag than the one known", `
		> 0 init:A => NEW CLOSED 10 U
		< A initack:B => ESTABLISHED COOKIE_WAIT 3
		< A initack:X => ESTABLISHED COOKIE_WAIT 3
		< A initack:B => ESTABLISHED COOKIE_WAIT 3
		> B echo => ESTABLISHED COOKIE_ECHOED 3
		< A cookieack => ESTABLISHED ESTABLISHED 210 A
		< A initack:X => INVALID(tag) ESTABLISHED 210 A`},
		{"chunks that must be alone or first", `
		> 0 init:A data => INVALID(chunk) gone
		> 0 data init:A => INVALID(chunk) gone
		> 0 zero => INVALID(chunk) gone
		> 0 => INVALID(chunk) gone
		> 0 heartbeat echo => INVALID(chunk) gone
		> 0 init:short => INVALID(tag) gone`},
		{"what cannot begin an association", `
		> A data => INVALID(state) gone
		> A abort => INVALID(state) gone
		> A complete => INVALID(state) gone
		> A cookieack => INVALID(state) gone
		> A odd => INVALID(state) gone
		> A init:A => INVALID(tag) gone`},
		{"a further path begins with a heartbeat", `
		> B heartbeat => NEW HEARTBEAT_SENT 30 U
		< A heartbeatack => ESTABLISHED ESTABLISHED 210 A
		> B data => ESTABLISHED ESTABLISHED 210 A`},
		{"a heartbeat with a foreign tag, answered", open + `
		wait 10
		> X heartbeat => ESTABLISHED ESTABLISHED 200 A
		< B heartbeatack => ESTABLISHED ESTABLISHED 210 A
		< B data => ESTABLISHED ESTABLISHED 210 A
		< A data => INVALID(tag) ESTABLISHED 210 A`},
		{"an answer to no foreign heartbeat", open + `
		< X heartbeatack => INVALID(tag) ESTABLISHED 210 A
		> X heartbeat data => INVALID(tag) ESTABLISHED 210 A`},
		{"out of the blue SHUTDOWN ACK", `
		> A shutdownack => NEW SHUTDOWN_ACK_SENT 3 U
		< A complete => ESTABLISHED CLOSED 10`},
		{"a stale cookie", `
		> 0 init:A => NEW CLOSED 10 U
		< A initack:B => ESTABLISHED COOKIE_WAIT 3
		> B echo => ESTABLISHED COOKIE_ECHOED 3
		< A error => ESTABLISHED CLOSED 10`},
	} {
		t.Run(s.name, func(t *testing.T) {
			r := newRig(t, Config{})
			for line := range strings.Lines(strings.TrimSpace(s.text)) {
				line = strings.TrimSpace(line)
				if rest, ok := strings.CutPrefix(line, "wait "); ok {
					r.after(Tick(number(t, rest)) * 1000)
					continue
				}
				left, want, _ := strings.Cut(line, " => ")
				c := r.track(sctpLine(t, left))
				if c.Fresh {
					r.tab.Confirm(&c, r.now)
				}
				got := strings.ToUpper(c.State.String())
				if c.State == StateInvalid {
					got += sctpReasons[r.tab.Why()]
				}
				var list [2]Info
				if n, _ := r.tab.Dump(0, list[:], r.now); n == 0 {
					got += " gone"
				} else {
					i := &list[0]
					got += fmt.Sprintf(" %s %d", sctpStateNames[i.State], (i.Left+999)/1000)
					if i.Status&StatusSeenReply == 0 {
						got += " U"
					}
					if i.Status&StatusAssured != 0 {
						got += " A"
					}
				}
				if got != want {
					t.Fatalf("%s\n gives %s", line, got)
				}
			}
		})
	}
}

// FuzzSCTP: no packet panics, no state is outside of the table, and nothing is written for a packet that begins nothing.
func FuzzSCTP(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 0, 0, 1, 0, 0, 20, 9, 9, 9, 9})
	f.Fuzz(func(t *testing.T, in []byte) {
		set := DefaultSettings()
		var s sctpState
		state := sctpNone
		for len(in) > 2 {
			n := min(int(in[1]), len(in)-2)
			head := append([]byte{0, 1, 0, 2}, make([]byte, 8)...)
			p := packet.Packet{Frame: append(head, in[2:2+n]...), End: uint32(12 + n)}
			dir := Dir(in[0] & 1)
			in = in[2+n:]
			var o outcome
			if state == sctpNone {
				s = sctpState{}
				if o = sctpNew(&s, &p, 0, set); o.act == actInvalid {
					continue
				}
			} else {
				o = sctpPacket(&s, state, dir, 0, &p, 0, set)
			}
			if state = o.state; state == sctpNone || state >= sctpTimeouts {
				t.Fatalf("state %d", state)
			}
		}
	})
}

// TestSCTPAllocations: no packet allocates.
func TestSCTPAllocations(t *testing.T) {
	set := DefaultSettings()
	parse := func(line string) packet.Packet {
		p := packet.Packet{Frame: sctpLine(t, line)}
		packet.Parse(&p)
		return p
	}
	first, second := parse("> 0 init:A"), parse("< A initack:B")
	if n := testing.AllocsPerRun(100, func() {
		var s sctpState
		o := sctpNew(&s, &first, 0, set)
		sctpPacket(&s, o.state, Reply, 0, &second, 0, set)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
