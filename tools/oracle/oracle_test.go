package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"corewire/conntrack"
)

var (
	segments = flag.Int("oracle.segments", 100_000, "TCP segments per setting; of the other streams a quarter")
	seed     = flag.Uint64("oracle.seed", 1, "of all generated streams")
	pauses   = flag.Int("oracle.pauses", 4, "most pauses that pass in one capture")
	wait     = flag.Duration("oracle.wait", 0, "most time to wait in one capture for what cannot be made older")
)

// amount returns how many segments to generate: a tenth with -short, as under the race detector.
func amount() int {
	if testing.Short() {
		return *segments / 10
	}
	return *segments
}

// data is where captures from outside may lie; a clone without them has nothing to compare them with.
const data = "../../../shared/data"

// need skips the test where the comparison is impossible, and fails it instead with CI=true.
func need(t *testing.T) {
	t.Helper()
	why := ""
	if os.Geteuid() != 0 {
		why = "not root"
	}
	for _, name := range []string{"iptables-legacy-restore", "ip6tables-legacy-restore"} {
		if _, err := exec.LookPath(name); err != nil {
			why = err.Error()
		}
	}
	for _, path := range []string{"/dev/net/tun", "/proc/sys/net/bridge/bridge-nf-call-iptables"} {
		if _, err := os.Stat(path); err != nil {
			why = err.Error()
		}
	}
	if why == "" {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("cannot compare with the kernel: ", why)
	}
	t.Skip("cannot compare with the kernel: ", why)
}

