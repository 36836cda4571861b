package main

import (
	"context"
	"fmt"
	"io"
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

func TestTranslate(t *testing.T) {
	for _, c := range [][2]string{
		{"conntrack -L", "conntrack list"},
		{"conntrack -L expect -f ipv6", "conntrack list expect -f ipv6"},
		{"conntrack --control-socket /x -E -e NEW", "conntrack events --control-socket /x -e NEW"},
		{"conntrack -p tcp --delete --dport 80", "conntrack delete -p tcp --dport 80"},
		{"conntrack -U -m 5", "conntrack update -m 5"},
		{"conntrack -L -n 10.0.0.1 -p tcp", "conntrack list --src-nat=10.0.0.1 -p tcp"},
		{"conntrack -L -j", "conntrack list --any-nat"},
		{"conntrack -L --dst-nat expect", "conntrack list --dst-nat expect"},
		{"conntrack -U --label-del a,b -p tcp", "conntrack update --label-del=a,b -p tcp"},
		{"conntrack -U --label-del -p tcp", "conntrack update --label-del -p tcp"},
		{"conntrack -R -", "conntrack load -"},
		{"conntrack list -s 10.0.0.1", "conntrack list -s 10.0.0.1"},
		{"conntrack import -- -L", "conntrack import -- -L"},
		{"stats -L", "stats -L"},
		{"rules -nvL web", "rules show -n -v web"},
		{"rules -t raw -L --line-numbers", "rules show -t raw --line-numbers"},
		{"rules -S web", "rules save web"},
		{"rules -x", "rules -x"},
		{"rules -I FORWARD 2 -s 10.0.0.1 -j DROP", "rules insert FORWARD 2 -s 10.0.0.1 -j DROP"},
		{"set -A a 10.0.0.1 -exist", "set add a 10.0.0.1 --exist"},
		{"set -exist add a 10.0.0.1 timeout 5", "set add --exist a 10.0.0.1 timeout 5"},
		{"set --control-socket /x -L a -terse", "set list --control-socket /x a --terse"},
		{"set -! restore", "set restore -!"},
		{"set list -o save", "set list -o save"},
		{"set --help", "set --help"},
		{"conntrack", "conntrack"},
	} {
		if got := strings.Join(translate(strings.Fields(c[0])), " "); got != c[1] {
			t.Errorf("%s: %s, want %s", c[0], got, c[1])
		}
	}
}

const tcpRules = `*filter
:FORWARD DROP [0:0]
-A FORWARD -m state --state ESTABLISHED -j ACCEPT
-A FORWARD -i in0 -p tcp -m tcp --dport 9000 -m state --state NEW -j ACCEPT
COMMIT
`

// kernel is the kernel's connection tracking at the client, which sees the same segments as the wire.
type kernel struct {
	t *testing.T
	l *lab.Lab
}

// newKernel switches it on; where the conntrack tool is missing the test is skipped, or fails in CI.
func newKernel(t *testing.T, l *lab.Lab) *kernel {
	t.Helper()
	for _, name := range []string{"conntrack", "iptables", "sysctl"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%v (the test compares with what it prints)", err)
			}
			t.Skipf("%v (the test compares with what it prints)", err)
		}
	}
	k := &kernel{t, l}
	k.run("iptables", "-A", "OUTPUT", "-m", "state", "--state", "NEW,ESTABLISHED", "-j", "ACCEPT")
	// By default connections that began while nobody listened have no events (nf_conntrack_events=2); ours always have.
	k.run("sysctl", "-qw", "net.netfilter.nf_conntrack_acct=1", "net.netfilter.nf_conntrack_events=1")
	return k
}

