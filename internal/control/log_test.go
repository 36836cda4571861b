package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"corewire/internal/config"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/internal/packetlog"
)

const logRules = `*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp -m udp --dport 99 -j LOG --log-prefix "raw: "
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -p udp -m udp --dport 53 -m conntrack --ctstate NEW -j LOG --log-prefix "dns " --log-level info
-A FORWARD -p udp -m udp --dport 53 -j NFLOG --nflog-group 5 --nflog-prefix "copy" --nflog-size 28
-A FORWARD -p udp -m udp --dport 53 -j ACCEPT
COMMIT
`

// said collects what goes to the process's log.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) add(level slog.Level, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, level.String()+" "+text)
}

func (s *said) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.lines...)
}

// What LOG and NFLOG rules tell can be read as lines, as JSON and as a capture, by filter, and is in the files; further packets of
// the same connection are told of as well, though their verdict could be cached.
func TestLog(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, 1, map[string]string{"log-capture": filepath.Join(dir, "log.pcapng"), "log-capture-files": "2"})
	r.write(logRules)
	if _, err := r.client.Reload(r.ctx, ReloadOptions{}); err != nil {
		t.Fatal(err)
	}
	r.send(packet.Inside, dns(1), dns(1), pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("192.0.2.1:99")))
	read := func(f LogFilter) string {
		t.Helper()
		var b bytes.Buffer
		if err := r.client.Log(r.ctx, f, &b, nil); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	all := LogFilter{Last: -1, Group: -1}
	r.eventually("five entries", func() bool { return strings.Count(read(all), "\n") == 5 })
	lines := strings.Split(strings.TrimSpace(read(all)), "\n")
	// The raw table judges a whole burst before the rest, so its line may stand anywhere.
	for i, want := range []string{"dns IN=inside OUT=outside MAC=", "copyIN=inside OUT=outside MAC=", "copyIN=", "raw: IN="} {
		n := 0
		for _, line := range lines {
			if strings.HasPrefix(line, want) {
				n++
			}
		}
		if n != []int{2, 2, 2, 1}[i] {
			t.Errorf("%d lines begin with %q:\n%s", n, want, strings.Join(lines, "\n"))
		}
	}
	for _, test := range []struct {
		f    LogFilter
		want int
	}{
		{LogFilter{Last: 2, Group: -1}, 2}, {LogFilter{Last: 0, Group: -1}, 0}, {LogFilter{Last: -1, Group: 5}, 2}, {LogFilter{Last: -1, Group: 4}, 0},
		{LogFilter{Last: -1, Group: -1, Target: "LOG"}, 3}, {LogFilter{Last: -1, Group: -1, Prefix: "raw"}, 1},
	} {
		if n := strings.Count(read(test.f), "\n"); n != test.want {
			t.Errorf("%+v: %d lines, want %d", test.f, n, test.want)
		}
	}
	f := all
	f.Format, f.Target = FormatJSON, "NFLOG"
	var e packetlog.JSON
	if err := json.Unmarshal([]byte(strings.SplitN(read(f), "\n", 2)[0]), &e); err != nil {
		t.Fatal(err)
	}
	if e.Rule != "FORWARD 2" || e.Group != 5 || e.State != "NEW" || e.In != "inside" || e.Length != len(dns(1)) || len(e.Frame) != 14+28 || !strings.HasSuffix(e.Line, ":8") {
		t.Errorf("%+v", e)
	}
	f = all
	f.Format = FormatCapture
	if n := packets(t, []byte(read(f))); n != 5 {
		t.Errorf("a capture of %d packets", n)
	}
	r.eventually("the file", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "log-0.pcapng"))
		return err == nil && packets(t, b) == 5
	})
	if err := r.client.Log(r.ctx, LogFilter{Target: "ULOG", Group: -1}, new(bytes.Buffer), nil); err == nil || !strings.Contains(err.Error(), "expected LOG, NFLOG or INVALID") {
		t.Error(err)
	}
	s, err := r.firewall.Stats(r.ctx)
	if err != nil || s.Total.Logged != 5 || s.Total.LogLost != 0 {
		t.Errorf("%d logged, %d lost, %v", s.Total.Logged, s.Total.LogLost, err)
	}
}