// newConfig reads rules (a file of testdata, or "" for those that accept everything) and settings ("name=value").
func newConfig(t *testing.T, rules string, settings ...string) config {
	t.Helper()
	src := []byte(defaultRules)
	if rules != "" {
		var err error
		if src, err = os.ReadFile(filepath.Join("testdata", rules)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := newRuleFile(rules, src)
	if err != nil {
		t.Fatal(err)
	}
	c := config{rules: r, settings: conntrack.DefaultSettings(), stop: 3, wait: *wait, pauses: *pauses}
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		if c.settings, err = c.settings.WithText(name, value); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// newComparison makes a comparison that is closed with the test.
func newComparison(t *testing.T, c config) *comparison {
	t.Helper()
	both := &comparison{config: c}
	t.Cleanup(func() {
		if err := both.close(); err != nil {
			t.Error(err)
		}
	})
	return both
}

// report fails the test for differences, and logs what was compared.
func report(t *testing.T, s summary, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range s.Differences {
		t.Errorf("%s: %s\n%s", s.Stream, d.What, d.Detail)
	}
	t.Logf("%d frames, %d of them tracked %v, %d connections at the end, not comparable %v, known %v", s.Frames, s.Tracked, s.States, s.Entries, s.Skipped, s.Known)
	if s.Frames > 0 && s.Tracked == 0 {
		t.Error("nothing was tracked")
	}
}

// Random TCP segment streams, under every setting that the tracker asks.
func TestTCP(t *testing.T) {
	need(t)
	for i, set := range []string{
		"", "nf_conntrack_tcp_be_liberal=1", "nf_conntrack_tcp_loose=0", "nf_conntrack_tcp_ignore_invalid_rst=1", "nf_conntrack_tcp_max_retrans=1", "nf_conntrack_checksum=0",
	} {
		t.Run(set, func(t *testing.T) {
			var c config
			if set == "" {
				c = newConfig(t, "")
			} else {
				c = newConfig(t, "", set)
			}
			s, err := newComparison(t, c).run("tcp", tcpStream(*seed+uint64(i), amount()))
			report(t, s, err)
		})
	}
}

// Every protocol, as it should be and mutated, under rules that accept all and rules that ask for the connection.
func TestProtocols(t *testing.T) {
	need(t)
	for _, rules := range []string{"", "stateful.rules", "conntrack.rules"} {
		for _, name := range generatorNames() {
			n := amount() / 4
			switch name {
			case "timed":
				continue // see TestTimeouts
			case "fragments":
				n /= 4 // few enough to wait in memory
			}
			t.Run(name+" "+rules, func(t *testing.T) {
				s, err := newComparison(t, newConfig(t, rules)).run(name, generators[name].frames(*seed, n))
				report(t, s, err)
			})
		}
	}
}

// Expiry, with timeouts short enough to wait for.
func TestTimeouts(t *testing.T) {
	need(t)
	t.Parallel()
	c := newConfig(t, "")
	var err error
	if c.settings, err = timedSettings(c.settings); err != nil {
		t.Fatal(err)
	}
	s, err := newComparison(t, c).run("timed", timedStream(*seed, amount()/20))
	report(t, s, err)
}

// Every capture that is there, with checksums verified and not (many were taken before the network card had computed
// them).
func TestCaptures(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	need(t)
	var names []string
	for _, dir := range []string{"pcap", "pcap-packetdrill"} {
		err := filepath.WalkDir(filepath.Join(data, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && slices.Contains([]string{".pcap", ".pcapng", ".cap", ".trace"}, filepath.Ext(path)) {
				names = append(names, path)
			}
			return err
		})
		if err != nil {
			t.Skipf("no captures from outside: %v", err)
		}
	}
	for _, variant := range []struct{ rules, set string }{{"", "nf_conntrack_checksum=1"}, {"stateful.rules", "nf_conntrack_checksum=0"}} {
		t.Run(variant.set+" "+variant.rules, func(t *testing.T) {
			var mu sync.Mutex
			total := summary{States: map[string]int{}, Skipped: map[string]int{}, Known: map[string]int{}}
			unreadable := 0
			var wg sync.WaitGroup
			const workers = 2
			for i := range workers {
				both := newComparison(t, newConfig(t, variant.rules, variant.set))
				wg.Go(func() {
					for k := i; k < len(names); k += workers {
						shots, err := readCapture(names[k], nil)
						if err != nil {
							mu.Lock()
							unreadable++ // a link type that carries no Ethernet, or no capture at all
							mu.Unlock()
							continue
						}
						s, err := both.run(names[k], slices.Values(shots))
						mu.Lock()
						if err != nil {
							t.Error(err)
						}
						total.add(&s)
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			total.Stream = fmt.Sprintf("%d captures, %d more of other link types", len(names)-unreadable, unreadable)
			t.Log(total.Stream)
			report(t, total, nil)
		})
	}
}

// add adds another stream's summary.
func (s *summary) add(o *summary) {
	s.Frames, s.Tracked, s.Entries = s.Frames+o.Frames, s.Tracked+o.Tracked, s.Entries+o.Entries
	for _, m := range [][2]map[string]int{{s.States, o.States}, {s.Skipped, o.Skipped}, {s.Known, o.Known}} {
		for k, n := range m[1] {
			m[0][k] += n
		}
	}
	s.Differences = append(s.Differences, o.Differences...)
}

// A difference is found at its first frame, whichever part of the answer it is in.
func TestFindsDifferences(t *testing.T) {
	need(t)
	for _, tc := range []struct{ set, what string }{
		{"nf_conntrack_tcp_be_liberal=1", "TCP windows"},
		{"nf_conntrack_tcp_loose=0", "state"},
		{"nf_conntrack_tcp_timeout_syn_sent=60", "timeout"},
		{"nf_conntrack_checksum=0", "state"},
	} {
		c := newConfig(t, "")
		c.stop = 1
		c.own = newConfig(t, "", tc.set).settings
		s, err := newComparison(t, c).run("tcp", tcpStream(*seed, 5000))
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Differences) != 1 || s.Differences[0].What != tc.what && s.Differences[0].What != "state" {
			t.Errorf("%s: %+v", tc.set, s)
			continue
		}
		for _, word := range []string{"kernel", "corewire", "frame ", "after:"} {
			if !strings.Contains(s.Differences[0].Detail, word) {
				t.Errorf("%s: the detail does not have %q:\n%s", tc.set, word, s.Differences[0].Detail)
			}
		}
	}
}

// Rules that the two sides have differently show in the verdict, and connections that only one side has in the tables.
func TestFindsVerdicts(t *testing.T) {
	need(t)
	c := newConfig(t, "stateful.rules")
	c.stop = 1
	c.rules.ruleset = newConfig(t, "").rules.ruleset
	s, err := newComparison(t, c).run("mix", mixStream(*seed, 1000))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Differences) != 1 || s.Differences[0].What != "verdict" {
		t.Errorf("%+v", s)
	}
}

func TestCommand(t *testing.T) {
	for _, args := range [][]string{{}, {"--generate", "nothing"}, {"--set", "x=1", "--generate", "tcp"}, {"--rules", "testdata/none", "--generate", "tcp"}, {"--inside", "x", "--generate", "tcp"}, {"--bad"}} {
		var stdout, stderr bytes.Buffer
		if status := run(args, &stdout, &stderr); status != exitUsage || !strings.HasPrefix(stderr.String(), "oracle: ") && !strings.Contains(stderr.String(), "Usage") {
			t.Errorf("%q: status %d, %s", args, status, stderr.String())
		}
	}
	need(t)
	var stdout, stderr bytes.Buffer
	if status := run([]string{"--generate", "tcp", "--frames", "500", "--json", "--rules", "testdata/stateful.rules"}, &stdout, &stderr); status != exitEqual {
		t.Fatalf("status %d: %s%s", status, stdout.String(), stderr.String())
	}
	var s summary
	if err := json.Unmarshal(stdout.Bytes(), &s); err != nil || s.Frames != 500 {
		t.Errorf("%+v, %v", s, err)
	}
	if status := run([]string{"testdata/none.pcap"}, &stdout, &stderr); status != exitFailed {
		t.Errorf("status %d for a file that is not there", status)
	}
}

// Whole seconds of a pause in a capture pass without waiting: connections expire on both sides.
func TestPause(t *testing.T) {
	need(t)
	frame := slices.Collect(tcpStream(*seed, 1))[0]
	var shots []shot
	for _, gap := range []time.Duration{0, 100 * time.Second, 117 * time.Second, 123 * time.Second, 20 * 24 * time.Hour} {
		s := frame
		s.gap = gap
		shots = append(shots, s)
	}
	s, err := newComparison(t, newConfig(t, "")).run("pause", slices.Values(shots))
	report(t, s, err)
	if s.States["NEW"] != len(shots) || s.Entries != 1 {
		t.Errorf("%+v", s)
	}
}

// Every row of the tables says which part of the kernel is the reason.
func TestReasons(t *testing.T) {
	reasons := map[string]string{}
	for _, row := range skipped {
		reasons[row.name] = row.reason
	}
	for _, row := range known {
		reasons[row.name] = row.reason
	}
	if len(reasons) != len(skipped)+len(known) {
		t.Error("two rows have the same name")
	}
	for name, reason := range reasons {
		if !strings.Contains(reason, ".c)") {
			t.Errorf("%s: no source named: %s", name, reason)
		}
	}
}