func (k *kernel) run(name string, args ...string) string {
	k.t.Helper()
	cmd := exec.Command(name, args...)
	var out buffer
	cmd.Stdout = &out
	if err := k.l.Run(lab.Client, cmd); err != nil {
		k.t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return out.String()
}

// The operator's surface on a living wire: what is listed and told equals what the conntrack tool prints of the same
// connections, which outlive the firewall in a file.
func TestConntrack(t *testing.T) {
	l := lab.Need(t, lab.Config{})
	k := newKernel(t, l)
	dir := t.TempDir()
	rules, socket, state := write(t, "rules", tcpRules), filepath.Join(dir, "cw.sock"), filepath.Join(dir, "connections")
	args := []string{"--inside", lab.InsidePort, "--outside", lab.OutPort, "--rules", rules, "--control-socket", socket, "--metrics-addr=",
		"--state-file", filepath.Join(dir, "state.json"), "--nf_conntrack_tcp_loose=0", "--nf_conntrack_acct=1"}
	ask := func(words ...string) string {
		t.Helper()
		out, err := call(t, append(words, "--control-socket", socket)...)
		if err != nil {
			t.Errorf("corewire %s: %v", strings.Join(words, " "), err)
		}
		return out
	}
	listener, err := l.Listen(t.Context(), lab.Server, "tcp", "0.0.0.0:9000")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				time.Sleep(300 * time.Millisecond) // the client's FIN is acknowledged first
				c.Close()
			}()
		}
	}()
	p := start(t, l, args...)
	p.wait("msg=forwarding")
	address := netip.AddrPortFrom(l.Addr(lab.Server, 4), 9000).String()
	c, err := l.Dial(t.Context(), lab.Client, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	talk := func() {
		t.Helper()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
	}
	talk()

	left := regexp.MustCompile(`( 6 |<timeout>)\d+|id=\d+|<id>\d+`)
	blank := func(s string) string { return left.ReplaceAllString(s, "$1#") }
	for _, format := range []string{"extended", "xml", "extended,id"} {
		eventually(t, "the same listing as conntrack's in "+format, func() bool {
			return blank(ask("conntrack", "-L", "-p", "tcp", "--dport", "9000", "-o", format)) == blank(k.run("conntrack", "-L", "-p", "tcp", "--dport", "9000", "-o", format))
		})
	}
	if out := ask("conntrack", "-U", "-p", "tcp", "--mark", "5"); !strings.Contains(out, " mark=5 ") {
		t.Errorf("update: %q", out)
	}
	if out := ask("conntrack", "-C"); out != "1\n" {
		t.Errorf("count: %q", out)
	}
	if out := ask("conntrack", "-S"); !strings.HasPrefix(out, "worker=0 found=0 invalid=") {
		t.Errorf("stats: %q", out)
	}
	if out := ask("conntrack", "-L", "expect"); out != "" {
		t.Errorf("expectations: %q", out)
	}
	if out, err := call(t, "conntrack", "-D", "-s", "192.0.2.1", "--control-socket", socket); err == nil || out != "" || exitCode(err) != exitFailed {
		t.Errorf("delete of nothing: %q, %v", out, err)
	}
	if out := ask("sysctl", "-w", "net.netfilter.nf_conntrack_tcp_timeout_established=1000", "net.ipv4.ipfrag_time=7"); out != "net.netfilter.nf_conntrack_tcp_timeout_established = 1000\nnet.ipv4.ipfrag_time = 7\n" {
		t.Errorf("sysctl: %q", out)
	}
	if _, err := call(t, "sysctl", "nf_conntrack_udp_timeout=9", "nf_conntrack_icmp_timeout=x", "--control-socket", socket); exitCode(err) != exitRefused {
		t.Errorf("sysctl with a mistake: %v", err)
	}
	if out := ask("sysctl", "-n", "nf_conntrack_udp_timeout", "nf_conntrack_count"); out != "30\n1\n" {
		t.Errorf("sysctl after the mistake: %q", out)
	}
	// The connection keeps its old deadline until its next packet, here and in the kernel.
	k.run("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_established=1000")
	timeouts := func() [2]string {
		return [2]string{strings.Fields(ask("conntrack", "list"))[2], strings.Fields(k.run("conntrack", "-L", "-p", "tcp", "--dport", "9000"))[2]}
	}
	for i, s := range timeouts() {
		if len(s) != 6 {
			t.Errorf("%s s left after the setting changed (%d: 0 here, 1 in the kernel)", s, i)
		}
	}
	talk()
	eventually(t, "the new timeout in both", func() bool {
		both := timeouts()
		return len(both[0]) <= 4 && len(both[1]) <= 4
	})

	// The connection outlives the firewall.
	ask("conntrack", "export", state)
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.end(); err != nil {
		t.Fatalf("%v\n%s", err, p.out.String())
	}
	p = start(t, l, args...)
	p.wait("msg=forwarding")
	if out := ask("conntrack", "import", state); out != "1 connections taken over, 0 known already, 0 expired since\n" {
		t.Errorf("import: %q", out)
	}
	talk()
	if out := ask("conntrack", "-L", "-m", "5"); strings.Count(out, "\n") != 1 || !strings.Contains(out, "ESTABLISHED") {
		t.Errorf("taken over: %q", out)
	}
	ask("conntrack", "-U", "-p", "tcp", "--mark", "0") // the kernel's has none

	// Events, as conntrack -E prints them of the same segments.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var ours, theirs buffer
	var done sync.WaitGroup
	done.Go(func() {
		if err := run(ctx, []string{"conntrack", "-E", "-p", "tcp", "-e", "NEW,UPDATES", "--control-socket", socket}, &ours); err != nil {
			t.Error(err)
		}
	})
	tool := exec.CommandContext(ctx, "stdbuf", "-oL", "conntrack", "-E", "-p", "tcp", "-e", "NEW,UPDATES")
	tool.Stdout = &theirs
	if err := l.Start(lab.Client, tool); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both listening", func() bool {
		d, err := l.Dial(t.Context(), lab.Client, "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		d.Close()
		return strings.Contains(ours.String(), "[NEW]") && strings.Contains(theirs.String(), "[NEW]")
	})
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	c.Close()
	sport := fmt.Sprintf(" sport=%d ", netip.MustParseAddrPort(c.LocalAddr().String()).Port())
	of := func(b *buffer) (lines []string) {
		for line := range strings.Lines(b.String()) {
			if strings.Contains(line, sport) {
				lines = append(lines, line)
			}
		}
		return lines
	}
	defer func() {
		if t.Failed() {
			t.Logf("events\n%s\nconntrack -E\n%s", ours.String(), theirs.String())
		}
	}()
	eventually(t, "TIME_WAIT in both", func() bool {
		return strings.Contains(strings.Join(of(&ours), ""), "TIME_WAIT") && strings.Contains(strings.Join(of(&theirs), ""), "TIME_WAIT")
	})
	if a, b := of(&ours), of(&theirs); len(a) != 4 || !slices.Equal(a, b) {
		t.Errorf("events\n%s\nconntrack -E\n%s", strings.Join(a, ""), strings.Join(b, ""))
	}
	cancel()
	done.Wait()
	tool.Wait()
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.end(); err != nil {
		t.Errorf("%v\n%s", err, p.out.String())
	}
}
