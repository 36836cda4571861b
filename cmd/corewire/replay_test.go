package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	pt "corewire/internal/packet/packettest"
)

const replayRules = `*filter
:FORWARD DROP [0:0]
:out - [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -m state --state INVALID -j DROP
-A FORWARD -i inside -j out
-A out -p udp -j ACCEPT
-A out -p tcp -m tcp --dport 80 -j ACCEPT
-A out -p icmp -j ACCEPT
COMMIT
`

// record writes a capture with a frame a second.
func record(t *testing.T, name string, frames ...[]byte) string {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	if err := w.WriteFileHeader(65536, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for i, f := range frames {
		at := time.Date(2024, 5, 1, 12, 0, i, 0, time.UTC)
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(f), Length: len(f)}, f); err != nil {
			t.Fatal(err)
		}
	}
	return write(t, name, b.String())
}

func TestReplay(t *testing.T) {
	const syn, rst, ack = 0x02, 0x04, 0x10
	c, s := pt.AP("10.0.0.1:1025"), pt.AP("192.0.2.1:80")
	c6, s6 := pt.AP("[2001:db8::1]:1025"), pt.AP("[2001:db8:f::1]:53")
	query := pt.NewUDP(pt.AP("10.0.0.1:1025"), pt.AP("192.0.2.9:53"))
	frames := [][]byte{
		pt.NewTCP(c, s, syn, pt.Seq(1)),
		pt.NewTCP(s, c, syn|ack, pt.Seq(100), pt.Ack(2)),
		pt.NewTCP(c, s, ack, pt.Seq(2), pt.Ack(101)),
		pt.NewTCP(s, c, rst, pt.Seq(7777777)), // outside the window
		pt.NewTCP(c, pt.AP("192.0.2.1:22"), syn),
		pt.NewTCP(s, pt.AP("10.0.0.1:1026"), syn),
		query,
		pt.NewICMPError(pt.IP("192.0.2.9"), pt.IP("10.0.0.1"), 3, 3, 0, query, 28),
		pt.NewUDP(c6, s6),
		pt.NewUDP(c, s, pt.BadHeaderChecksum()),
		pt.NewARP(),
	}
	frames = append(frames, pt.Fragments(pt.NewUDP(c, pt.AP("192.0.2.9:99"), pt.PayloadLen(2000)), 7, 1480)...)
	capture, rules := record(t, "x.pcap", frames...), write(t, "rules", replayRules)
	args := []string{"replay", "--rules", rules, "--pcap", capture, "--inside-net", "10.0.0.0/8,2001:db8::/48", "--conntrack"}
	out, err := call(t, append(args, "--json")...)
	if err != nil {
		t.Fatal(err)
	}
	text, err := call(t, append(args, "--out-outside", filepath.Join(t.TempDir(), "o.pcapng"))...)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "replay.golden", out+"---\n"+text)

	// The same in two files, an inside and an outside one, is the same wire; here only one side of it.
	if _, err := call(t, "replay", "--rules", rules, "--inside", capture); err != nil {
		t.Error(err)
	}
	// Settings are those of run.
	out, err = call(t, append(args, "--json", "--nf_conntrack_udp_timeout=77", "--non-ip-arp=drop")...)
	if err != nil || !strings.Contains(out, "udp      17 71 src=") || !strings.Contains(out, `"reason":"class-blocked"`) {
		t.Errorf("%v\n%s", err, out)
	}
}

