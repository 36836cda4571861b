package conntrack

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// sink is an EventSink of bounded size.
type sink struct {
	events []Event
	room   int
}

func (s *sink) Push(e []Event) int {
	n := min(len(e), s.room-len(s.events))
	s.events = append(s.events, e[:n]...)
	return n
}

// lines returns the events as conntrack -E prints them, and forgets them.
func (s *sink) lines() []string {
	var out []string
	for i := range s.events {
		out = append(out, string((&Style{}).AppendEvent(nil, &s.events[i])))
	}
	s.events = s.events[:0]
	return out
}

// TestEventsAsSeenOnLinux plays the segments of a connection for which `conntrack -E` (1.4.7, Linux 6.18) printed these
// lines.
func TestEventsAsSeenOnLinux(t *testing.T) {
	set, err := DefaultSettings().With("nf_conntrack_acct", 1)
	if err == nil {
		set, err = set.With("nf_conntrack_timestamp", 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, Config{Settings: set})
	s := &sink{room: 100}
	r.tab.Listen(s)
	r.tab.Expire(r.now, 64)
	a, b := packettest.AP("10.9.0.1:47414"), packettest.AP("10.9.0.2:80")
	seg := func(from, to string, flags uint8, seq, ack uint32, n int) {
		t.Helper()
		want := StateEstablished
		if flags == packet.SYN {
			want = StateNew
		}
		src, dst := a, b
		if from == "b" {
			src, dst = b, a
		}
		r.pass(packettest.NewTCP(src, dst, flags, packettest.Seq(seq), packettest.Ack(ack), packettest.Window(1000), packettest.PayloadLen(n)), want)
	}
	expect := func(want ...string) {
		t.Helper()
		if got := s.lines(); !slices.Equal(got, want) {
			t.Fatalf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	const o, p = "src=10.9.0.1 dst=10.9.0.2 sport=47414 dport=80", "src=10.9.0.2 dst=10.9.0.1 sport=80 dport=47414"
	seg("a", "b", packet.SYN, 100, 0, 0)
	seg("a", "b", packet.SYN, 100, 0, 0) // repeated: no event
	expect("    [NEW] tcp      6 120 SYN_SENT " + o + " [UNREPLIED] " + p)
	seg("b", "a", packet.SYN|packet.ACK, 500, 101, 0)
	expect(" [UPDATE] tcp      6 60 SYN_RECV " + o + " " + p)
	seg("a", "b", packet.ACK, 101, 501, 0)
	expect(" [UPDATE] tcp      6 432000 ESTABLISHED " + o + " " + p + " [ASSURED]")
	seg("a", "b", packet.ACK|packet.PSH, 101, 501, 1)
	seg("b", "a", packet.ACK, 501, 102, 0)
	expect()
	seg("b", "a", packet.FIN|packet.ACK, 501, 102, 0)
	expect(" [UPDATE] tcp      6 120 FIN_WAIT " + o + " " + p + " [ASSURED]")
	seg("a", "b", packet.FIN|packet.ACK, 102, 502, 0)
	expect(" [UPDATE] tcp      6 30 LAST_ACK " + o + " " + p + " [ASSURED]")
	seg("b", "a", packet.ACK, 502, 103, 0)
	expect(" [UPDATE] tcp      6 120 TIME_WAIT " + o + " " + p + " [ASSURED]")
	r.after(1500)
	r.tab.Expire(r.now, 64)
	if n, _ := r.tab.SetMarks(0, 100, nil, 7, 0xff, r.now); n != 1 {
		t.Fatal("no mark set")
	}
	expect(" [UPDATE] tcp      6 118 TIME_WAIT " + o + " " + p + " [ASSURED] mark=7")
	if n, _ := r.tab.Delete(0, 100, nil, r.now); n != 1 {
		t.Fatal("nothing deleted")
	}
	expect("[DESTROY] tcp      6 118 TIME_WAIT " + o + " packets=4 bytes=161 " + p + " packets=4 bytes=160 [ASSURED] mark=7 delta-time=1")

	r.pass(packettest.NewUDP(packettest.AP("10.9.0.1:33420"), packettest.AP("10.9.0.2:53"), packettest.PayloadLen(1)), StateNew)
	expect("    [NEW] udp      17 30 src=10.9.0.1 dst=10.9.0.2 sport=33420 dport=53 [UNREPLIED] src=10.9.0.2 dst=10.9.0.1 sport=53 dport=33420")
	r.after(60_000)
	r.tab.Expire(r.now, 64)
	expect("[DESTROY] udp      17 src=10.9.0.1 dst=10.9.0.2 sport=33420 dport=53 packets=1 bytes=29 [UNREPLIED] src=10.9.0.2 dst=10.9.0.1 sport=53 dport=33420 packets=0 bytes=0 delta-time=60")

	// A sink without room loses events and counts them; without a sink there are none.
	s.room = 0
	r.pass(udp(client, server), StateNew)
	if r.tab.EventsLost() != 1 {
		t.Errorf("%d lost", r.tab.EventsLost())
	}
	r.tab.Listen(nil)
	r.pass(udp(server, client), StateEstablished)
	if r.tab.EventsLost() != 1 {
		t.Errorf("%d lost with no sink", r.tab.EventsLost())
	}
}

// TestLabels: labels are set, removed, listed, told, and stay with their entry.
func TestLabels(t *testing.T) {
	r := newRig(t, Config{Settings: noChecksum(t)})
	for i := range 100 {
		r.enter(i)
	}
	s := &sink{room: 1000}
	r.tab.Listen(s)
	var web, far Labels
	web.Set(1)
	far.Set(MaxLabel)
	f := Filter{SrcPort: 1024 + 7}
	both := Labels{web[0] | far[0], web[1] | far[1]}
	if n, _, err := r.tab.SetLabels(0, 1000, f.Match, both, Labels{}, r.now); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if _, _, err := r.tab.SetLabels(0, 1000, nil, Labels{}, web, r.now); err != nil {
		t.Fatal(err)
	}
	names := &LabelNames{1: "web", MaxLabel: "far<", 3: "none"}
	style := Style{Labels: names, ID: Visible}
	var got []string
	for i := range s.events {
		got = append(got, string(style.AppendEvent(nil, &s.events[i])))
	}
	if len(got) != 2 || !strings.HasSuffix(got[0], " labels=web,far<") || !strings.HasSuffix(got[1], " labels=far<") || !strings.HasPrefix(got[1], " [UPDATE] ") {
		t.Errorf("%q", got)
	}
	out := make([]Info, 200)
	n, _ := r.tab.Dump(0, out, r.now)
	labelled := 0
	for i := range out[:n] {
		if out[i].Labels != (Labels{}) {
			labelled++
			if !out[i].Labels.Contains(far) || out[i].Labels.Contains(web) {
				t.Errorf("%v", out[i].Labels)
			}
			if x := string(style.AppendXML(nil, &out[i])); !strings.Contains(x, "<labels><label>far&lt;</label></labels>") {
				t.Error(x)
			}
		}
	}
	if labelled != 1 {
		t.Errorf("%d labelled", labelled)
	}
}

// tool returns the path of the conntrack tool; where it or root is missing the test is skipped, or fails in CI.
func tool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("conntrack")
	if err != nil || os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root and the conntrack tool")
		}
		t.Skip("needs root and the conntrack tool")
	}
	return path
}

