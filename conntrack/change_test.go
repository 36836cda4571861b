package conntrack

import (
	"net/netip"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// saved are the lines that `conntrack -L -o save` (1.4.7, Linux 6.18) printed of connections made by `conntrack -I`.
var saved = []struct {
	spec Spec
	line string
}{
	{Spec{Src: packettest.IP("10.0.0.1"), Dst: packettest.IP("10.0.0.2"), Proto: packet.ProtoSCTP, SrcPort: 5, DstPort: 7, State: "ESTABLISHED", Tag: [2]uint32{7, 8}, Timeout: 99},
		"-A -t 99 -u UNSET -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 -p sctp --sport 5 --dport 7 --reply-port-src 7 --reply-port-dst 5 --state ESTABLISHED --orig-vtag 7 --reply-vtag 8"},
	{Spec{Src: packettest.IP("10.0.0.1"), Dst: packettest.IP("10.0.0.2"), Proto: packet.ProtoGRE, SrcPort: 5, DstPort: 7, Timeout: 99},
		"-A -t 99 -u UNSET -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 -p gre --srckey 5 --dstkey 7 --reply-key-src 7 --reply-key-dst 5"},
	{Spec{Src: packettest.IP("10.0.0.1"), Dst: packettest.IP("10.0.0.2"), Proto: packet.ProtoUDPLite, SrcPort: 5, DstPort: 7, Timeout: 99},
		"-A -t 99 -u UNSET -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 -p udplite --sport 5 --dport 7 --reply-port-src 7 --reply-port-dst 5"},
	{Spec{Src: packettest.IP("10.0.0.1"), Dst: packettest.IP("10.0.0.2"), Proto: packet.ProtoTCP, SrcPort: 1234, DstPort: 21, State: "established", Timeout: 99, Status: StatusSeenReply | StatusAssured, Mark: 5},
		"-A -t 99 -u SEEN_REPLY,ASSURED -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 -p tcp --sport 1234 --dport 21 --reply-port-src 21 --reply-port-dst 1234 --state ESTABLISHED"},
	{Spec{Src: packettest.IP("fd00::1"), Dst: packettest.IP("fd00::2"), Proto: packet.ProtoICMPv6, Type: 128, ID: 77, Timeout: 99},
		"-A -t 99 -u UNSET -s fd00::1 -d fd00::2 -r fd00::2 -q fd00::1 -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 77"},
	{Spec{Src: packettest.IP("10.0.0.1"), Dst: packettest.IP("10.0.0.2"), Proto: packet.ProtoICMP, Type: 8, ID: 77, Timeout: 99},
		"-A -t 99 -u UNSET -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 77"},
	{Spec{Src: packettest.IP("10.0.0.1"), Dst: packettest.IP("10.0.0.2"), Proto: packet.ProtoUDP, SrcPort: 1234, DstPort: 21, Zone: 3, Timeout: 99},
		"-A -t 99 -u UNSET -w 3 -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 -p udp --sport 1234 --dport 21 --reply-port-src 21 --reply-port-dst 1234"},
	{Spec{Src: packettest.IP("fd00::1"), Dst: packettest.IP("fd00::2"), Proto: 50, Timeout: 99},
		"-A -t 99 -u UNSET -s fd00::1 -d fd00::2 -r fd00::2 -q fd00::1 -p 50"},
}

// TestSave: what is made is listed as the conntrack tool saves it, by both ways of listing.
func TestSave(t *testing.T) {
	r := newRig(t, Config{})
	for _, c := range saved {
		rec, err := NewRecord(&c.spec, DefaultSettings())
		if err != nil {
			t.Fatalf("%s: %v", c.line, err)
		}
		if got := r.take([]Record{rec}); got.Entered != 1 {
			t.Fatalf("%s: %+v", c.line, got)
		}
		var lines []string
		r.tab.SetMarks(0, 1<<20, func(i *Info) bool { lines = append(lines, string(i.AppendSave(nil))); return false }, 0, 0, r.now)
		s := NewSnapshot()
		r.tab.Copy(0, s, r.now)
		for _, i := range s.Infos(nil) {
			lines = append(lines, string(i.AppendSave(nil)))
		}
		if len(lines) != 2 || lines[0] != c.line || lines[1] != c.line {
			t.Errorf("%q, want %s", lines, c.line)
		}
		r.tab.Flush()
	}
}

// TestNewRecord: a made TCP connection takes segments with any numbers, in both directions; mistakes are refused.
func TestNewRecord(t *testing.T) {
	r := newRig(t, Config{Settings: noChecksum(t)})
	good := saved[3].spec
	rec, err := NewRecord(&good, DefaultSettings())
	if err != nil {
		t.Fatal(err)
	}
	r.take([]Record{rec})
	a, b := packettest.AP("10.0.0.1:1234"), packettest.AP("10.0.0.2:21")
	r.pass(packettest.NewTCP(a, b, packet.ACK, packettest.Seq(123456789), packettest.Ack(987654321), packettest.PayloadLen(10)), StateEstablished)
	r.pass(packettest.NewTCP(b, a, packet.ACK, packettest.Seq(5), packettest.Ack(7), packettest.PayloadLen(10)), StateEstablished)
	if got := r.lines(FormatConntrack); len(got) != 1 || !strings.Contains(got[0], "432000 ESTABLISHED") || !strings.Contains(got[0], "[ASSURED] mark=5") {
		t.Error(got)
	}
	for what, change := range map[string]func(*Spec){
		"no source": func(s *Spec) { s.Src = netip.Addr{} }, "two families": func(s *Spec) { s.Dst = packettest.IP("fd00::1") }, "no state": func(s *Spec) { s.State = "" },
		"unknown state": func(s *Spec) { s.State = "CLOSED" }, "NONE": func(s *Spec) { s.State = "NONE" }, "no timeout": func(s *Spec) { s.Timeout = 0 },
		"a long timeout": func(s *Spec) { s.Timeout = MaxTimeout + 1 }, "status": func(s *Spec) { s.Status = StatusExpected }, "a state of UDP": func(s *Spec) { s.Proto = packet.ProtoUDP },
		"an answer": func(s *Spec) { s.Proto, s.State, s.Type = packet.ProtoICMP, "", 0 },
	} {
		s := good
		change(&s)
		if _, err := NewRecord(&s, DefaultSettings()); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
}

// TestChange: timeout, status, state and counters change of what is selected, and whoever listens is told.
func TestChange(t *testing.T) {
	set, err := DefaultSettings().With("nf_conntrack_acct", 1)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, Config{Settings: set})
	r.pass(udp(client, server), StateNew)
	r.pass(packettest.NewTCP(packettest.AP(client), packettest.AP(server), packet.SYN), StateNew)
	e := &sink{room: 100}
	r.tab.Listen(e)
	only := func(proto uint8) func(*Info) bool { return func(i *Info) bool { return i.Key.Proto == proto } }
	if n, next := r.tab.Change(0, 100, only(packet.ProtoUDP), Change{Timeout: 100_000, Status: StatusAssured | StatusSeenReply | StatusExpected}, r.now); n != 1 || next != 0 {
		t.Fatal(n, next)
	}
	if n, _ := r.tab.Change(0, 100, nil, Change{State: tcpClose, Proto: packet.ProtoTCP}, r.now); n != 2 {
		t.Fatal(n)
	}
	want := []string{" [UPDATE] udp      17 100 ", " [UPDATE] udp ", " [UPDATE] tcp      6 120 CLOSE "}
	got := e.lines()
	for i := range want {
		if len(got) != len(want) || !strings.HasPrefix(got[i], want[i]) {
			t.Fatalf("%q", got)
		}
	}
	lines := strings.Join(r.lines(FormatConntrack), "\n")
	if !strings.Contains(lines, "udp      17 100 ") || strings.Contains(strings.Split(lines, "tcp")[0], "UNREPLIED") || !strings.Contains(lines, "[ASSURED]") {
		t.Error(lines)
	}
	// What was shortened goes when its time is over.
	r.tab.Change(0, 100, only(packet.ProtoUDP), Change{Timeout: 2_000}, r.now)
	if n, _ := r.tab.Zero(0, 100, only(packet.ProtoTCP), r.now); n != 1 {
		t.Error(n)
	}
	lines = strings.Join(r.lines(FormatConntrack), "\n")
	if strings.Count(lines, "packets=1 ") != 1 || strings.Count(lines, "packets=0 bytes=0") != 3 {
		t.Error(lines)
	}
	for range 30 {
		r.after(100)
		r.tab.Expire(r.now, 64)
	}
	if got := r.lines(FormatConntrack); len(got) != 1 || !strings.HasPrefix(got[0], "tcp") {
		t.Error(got)
	}
}