// A replay judges by zone, helpers and interface names where run does, whether flag or file says so.
func TestReplaySettings(t *testing.T) {
	c, s := pt.AP("10.0.0.1:1025"), pt.AP("192.0.2.9:53")
	rules := write(t, "rules", "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m state --state ESTABLISHED,RELATED -j ACCEPT\n-A FORWARD -i inside -j ACCEPT\nCOMMIT\n")
	zones := record(t, "vlan.pcap", pt.NewUDP(c, s, pt.VLAN(5)), pt.NewUDP(s, c, pt.VLAN(6)))
	named := write(t, "named", "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i lan0 -j ACCEPT\nCOMMIT\n")
	announced := record(t, "ftp.pcap",
		pt.NewTCP(c, pt.AP("192.0.2.9:2121"), 2, pt.Seq(9)), pt.NewTCP(pt.AP("192.0.2.9:2121"), c, 0x12, pt.Seq(99), pt.Ack(10)), pt.NewTCP(c, pt.AP("192.0.2.9:2121"), 0x10, pt.Seq(10), pt.Ack(100)),
		pt.NewTCP(c, pt.AP("192.0.2.9:2121"), 0x18, pt.Seq(10), pt.Ack(100), pt.Payload([]byte("USER a\r\n"))),
		pt.NewTCP(c, pt.AP("192.0.2.9:2121"), 0x18, pt.Seq(18), pt.Ack(100), pt.Payload([]byte("PORT 10,0,0,1,8,8\r\n"))), pt.NewTCP(pt.AP("192.0.2.9:20"), pt.AP("10.0.0.1:2056"), 2))
	for _, tc := range []struct {
		rules, capture, config string
		flags                  []string
		want                   string // the last frame's verdict
	}{
		{rules, zones, "", nil, "accept"},
		{rules, zones, "", []string{"--zones=vlan"}, "drop"},
		{rules, zones, "zones: vlan\n", nil, "drop"},
		{rules, announced, "", nil, "drop"},
		{rules, announced, "nf_conntrack_helper: ftp=2121\n", nil, "accept"},
		{named, zones, "inside: lan0\noutside: wan0\n", []string{"--inside-net=0.0.0.0/0"}, "accept"},
	} {
		args := append([]string{"replay", "--rules", tc.rules, "--pcap", tc.capture, "--inside-net", "10.0.0.0/8", "--json", "--config", write(t, "c.yaml", tc.config)}, tc.flags...)
		out, err := call(t, args...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if last := lines[len(lines)-1]; err != nil || !strings.Contains(last, `"verdict":"`+tc.want+`"`) {
			t.Errorf("%s %q %q: %v, %s", filepath.Base(tc.capture), tc.config, tc.flags, err, last)
		}
	}
}

// data is where captures from outside lie, if they do.
const data = "../../../shared/data"

// Every capture at hand is replayed: no crash, an object for every frame that can be read, and the right exit status.
func TestReplayCaptures(t *testing.T) {
	var files []string
	for _, pattern := range []string{"pcap/*/*", "pcap-packetdrill/*"} {
		found, err := filepath.Glob(filepath.Join(data, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		t.Skipf("no captures in %s", data)
	}
	rules := write(t, "rules", replayRules)
	replayed, refused, frames := 0, 0, 0
	for i, path := range files {
		if testing.Short() && i%16 != 0 || filepath.Base(filepath.Dir(path)) == "topics" {
			continue
		}
		readable, whole := readable(t, path)
		out, err := call(t, "replay", "--rules", rules, "--pcap", path, "--inside-net", "10.0.0.0/8,192.168.0.0/16,fe80::/10", "--json")
		if (err == nil) != whole || exitCode(err) > exitFailed {
			t.Errorf("%s: %v, but the file is whole: %v", path, err, whole)
		}
		n := 0
		for line := range strings.Lines(out) {
			n++
			var f struct {
				N       int
				TS      time.Time
				In      string
				Verdict string
				Reason  *string
				Rule    *string
				State   *string
			}
			d := json.NewDecoder(strings.NewReader(line))
			d.DisallowUnknownFields()
			if err := d.Decode(&f); err != nil || f.N != n || f.Reason == nil || f.Rule == nil || f.State == nil ||
				f.In != "inside" && f.In != "outside" || f.Verdict != "accept" && f.Verdict != "drop" && f.Verdict != "hold" || (f.Verdict == "drop") != (*f.Reason != "") {
				t.Fatalf("%s: line %d: %s (%v)", path, n, line, err)
			}
		}
		if n != readable {
			t.Errorf("%s: %d objects for %d frames: %v", path, n, readable, err)
		}
		frames += n
		replayed++
		if err != nil {
			refused++
		}
	}
	t.Logf("%d captures, %d of them foreign or damaged, %d frames", replayed, refused, frames)
}

// readable counts a capture's frames, and tells whether all of it could be read.
func readable(t *testing.T, path string) (int, bool) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	supported := map[layers.LinkType]bool{0: true, 1: true, 12: true, 14: true, 101: true, 108: true, 113: true, 228: true, 229: true, 276: true}
	if len(text) >= 4 && binary.BigEndian.Uint32(text) == 0x0a0d0d0a {
		r, err := pcapgo.NewNgReader(bytes.NewReader(text), pcapgo.NgReaderOptions{WantMixedLinkType: true})
		if err != nil {
			return 0, false
		}
		for n := 0; ; n++ {
			_, info, err := r.ReadPacketData()
			if err != nil {
				return n, err == io.EOF
			}
			if link, ok := info.AncillaryData[0].(layers.LinkType); !ok || !supported[link] {
				return n, false
			}
		}
	}
	in := bytes.NewReader(text)
	r, err := pcapgo.NewReader(in)
	if err != nil || !supported[r.LinkType()] {
		return 0, false
	}
	for n := 0; ; n++ {
		left := in.Len()
		_, _, err := r.ReadPacketData()
		if err != nil {
			return n, errors.Is(err, io.EOF) && left == 0
		}
	}
}

// A damaged file is an error after its readable frames.
func TestReplayDamage(t *testing.T) {
	rules := write(t, "rules", replayRules)
	path := record(t, "x.pcap", pt.NewARP(), pt.NewARP(), pt.NewARP())
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 1; cut < 60; cut += 7 {
		if err := os.WriteFile(path, text[:len(text)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := call(t, "replay", "--rules", rules, "--pcap", path, "--inside-net", "10.0.0.0/8", "--json", "--conntrack")
		if exitCode(err) != exitFailed || !strings.Contains(err.Error(), fmt.Sprintf("%s frame 3", path)) || strings.Count(out, "\n") != 2 {
			t.Errorf("%d bytes cut: %v\n%s", cut, err, out)
		}
	}
}
