package replay

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/rules"
)

const (
	syn = 0x02
	ack = 0x10
)

var epoch = time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)

// shot is a frame of a capture at a time since epoch.
type shot struct {
	at   time.Duration
	data []byte
}

// capture writes a pcap file.
func capture(t testing.TB, name string, shots ...shot) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := pcapgo.NewWriterNanos(f)
	if err := w.WriteFileHeader(65536, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for _, s := range shots {
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: epoch.Add(s.at), CaptureLength: len(s.data), Length: len(s.data)}, s.data); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func compile(t testing.TB, text string) *rules.Ruleset {
	t.Helper()
	f, err := rules.Parse("test.rules", []byte("*filter\n:FORWARD DROP [0:0]\n"+text+"\nCOMMIT\n"), rules.Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rules.Compile([]*rules.File{f}, rules.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

const stateful = "-A FORWARD -m state --state ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD -i inside -j ACCEPT"

// play replays to the end and returns a line for each frame, and the connections that are left.
func play(t *testing.T, c Config) (lines, left []string) {
	t.Helper()
	if c.Engine.Max == 0 {
		c.Engine.Max = 1000
	}
	r, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	for {
		f, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%d %v %s %s %s %s %s", f.Number, f.Time.Sub(epoch), f.In, f.Verdict, f.Reason, f.Rule, f.State)))
	}
	if err := r.Connections(func(infos []conntrack.Info) error {
		for i := range infos {
			left = append(left, string(infos[i].AppendLine(nil, conntrack.FormatConntrack)))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	s, err := r.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if l := s.Ledger(); !l.Balanced() {
		t.Errorf("chunks: %+v", l)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	return lines, left
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

var (
	client, server = pt.AP("10.0.0.1:1025"), pt.AP("192.0.2.1:80")
	query, answer  = pt.NewUDP(client, server), pt.NewUDP(server, client)
)

// Two captures are one wire, merged by time, and what passes is written as it came.
func TestTwoFiles(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.pcap")
	lines, left := play(t, Config{
		Inside:     capture(t, "in.pcap", shot{0, query}, shot{3 * time.Second, query}, shot{3 * time.Second, pt.NewARP()}),
		Outside:    capture(t, "out.pcap", shot{time.Second, answer}, shot{3 * time.Second, pt.NewUDP(server, pt.AP("10.0.0.1:9"))}),
		OutOutside: out,
		Engine:     dataplane.Config{Ruleset: compile(t, stateful)},
	})
	expect(t, lines,
		"1 0s inside accept  FORWARD 2 NEW",
		"2 1s outside accept  FORWARD 1 ESTABLISHED",
		"3 3s inside accept  FORWARD 1 ESTABLISHED",
		"4 3s inside accept",
		"5 3s outside drop rule FORWARD policy NEW",
	)
	expect(t, left, "udp      17 120 src=10.0.0.1 dst=192.0.2.1 sport=1025 dport=80 src=192.0.2.1 dst=10.0.0.1 sport=80 dport=1025 [ASSURED] mark=0 use=1")
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]byte{query, query, pt.NewARP()} {
		got, _, err := r.ReadPacketData()
		if err != nil || string(got) != string(want) {
			t.Errorf("frame %d: %x, %v", i, got, err)
		}
	}
	if _, _, err := r.ReadPacketData(); err != io.EOF {
		t.Error("more frames than passed")
	}
}

// The capture's own time drives the timeouts, over gaps of any length and steps backwards.
func TestTime(t *testing.T) {
	day := 24 * time.Hour
	established := []shot{{0, pt.NewTCP(client, server, syn, pt.Seq(1))}, {time.Second, pt.NewTCP(server, client, syn|ack, pt.Seq(100), pt.Ack(2))}, {2 * time.Second, pt.NewTCP(client, server, ack, pt.Seq(2), pt.Ack(101))}}
	for _, tc := range []struct {
		name  string
		first []shot
		gap   time.Duration // from the last frame of first
		next  []byte
		want  string
	}{
		{"udp within its 30 s", []shot{{0, query}}, 29 * time.Second, answer, "accept  FORWARD 1 ESTABLISHED"},
		{"udp after its 30 s", []shot{{0, query}}, 31 * time.Second, answer, "drop rule FORWARD policy NEW"},
		{"tcp within its 5 days", established, 4 * day, pt.NewTCP(server, client, ack, pt.Seq(101), pt.Ack(2)), "accept  FORWARD 1 ESTABLISHED"},
		{"tcp after its 5 days", established, 6 * day, pt.NewTCP(server, client, ack, pt.Seq(101), pt.Ack(2)), "drop rule FORWARD policy NEW"},
		// Half of the tick's range and the whole of it: neither must make an old connection young.
		{"after 26 days", established, 26 * day, pt.NewTCP(server, client, ack, pt.Seq(101), pt.Ack(2)), "drop rule FORWARD policy NEW"},
		{"after 2^32 ms and a second", established, 1<<32*time.Millisecond + time.Second, pt.NewTCP(server, client, ack, pt.Seq(101), pt.Ack(2)), "drop rule FORWARD policy NEW"},
		{"after 30 years", established, 30 * 365 * day, pt.NewTCP(server, client, ack, pt.Seq(101), pt.Ack(2)), "drop rule FORWARD policy NEW"},
		{"backwards", established, -day, pt.NewTCP(server, client, ack, pt.Seq(101), pt.Ack(2)), "accept  FORWARD 1 ESTABLISHED"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			at := tc.first[len(tc.first)-1].at + tc.gap
			lines, _ := play(t, Config{File: capture(t, "x.pcap", append(tc.first[:len(tc.first):len(tc.first)], shot{at, tc.next})...), Nets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Engine: dataplane.Config{Ruleset: compile(t, stateful)}})
			if last := lines[len(lines)-1]; !strings.HasSuffix(last, tc.want) {
				t.Errorf("%s, want %s", last, tc.want)
			}
		})
	}
}

// Dead connections make room for new ones even where the table is as small as can be.
func TestRoom(t *testing.T) {
	var shots []shot
	for i := range 50 {
		shots = append(shots, shot{time.Duration(i) * 31 * time.Second, pt.NewUDP(pt.AP(fmt.Sprintf("10.0.0.1:%d", 1000+i)), server)})
	}
	lines, left := play(t, Config{Inside: capture(t, "x.pcap", shots...), Engine: dataplane.Config{Ruleset: compile(t, stateful), Max: 1}})
	for _, l := range lines {
		if !strings.HasSuffix(l, "accept  FORWARD 2 NEW") {
			t.Error(l)
		}
	}
	if len(left) != 1 {
		t.Errorf("%q", left)
	}
}

func TestFragments(t *testing.T) {
	whole := pt.NewUDP(client, server, pt.PayloadLen(3000))
	parts := pt.Fragments(whole, 7, 1480)
	if len(parts) < 3 {
		t.Fatalf("%d fragments", len(parts))
	}
	var shots []shot
	for i, p := range parts {
		shots = append(shots, shot{time.Duration(i) * time.Second, p})
	}
	shots = append(shots, shot{100 * time.Second, parts[0]}, shot{200 * time.Second, query})
	lines, _ := play(t, Config{Inside: capture(t, "x.pcap", shots...), Engine: dataplane.Config{Ruleset: compile(t, stateful)}})
	var want []string
	for i := range parts {
		if i < len(parts)-1 {
			want = append(want, fmt.Sprintf("%d %ds inside hold", i+1, i))
		} else {
			want = append(want, fmt.Sprintf("%d %ds inside accept  FORWARD 2 NEW", i+1, i))
		}
	}
	n := len(parts)
	want = append(want, fmt.Sprintf("%d 1m40s inside hold", n+1), fmt.Sprintf("%d 3m20s inside accept  FORWARD 2 NEW", n+2))
	expect(t, lines, want...)
}

// The frames before the damage are judged, then it is named.
func TestDamage(t *testing.T) {
	path := capture(t, "x.pcap", shot{0, query}, shot{time.Second, query})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text[:len(text)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(Config{Inside: path, Engine: dataplane.Config{Ruleset: compile(t, stateful), Max: 10}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if _, err := r.Next(); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), path+" frame 2") {
			t.Error(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("GIF89a and more"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Inside: path, Engine: dataplane.Config{Ruleset: compile(t, stateful), Max: 10}}); err == nil || !strings.Contains(err.Error(), "not a pcap") {
		t.Error(err)
	}
	// A capture without frames is none of that.
	lines, left := play(t, Config{Inside: capture(t, "empty.pcap"), Engine: dataplane.Config{Ruleset: compile(t, stateful)}})
	expect(t, append(lines, left...))
}

func TestPolicy(t *testing.T) {
	var policy [packet.Classes]dataplane.Policy
	policy[packet.ClassLLDP] = dataplane.Block
	lines, _ := play(t, Config{Inside: capture(t, "x.pcap", shot{0, pt.NewLLDP()}, shot{0, pt.NewSTP()}), Engine: dataplane.Config{Ruleset: compile(t, ""), Policy: policy}})
	expect(t, lines, "1 0s inside drop class-blocked", "2 0s inside accept")
}

// The same captures give the same output, also where the table is full and evicts.
func TestDeterministic(t *testing.T) {
	var shots []shot
	for i := range 300 {
		shots = append(shots, shot{time.Duration(i) * time.Millisecond, pt.NewUDP(pt.AP(fmt.Sprintf("10.0.0.%d:%d", i%7, 1000+i)), server)})
	}
	path := capture(t, "x.pcap", shots...)
	var first string
	for range 3 {
		lines, left := play(t, Config{Inside: path, Engine: dataplane.Config{Ruleset: compile(t, stateful), Max: 100}})
		if all := strings.Join(append(lines, left...), "\n"); first == "" {
			first = all
		} else if all != first {
			t.Errorf("got:\n%s\nfirst:\n%s", all, first)
		}
	}
}
