package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"corewire/tools/lab"
)

// toolRow is a line of the table in the package's doc.
type toolRow struct {
	options string
	here    string // yes, none or no
	example string
}

// toolRows reads the table.
func toolRows(t *testing.T) (rows []toolRow) {
	t.Helper()
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line, ok := strings.CutPrefix(line, "//\t")
		if !ok {
			continue
		}
		cells := regexp.MustCompile(`\s{2,}`).Split(strings.TrimSpace(line), -1)
		if len(cells) < 3 || cells[1] == "no" && len(cells) < 4 {
			t.Fatalf("%q: expected options, yes, none or no, an example, and with no a reason", line)
		}
		rows = append(rows, toolRow{cells[0], cells[1], cells[2]})
	}
	if len(rows) < 60 {
		t.Fatalf("only %d rows", len(rows))
	}
	return rows
}

// TestToolTable: the table knows every option that the conntrack tool's own help names.
func TestToolTable(t *testing.T) {
	if _, err := exec.LookPath("conntrack"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	known := map[string]bool{}
	for _, r := range toolRows(t) {
		for o := range strings.FieldsFuncSeq(r.options, func(c rune) bool { return c == ' ' || c == ',' }) {
			known[o] = true
		}
	}
	option := regexp.MustCompile(`(?m)^  (-\w|--[\w-]+)(?:, (--[\w-]+))?(?:, (--[\w-]+))?`)
	found := 0
	for _, args := range [][]string{{"-h"}, {"-h", "-p", "tcp"}, {"-h", "-p", "udp"}, {"-h", "-p", "sctp"}, {"-h", "-p", "gre"}, {"-h", "-p", "icmp"}, {"-h", "-p", "icmpv6"}, {"-h", "-p", "dccp"}} {
		out, err := exec.Command("conntrack", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("conntrack %q: %v", args, err)
		}
		for _, m := range option.FindAllStringSubmatch(string(out), -1) {
			for _, o := range m[1:] {
				if o == "" {
					continue
				}
				found++
				if !known[o] {
					t.Errorf("conntrack %s has %s, which the table does not mention", strings.Join(args, " "), o)
				}
			}
		}
	}
	if found < 60 {
		t.Errorf("only %d options in the tool's help", found)
	}
}

// ftpServer answers commands, and connects from the server's end to where it is told.
func ftpServer(t *testing.T, l *lab.Lab) {
	t.Helper()
	listener, err := l.Listen(t.Context(), lab.Server, "tcp", "0.0.0.0:21")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 1000)
				for {
					if _, err := c.Write([]byte("200 ok\r\n")); err != nil {
						return
					}
					if _, err := c.Read(b); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// ftpSession is a control connection.
type ftpSession struct {
	net.Conn
	t    *testing.T
	l    *lab.Lab
	port uint16 // the client's
}

func newFTP(t *testing.T, l *lab.Lab) *ftpSession {
	t.Helper()
	c, err := l.Dial(t.Context(), lab.Client, "tcp", netip.AddrPortFrom(l.Addr(lab.Server, 4), 21).String())
	if err != nil {
		t.Fatal(err)
	}
	s := &ftpSession{c, t, l, netip.MustParseAddrPort(c.LocalAddr().String()).Port()}
	s.answer()
	s.say("USER x")
	return s
}

func (s *ftpSession) answer() {
	s.t.Helper()
	s.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(s, make([]byte, len("200 ok\r\n"))); err != nil {
		s.t.Fatal(err)
	}
}

func (s *ftpSession) say(text string) {
	s.t.Helper()
	if _, err := s.Write([]byte(text + "\r\n")); err != nil {
		s.t.Fatal(err)
	}
	s.answer()
}

// announce announces a port of the client's.
func (s *ftpSession) announce(port int) {
	s.t.Helper()
	a := s.l.Addr(lab.Client, 4).As4()
	s.say(fmt.Sprintf("PORT %d,%d,%d,%d,%d,%d", a[0], a[1], a[2], a[3], port>>8, port&255))
}

// data opens the announced connection.
func (s *ftpSession) data(port int) (ok bool) {
	s.t.Helper()
	listener, err := s.l.Listen(s.t.Context(), lab.Client, "tcp", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		s.t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	c, err := s.l.Dial(ctx, lab.Server, "tcp", netip.AddrPortFrom(s.l.Addr(lab.Client, 4), uint16(port)).String())
	if err != nil {
		return false
	}
	defer c.Close()
	d, err := listener.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	defer d.Close()
	_, err = io.Copy(d, strings.NewReader("file"))
	return err == nil
}

const ftpRules = `*filter
:FORWARD DROP [0:0]
-A FORWARD -m state --state ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -i in0 -p tcp -m tcp --dport 21 -m state --state NEW -j ACCEPT
COMMIT
`

// TestConntrackTool: expectations, their events, saved connections and their loading, as the conntrack tool has them of the
// same segments; what was expected outlives the firewall in a file; and every row of the table holds.
func TestConntrackTool(t *testing.T) {
	l := lab.Need(t, lab.Config{})
	k := newKernel(t, l)
	k.run("iptables", "-t", "raw", "-A", "OUTPUT", "-p", "tcp", "--dport", "21", "-j", "CT", "--helper", "ftp")
	k.run("iptables", "-A", "INPUT", "-m", "state", "--state", "NEW,RELATED,ESTABLISHED", "-j", "ACCEPT")
	dir := t.TempDir()
	socket, state := filepath.Join(dir, "cw.sock"), filepath.Join(dir, "connections")
	args := []string{"--inside", lab.InsidePort, "--outside", lab.OutPort, "--rules", write(t, "rules", ftpRules), "--control-socket", socket, "--metrics-addr=",
		"--state-file", filepath.Join(dir, "state.json"), "--nf_conntrack_acct=1", "--nf_conntrack_helper=ftp"}
	ask := func(words ...string) string {
		t.Helper()
		out, err := call(t, append(words, "--control-socket", socket)...)
		if err != nil {
			t.Errorf("corewire %s: %v", strings.Join(words, " "), err)
		}
		return out
	}
	ftpServer(t, l)
	p := start(t, l, args...)
	p.wait("msg=forwarding")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var done sync.WaitGroup
	type stream struct {
		ours, theirs buffer
		tool         *exec.Cmd
	}
	streams := map[string]*stream{"list": {}, "xml": {}}
	for format, s := range streams {
		var option []string
		if format != "list" {
			option = []string{"-o", format}
		}
		done.Go(func() {
			if err := run(ctx, append([]string{"conntrack", "-E", "expect", "--control-socket", socket}, option...), &s.ours); err != nil {
				t.Error(err)
			}
		})
		s.tool = exec.CommandContext(ctx, "stdbuf", append([]string{"-oL", "conntrack", "-E", "expect"}, option...)...)
		s.tool.Stdout = &s.theirs
		if err := l.Start(lab.Client, s.tool); err != nil {
			t.Fatal(err)
		}
	}
	port := 3000
	eventually(t, "all listening", func() bool {
		s := newFTP(t, l)
		port++ // what another connection expects already is not announced twice
		s.announce(port)
		s.Close()
		for _, s := range streams {
			if !strings.Contains(strings.ToLower(s.ours.String()), "new") || !strings.Contains(strings.ToLower(s.theirs.String()), "new") {
				return false
			}
		}
		return true
	})

	ask("conntrack", "-F", "expect")
	k.run("conntrack", "-F", "expect")
	s := newFTP(t, l)
	defer s.Close()
	s.announce(2056)
	left := regexp.MustCompile(`(?m)(\A|\n|<timeout>|\] | 6 |-t )\d+|id=\d+|<id>\d+`)
	blank := func(text string) string { return left.ReplaceAllString(text, "$1#") }
	client := []string{"--orig-port-src", fmt.Sprint(s.port), "--dport", "21", "-p", "tcp"}
	for _, format := range []string{"list", "extended", "xml", "id"} {
		tool := []string{"conntrack", "-L", "expect", "-o", format}
		if format == "list" {
			tool = tool[:3]
		}
		if a, b := blank(ask("conntrack", "-L", "expect", "-o", format)), blank(k.run(tool[0], tool[1:]...)); a != b || !strings.Contains(a, "2056") {
			t.Errorf("-L expect -o %s:\n%s\nconntrack prints\n%s", format, a, b)
		}
	}
	if a, b := blank(ask("conntrack", "-L", "expect", "-o", "proc")), blank(k.run("cat", "/proc/net/nf_conntrack_expect")); strings.TrimSpace(a) != strings.TrimSpace(b) {
		t.Errorf("proc:\n%s\n%s", a, b)
	}
	if a, b := ask("conntrack", "-C", "expect"), k.run("conntrack", "-C", "expect"); a != "1\n" || b != "1\n" {
		t.Errorf("count: %s %s", a, b)
	}
	if out := ask("conntrack", "-L", "expect", "--json"); !strings.Contains(out, `"helper":"ftp"`) || !strings.Contains(out, `"dport":2056`) || strings.Count(out, "\n") != 1 {
		t.Error(out)
	}
	if out := ask("conntrack", "-L", "expect", "--dport", "2057"); out != "" {
		t.Error(out)
	}
	if !s.data(2056) {
		t.Error("the data connection does not pass")
	}
	s.announce(2057)
	if out := ask("conntrack", "-D", "expect", "-p", "tcp", "--dport", "2057"); !strings.Contains(out, "dport=2057") {
		t.Error(out)
	}
	if s.data(2057) {
		t.Error("a data connection passes that is no longer expected")
	}
	k.run("conntrack", "-F", "expect")
	of := func(text string) (lines []string) {
		for line := range strings.Lines(text) {
			if strings.Contains(line, fmt.Sprintf("sport=%d ", s.port)) || strings.Contains(line, fmt.Sprintf("<sport>%d<", s.port)) {
				lines = append(lines, blank(line))
			}
		}
		return lines
	}
	eventually(t, "all events", func() bool {
		for _, x := range streams {
			if len(of(x.ours.String())) < 4 || len(of(x.theirs.String())) < 4 {
				return false
			}
		}
		return true
	})
	for format, x := range streams {
		if a, b := of(x.ours.String()), of(x.theirs.String()); !slices.Equal(a, b) {
			t.Errorf("events in %s\n%s\nconntrack -E\n%s", format, strings.Join(a, ""), strings.Join(b, ""))
		}
	}
	cancel()
	done.Wait()
	for _, x := range streams {
		x.tool.Wait()
	}

	// All forms of the connection with its helper; what is saved can be loaded, by either.
	for _, format := range []string{"extended", "xml", "save"} {
		eventually(t, "the same listing as conntrack's in "+format, func() bool {
			return blank(ask(append([]string{"conntrack", "-L", "-o", format}, client...)...)) == blank(k.run("conntrack", append([]string{"-L", "-o", format, "-p", "tcp"}, client[:4]...)...))
		})
	}
	eventually(t, "counters that are zero after they were shown", func() bool {
		first := ask(append([]string{"conntrack", "-L", "-z"}, client...)...)
		return strings.Contains(first, "packets=") && strings.Count(ask(append([]string{"conntrack", "-L"}, client...)...), "packets=0 bytes=0") == 2
	})
	save := []string{"conntrack", "-L", "-o", "save", "-s", "198.18.0.1"}
	for _, line := range []string{"-p tcp --sport 5 --dport 7 --state ESTABLISHED -u ASSURED,SEEN_REPLY", "-p udp --sport 5 --dport 7", "-p icmp --icmp-type 8 --icmp-code 0 --icmp-id 9",
		"-p gre --srckey 5 --dstkey 0x7", "-p sctp --sport 5 --dport 7 --state COOKIE_WAIT --orig-vtag 4000000000 --reply-vtag 8", "-p udplite --sport 5 --dport 7 -w 9", "-p 50", "-p tcp --sport 6 --dport 7 --state TIME_WAIT"} {
		words := append([]string{"conntrack", "-I", "-s", "198.18.0.1", "-d", "198.18.0.2", "-t", "1000"}, strings.Fields(line)...)
		ask(words...)
		k.run(words[0], words[1:]...)
		if _, err := call(t, append(words, "--control-socket", socket)...); err == nil || !strings.Contains(err.Error(), "there is such a connection already") {
			t.Errorf("%s, again: %v", line, err)
		}
	}
	sorted := func(text string) string {
		lines := strings.SplitAfter(blank(text), "\n")
		slices.Sort(lines)
		return strings.Join(lines, "")
	}
	saved := ask(save...)
	if a, b := sorted(saved), sorted(k.run(save[0], save[1:]...)); a != b || strings.Count(a, "\n") != 8 {
		t.Errorf("-L -o save\n%s\nconntrack prints\n%s", a, b)
	}
	file := write(t, "saved", saved)
	k.run("conntrack", "-D", "-s", "198.18.0.1")
	ask("conntrack", "-D", "-s", "198.18.0.1")
	ask("conntrack", "-R", file)
	k.run("conntrack", "-R", file)
	if a, b := sorted(ask(save...)), sorted(k.run(save[0], save[1:]...)); a != sorted(saved) || b != a {
		t.Errorf("loaded\n%s\nby conntrack\n%s\nfrom\n%s", a, b, saved)
	}

	// What was expected before is expected after: the firewall is another one, the control connection and its helper the same.
	s.announce(2060)
	ask("conntrack", "export", state)
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.end(); err != nil {
		t.Fatalf("%v\n%s", err, p.out.String())
	}
	p = start(t, l, args...)
	p.wait("msg=forwarding")
	if out := ask("conntrack", "import", state); !strings.Contains(out, "1 expectations of theirs") {
		t.Errorf("import: %q", out)
	}
	if !s.data(2060) {
		t.Error("a data connection that was expected before does not pass after the handover")
	}
	if out := ask("conntrack", "-L", "--json", "--dport", "2060"); !strings.Contains(out, fmt.Sprintf(`"master":{"proto":"tcp","src":%q,"dst":%q,"sport":%d,"dport":21}`, l.Addr(lab.Client, 4), l.Addr(lab.Server, 4), s.port)) {
		t.Errorf("its master: %s", out)
	}
	s.announce(2061) // the helper goes on reading
	if !s.data(2061) {
		t.Error("a data connection announced after the handover does not pass")
	}

	for _, r := range toolRows(t) {
		words := append([]string{"conntrack"}, strings.Fields(r.example)...)
		limited, stop := context.WithCancel(t.Context())
		if words[1] == "-E" { // it would not end
			go func() { time.Sleep(100 * time.Millisecond); stop() }()
		}
		var out buffer
		err := run(limited, append(words, "--control-socket", socket), &out)
		stop()
		nothing := err != nil && exitCode(err) == exitFailed && (strings.Contains(err.Error(), "0 ") || strings.Contains(err.Error(), "there is no such") || strings.Contains(err.Error(), "already"))
		switch r.here {
		case "yes":
			if err != nil && !nothing {
				t.Errorf("%s: %s: %v", r.options, r.example, err)
			}
		case "none":
			if err != nil || out.String() != "" {
				t.Errorf("%s: %s: %v, %q", r.options, r.example, err, out.String())
			}
		case "no":
			if exitCode(err) != exitUsage {
				t.Errorf("%s: %s: %v", r.options, r.example, err)
			}
		default:
			t.Errorf("%s: %q is neither yes, none nor no", r.options, r.here)
		}
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.end(); err != nil {
		t.Errorf("%v\n%s", err, p.out.String())
	}
}