// packets returns how many packets a capture has.
func packets(t *testing.T, b []byte) int {
	t.Helper()
	g, err := pcapgo.NewNgReader(bytes.NewReader(b), pcapgo.NgReaderOptions{})
	if err != nil {
		return 0
	}
	for n := 0; ; n++ {
		if _, _, err := g.ReadPacketData(); err != nil {
			return n
		}
	}
}

// A follower gets what comes, until it goes.
func TestLogFollow(t *testing.T) {
	r := newRig(t, 1, nil)
	r.write(logRules)
	if _, err := r.client.Reload(r.ctx, ReloadOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	out := &lineWriter{lines: make(chan string, 1000)}
	done := make(chan error, 1)
	r.send(packet.Inside, dns(0))
	r.eventually("two entries", func() bool {
		return r.firewall.logbook.log.Last(2, (&LogFilter{Group: -1}).admits) == 0 && r.firewall.logbook.log.Last(0, (&LogFilter{Group: -1}).admits) == 2
	})
	go func() {
		done <- r.client.Log(ctx, LogFilter{Last: 1, Group: -1, Follow: true, Target: "NFLOG"}, out, nil)
	}()
	if line := <-out.lines; !strings.HasPrefix(line, "copyIN=") {
		t.Fatal(line)
	}
	for i := range 20 {
		r.send(packet.Inside, dns(i+1))
		if line := <-out.lines; !strings.Contains(line, fmt.Sprintf("SRC=10.0.0.%d ", (i+1)%200+1)) {
			t.Fatal(line)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type lineWriter struct{ lines chan string }

func (w *lineWriter) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		w.lines <- line
	}
	return len(b), nil
}

// The process's log gets LOG rules' lines with their severity, no more than log-rate a second, and the number of the rest.
func TestLogRate(t *testing.T) {
	s := &said{}
	b, err := newLogbook(mustConfig(t, map[string]string{"log-rate": "3"}), s.add)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1700000000, 0)
	e := packetlog.Entry{Target: "LOG", Prefix: "x ", Level: 4, In: "a", Out: "b"}
	for range 10 {
		b.tell(&e, now)
	}
	e.Level = 7
	b.tell(&e, now.Add(time.Second))
	got := s.all()
	if len(got) != 5 || !strings.HasPrefix(got[0], "WARN x IN=a OUT=b MAC= ") || !strings.HasPrefix(got[3], "WARN 7 more packets") || !strings.HasPrefix(got[4], "DEBUG x ") {
		t.Errorf("%q", got)
	}
	b.rate.Store(0)
	b.tell(&e, now.Add(2*time.Second))
	if len(s.all()) != 5 {
		t.Errorf("%q", s.all())
	}
}

// mustConfig returns the defaults with some settings changed.
func mustConfig(t *testing.T, changes map[string]string) *config.Config {
	t.Helper()
	base, _, err := config.Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := base.With(changes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// INVALID packets are told of while nf_conntrack_log_invalid asks for their protocol, with the check that failed.
func TestLogInvalid(t *testing.T) {
	r := newRig(t, 1, nil)
	bad := pt.NewTCP(pt.AP("10.0.0.1:1"), pt.AP("192.0.2.1:80"), packet.SYN|packet.FIN)
	sum := pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("192.0.2.1:53"), pt.BadChecksum())
	set := func(n string) {
		if _, err := r.client.Change(r.ctx, map[string]string{"nf_conntrack_log_invalid": n}); err != nil {
			t.Fatal(err)
		}
	}
	r.send(packet.Inside, bad, sum)
	set("6")
	r.send(packet.Inside, bad, sum)
	set("255")
	r.send(packet.Inside, sum, dns(1))
	set("0")
	r.send(packet.Inside, bad)
	r.eventually("two entries", func() bool { return r.firewall.logbook.log.Last(0, (&LogFilter{Group: -1}).admits) == 2 })
	var b bytes.Buffer
	if err := r.client.Log(r.ctx, LogFilter{Last: -1, Group: -1, Target: "INVALID"}, &b, nil); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "nf_ct_proto_6: ") || !strings.Contains(lines[0], " SYN FIN ") || !strings.HasPrefix(lines[1], "nf_ct_proto_17: bad checksum IN=inside OUT=outside ") {
		t.Errorf("%q", lines)
	}
}
