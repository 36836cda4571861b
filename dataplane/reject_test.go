package dataplane

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/rules"
)

// rejected are the frames of TestRejectBytes.
func rejected() (names []string, frames map[string][]byte) {
	frames = make(map[string][]byte)
	add := func(name string, b []byte) {
		names = append(names, name)
		frames[name] = b
	}
	for _, v := range []struct {
		name string
		a, b string
	}{{"v4", "10.0.0.1", "10.0.0.2"}, {"v6", "[2001:db8::1]", "[2001:db8::2]"}} {
		a, b := pt.AP(v.a+":40000"), pt.AP(v.b+":80")
		add(v.name+"-syn", pt.NewTCP(a, b, syn, pt.Seq(1000), pt.Window(100), pt.TCPOptions(pt.MSS(1460), pt.SACKPermitted()), pt.TOS(0x28)))
		add(v.name+"-ack", pt.NewTCP(a, b, ack, pt.Seq(1000), pt.Ack(77), pt.PayloadLen(33)))
		add(v.name+"-fin", pt.NewTCP(a, b, packet.FIN, pt.Seq(1<<32-2), pt.PayloadLen(5)))
		add(v.name+"-null", pt.NewTCP(a, b, 0, pt.Seq(5), pt.PayloadLen(1200)))
		add(v.name+"-rst", pt.NewTCP(a, b, rst, pt.Seq(5)))
		add(v.name+"-rst-ack", pt.NewTCP(a, b, rst|ack, pt.Seq(5), pt.Ack(6)))
		add(v.name+"-tcp-bad", pt.NewTCP(a, b, syn, pt.BadChecksum()))
		add(v.name+"-tcp-short", pt.NewIP(a.Addr(), b.Addr(), 6, pt.PayloadLen(16)))
		add(v.name+"-udp", pt.NewUDP(a, b, pt.PayloadLen(30)))
		add(v.name+"-udp-odd", pt.NewUDP(a, b, pt.PayloadLen(31)))
		add(v.name+"-udp-long", pt.NewUDP(a, b, pt.PayloadLen(1400)))
		add(v.name+"-udp-bad", pt.NewUDP(a, b, pt.PayloadLen(30), pt.BadChecksum()))
		add(v.name+"-udp-none", pt.NewUDP(a, b, pt.PayloadLen(30), pt.NoChecksum()))
		add(v.name+"-udplite", pt.NewUDPLite(a, b, pt.PayloadLen(30)))
		add(v.name+"-sctp", pt.NewSCTP(a, b, 1, nil, pt.PayloadLen(30)))
		add(v.name+"-gre", pt.NewGRE(a.Addr(), b.Addr(), 0x800, pt.PayloadLen(40)))
		add(v.name+"-ospf", pt.NewIP(a.Addr(), b.Addr(), 89, pt.PayloadLen(40)))
		add(v.name+"-echo", pt.Echo(a.Addr(), b.Addr(), 7, 1, pt.PayloadLen(40)))
		add(v.name+"-echo-reply", pt.EchoReply(a.Addr(), b.Addr(), 7, 1, pt.PayloadLen(40)))
		add(v.name+"-echo-bad", pt.Echo(a.Addr(), b.Addr(), 7, 1, pt.PayloadLen(40), pt.BadChecksum()))
		quoted := pt.NewUDP(b, a, pt.PayloadLen(30))
		typ := uint8(3)
		if v.name == "v6" {
			typ = 1
		}
		add(v.name+"-unreachable", pt.NewICMPError(a.Addr(), b.Addr(), typ, 1, 0, quoted, 0))
		add(v.name+"-broadcast", pt.NewUDP(a, b, pt.PayloadLen(30), pt.Ether([6]byte{255, 255, 255, 255, 255, 255}, [6]byte{2, 0, 0, 0, 0, 9})))
	}
	a, b := pt.AP("10.0.0.1:40000"), pt.AP("10.0.0.2:80")
	add("v4-options", pt.NewTCP(a, b, syn, pt.Seq(3), pt.IPv4Options([]byte{148, 4, 0, 0}), pt.PayloadLen(10)))
	a, b = pt.AP("[2001:db8::1]:40000"), pt.AP("[2001:db8::2]:80")
	add("v6-extension", pt.NewTCP(a, b, syn, pt.Seq(3), pt.HopByHop([]byte{1, 4, 0, 0, 0, 0}), pt.PayloadLen(10)))
	add("v6-extension-udp", pt.NewUDP(a, b, pt.DestinationOptions([]byte{1, 4, 0, 0, 0, 0}), pt.PayloadLen(30)))
	return names, frames
}