// TestXMLAsConntrack compares with what conntrack -o xml and -o extended,id,ktimestamp print.
func TestXMLAsConntrack(t *testing.T) {
	path := tool(t)
	script := strings.ReplaceAll(`sysctl -qw net.netfilter.nf_conntrack_timestamp=1 2>/dev/null
I="TOOL -I -t 100"
{ $I -p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1000 --dport 80 --state ESTABLISHED -u ASSURED -m 6
$I -p udp -s fd00::1 -d fd00::2 --sport 1000 --dport 53 -u SEEN_REPLY,ASSURED -w 3
$I -p icmp -s 10.0.0.1 -d 10.0.0.2 --icmp-type 8 --icmp-code 0 --icmp-id 77
$I -p gre -s 10.0.0.1 -d 10.0.0.2 --srckey 5 --dstkey 6 -u SEEN_REPLY
$I -p 89 -s 10.0.0.1 -d 10.0.0.2; } >&2
TOOL -L -o xml,ktimestamp; TOOL -L -o extended,id,ktimestamp`, "TOOL", path)
	b, err := exec.Command("unshare", "-n", "sh", "-ec", script).Output()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("unshare: %v", err)
	}
	vary := regexp.MustCompile(`<id>\d+</id>|id=\d+$|<start>\d+</start>|start=[^]]+`)
	blank := func(s string) string {
		return vary.ReplaceAllStringFunc(s, func(m string) string {
			if strings.HasPrefix(m, "start=") {
				return "start=" + fmt.Sprint(len(m)) // a time of this length
			}
			return m[:3]
		})
	}
	got := map[string]bool{}
	for l := range strings.Lines(string(b)) {
		got[blank(strings.TrimSpace(l))] = true
	}
	want := []Info{
		infoOf(packettest.NewTCP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:80"), packet.SYN), tcpEstablished, StatusAssured, 6, 0),
		infoOf(packettest.NewUDP(packettest.AP("[fd00::1]:1000"), packettest.AP("[fd00::2]:53")), 0, StatusSeenReply|StatusAssured, 0, 0),
		infoOf(packettest.NewICMP(packettest.IP("10.0.0.1"), packettest.IP("10.0.0.2"), 8, 0, 77, 1), 0, 0, 0, 0),
		{Key: packet.Key{Proto: packet.ProtoGRE}, Status: StatusSeenReply},
		infoOf(packettest.NewIP(packettest.IP("10.0.0.1"), packettest.IP("10.0.0.2"), 89), 0, 0, 0, 0),
	}
	want[1].Key.Zone = 3
	gre := &want[3]
	gre.Flipped = gre.Key.Set(packet.AddrFrom(packettest.IP("10.0.0.1")), packet.AddrFrom(packettest.IP("10.0.0.2")), 5, 6, packet.ProtoGRE, 4) != 0
	style := Style{Format: FormatExtended, ID: Visible, Times: Visible, Now: time.Now()}
	for _, i := range want {
		i.HasAge, i.ID = true, 12345
		lines, flows := false, false
		var last string
		for left := uint32(80); left <= 100; left++ {
			for age := range uint64(20) {
				i.Left, i.Age = left*1000, age*1000
				last = blank(string(style.AppendLine(nil, &i)))
				lines = lines || got[last]
				flows = flows || got[blank(string(style.AppendXML(nil, &i)))]
			}
		}
		if !lines || !flows {
			t.Errorf("conntrack prints neither %q nor\n%s but\n%s", last, style.AppendXML(nil, &i), b)
		}
	}
}