// TestRejectBytes compares the answers with those of Linux 6.18, which testdata/reject.txt holds: "name with answer", the
// answer as the kernel sent it, or none. They come from an nft chain at the ingress of a veth in the netdev family, whose
// reject statement is for the same case, answering in the name of the host that was meant.
func TestRejectBytes(t *testing.T) {
	f, err := os.Open("testdata/reject.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names, frames := rejected()
	seen := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		w := strings.Fields(s.Text())
		if len(w) != 3 || frames[w[0]] == nil {
			t.Fatalf("bad line %q", s.Text())
		}
		seen++
		p := packet.Packet{Frame: frames[w[0]]}
		packet.Parse(&p)
		with := rules.RejectPortUnreachable
		if w[1] == "tcp-reset" {
			with = rules.RejectTCPReset
		}
		got := "none"
		if answerable(&p, with) {
			b := bytes.Repeat([]byte{0xee}, 2000)
			got = hex.EncodeToString(b[:writeReject(b, &p, with)])
		}
		want := w[2]
		if want != "none" {
			want += strings.Repeat("00", max(0, minFrame-len(want)/2)) // the kernel leaves padding to the driver
		}
		if got != want {
			t.Errorf("%s %s: answered\n%s, the kernel\n%s", w[0], w[1], got, want)
		}
	}
	if seen < len(names) {
		t.Errorf("%d answers for %d frames", seen, len(names))
	}
}

const rejecting = `-A FORWARD -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset
-A FORWARD -p tcp -m tcp --dport 81 -m tcp --tcp-flags PSH PSH -j REJECT --reject-with tcp-reset
-A FORWARD -p tcp -m tcp --dport 81 -j ACCEPT
-A FORWARD -j REJECT`

// TestReject passes frames that rules reject: nothing goes on, the answer leaves through the port that the frame came
// from, every chunk comes home, and a connection that is reset is closed.
func TestReject(t *testing.T) {
	r := newRig(t, 1, rejecting, nil)
	answer := func(name string, in packet.Port, frame []byte, want func(p *packet.Packet) bool) {
		t.Helper()
		res := r.send(in, frame)
		if res.Verdict != Drop || res.Reason != DropRule {
			t.Fatalf("%s: %v, %v", name, res.Verdict, res.Reason)
		}
		if n := len(r.out(in.Other())); n != 0 {
			t.Fatalf("%s: %d frames went on", name, n)
		}
		out := r.out(in)
		if want == nil {
			if len(out) != 0 {
				t.Errorf("%s: %d answers, want none", name, len(out))
			}
			return
		}
		if len(out) != 1 {
			t.Fatalf("%s: %d answers", name, len(out))
		}
		p := packet.Packet{Frame: []byte(out[0]), In: in}
		packet.Parse(&p)
		var old packet.Packet
		old.Frame = frame
		packet.Parse(&old)
		if p.Problem != packet.ProblemNone || !p.VerifyChecksum() || p.Src != old.Dst || p.Dst != old.Src || p.VLAN != old.VLAN || p.L3 != old.L3 ||
			out[0][:6] != string(frame[6:12]) || out[0][6:12] != string(frame[:6]) || p.TTL != 64 {
			t.Errorf("%s: answered %+v", name, p)
		}
		if !want(&p) {
			t.Errorf("%s: answered %+v", name, p)
		}
	}
	reset := func(p *packet.Packet) bool { return p.Proto == packet.ProtoTCP && p.TCPFlags&packet.RST != 0 }
	unreachable := func(p *packet.Packet) bool {
		return p.Flags&packet.ICMPError != 0 && (p.Family == 4 && p.ICMPType == 3 && p.ICMPCode == 3 || p.Family == 6 && p.ICMPType == 1 && p.ICMPCode == 4)
	}
	a, b := pt.AP("10.0.0.1:5000"), pt.AP("10.0.0.2:53")
	answer("tcp", packet.Inside, pt.NewTCP(client, server, syn), reset)
	answer("tcp from outside", packet.Outside, pt.NewTCP(client, server, syn), reset)
	answer("tcp over ipv6", packet.Inside, pt.NewTCP(c6, s6, syn), reset)
	answer("udp", packet.Inside, pt.NewUDP(a, b), unreachable)
	answer("udp over ipv6", packet.Inside, pt.NewUDP(c6, s6, pt.PayloadLen(1400)), unreachable)
	answer("udp with two tags", packet.Outside, pt.NewUDP(a, b, pt.QinQ(7, 8)), unreachable)
	answer("rst", packet.Inside, pt.NewTCP(client, server, rst), nil)
	answer("error", packet.Inside, pt.NewICMPError(a.Addr(), b.Addr(), 3, 1, 0, pt.NewUDP(b, a), 0), nil)
	answer("group", packet.Inside, pt.NewUDP(a, pt.AP("224.0.0.9:53")), nil)
	answer("nobody", packet.Inside, pt.NewUDP(pt.AP("0.0.0.0:68"), pt.AP("255.255.255.255:67")), nil)

	// All fragments of a datagram are answered once, by what they make together.
	parts := pt.Fragments(pt.NewUDP(a, b, pt.PayloadLen(1200)), 9, 512)
	for _, f := range parts {
		r.inject(0, packet.Inside, f)
	}
	r.step()
	if out := r.out(packet.Inside); len(out) != 1 || len(out[0]) != 14+28+quote4 {
		t.Errorf("a datagram of %d fragments: %d answers", len(parts), len(out))
	}

	// A connection that comes to a rule that resets it is closed.
	to := pt.AP("10.0.0.2:81")
	r.send(packet.Inside, pt.NewTCP(client, to, syn, pt.Seq(1), pt.Window(100)))
	res := r.send(packet.Inside, pt.NewTCP(client, to, syn|packet.PSH, pt.Seq(1), pt.Window(100)))
	if res.Verdict != Drop || !res.HasInfo || res.Info.StateName() != "CLOSE" {
		t.Errorf("a connection that was reset: %+v", res)
	}
	r.out(packet.Inside)
	r.out(packet.Outside)
	r.step()
	if s := r.stats(); s.Total().Answered != 8 {
		t.Errorf("%d answers counted", s.Total().Answered)
	}
	r.balanced()
}

// TestRejectFlood: a port that takes nothing, and a worker without free chunks, lose answers and nothing else.
func TestRejectFlood(t *testing.T) {
	r := newRig(t, 1, rejecting, nil)
	frame := pt.NewUDP(client, server)
	for range 40 {
		for range DefaultBurst {
			r.wires[0].Inject(packet.Inside, frame)
			r.wires[0].Inject(packet.Outside, frame)
		}
		r.step()
	}
	r.settle()
	if n := len(r.out(packet.Inside)) + len(r.out(packet.Outside)); n == 0 || uint64(n) != r.stats().Workers[0].Counters.Answered {
		t.Errorf("%d answers came, %d were counted", n, r.stats().Workers[0].Counters.Answered)
	}
	r.step()
	r.balanced()
}

// TestRejectAllocatesNothing holds the zero-allocation promise of Step for answers.
func TestRejectAllocatesNothing(t *testing.T) {
	limits := linuxLimits()
	r := newRig(t, 1, rejecting, func(c *Config) { c.Record, c.ICMP = false, &limits })
	frame := pt.NewTCP(client, server, syn)
	if n := testing.AllocsPerRun(100, func() {
		r.wires[0].Inject(packet.Inside, frame)
		r.step()
		r.wires[0].Collect(packet.Inside, nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzReject: any frame that is answered is answered with a sound packet to where it came from, which is not answered
// itself by a reset or an error.
func FuzzReject(f *testing.F) {
	names, frames := rejected()
	for _, n := range names {
		f.Add(frames[n], uint8(1), uint16(1500))
	}
	f.Fuzz(func(t *testing.T, frame []byte, with uint8, room uint16) {
		p := packet.Packet{Frame: frame}
		packet.Parse(&p)
		how := rules.RejectWith(with%uint8(rules.RejectTCPReset)) + 1
		if p.Family == 0 || p.Problem.Header() || !answerable(&p, how) {
			return
		}
		b := make([]byte, room)
		n := writeReject(b, &p, how)
		if n == 0 {
			return
		}
		q := packet.Packet{Frame: b[:n]}
		packet.Parse(&q)
		if q.Family != p.Family || q.Problem.Header() || q.TTL != rejectTTL || n > len(b) || answerable(&q, how) {
			t.Fatalf("%x is answered with %x", frame, b[:n])
		}
		if q.Proto == packet.ProtoTCP && !q.VerifyChecksum() {
			t.Fatalf("%x is answered with %x", frame, b[:n])
		}
	})
}
