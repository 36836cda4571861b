package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"corewire/tools/lab"
)

// asProgram has the test binary be the program, so that it can run in a namespace, be signalled and be killed.
const asProgram = "CW_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// process is corewire run in the lab's middle.
type process struct {
	t    *testing.T
	lab  *lab.Lab
	cmd  *exec.Cmd
	out  buffer
	done chan error
}

// buffer is written by the process and read by the test.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func program(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	return cmd
}

func start(t *testing.T, l *lab.Lab, args ...string) *process {
	t.Helper()
	p := &process{t: t, lab: l, cmd: program(append([]string{"run"}, args...)...), done: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := l.Start(lab.Wire, p.cmd); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() { p.cmd.Process.Kill() })
	return p
}

// wait waits until the process has said something.
func (p *process) wait(text string) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%q", text), func() bool {
		select {
		case err := <-p.done:
			p.t.Fatalf("ended with %v before it said %q:\n%s", err, text, p.out.String())
		default:
		}
		return strings.Contains(p.out.String(), text)
	})
}

func (p *process) end() error {
	p.t.Helper()
	select {
	case err := <-p.done:
		return err
	case <-time.After(20 * time.Second):
		p.t.Fatalf("still runs:\n%s", p.out.String())
		return nil
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not reached: %s", what)
}

// echo answers datagrams at the server.
func echo(t *testing.T, l *lab.Lab, port int) {
	t.Helper()
	c, err := l.ListenPacket(t.Context(), lab.Server, "udp", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(b[:n], from)
		}
	}()
}

// answered tells whether a datagram from the client to the server's port comes back.
func answered(t *testing.T, l *lab.Lab, port int, patience time.Duration) bool {
	t.Helper()
	c, err := l.Dial(t.Context(), lab.Client, "udp", netip.AddrPortFrom(l.Addr(lab.Server, 4), uint16(port)).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		c.Write([]byte("hello"))
		c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if n, err := c.Read(make([]byte, 16)); err == nil && n == 5 {
			return true
		}
	}
	return false
}

func links(t *testing.T, l *lab.Lab) string {
	t.Helper()
	var s string
	if err := l.Do(lab.Wire, func() error {
		for _, name := range []string{lab.InsidePort, lab.OutPort} {
			i, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			conf, err := os.ReadFile("/sys/class/net/" + name + "/flags")
			if err != nil {
				return err
			}
			s += fmt.Sprintf("%s %v %s", i.Name, i.Flags, conf)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

const udpRules = `*filter
:FORWARD DROP [0:0]
-A FORWARD -m state --state ESTABLISHED -j ACCEPT
-A FORWARD -i in0 -p udp -m udp --dport 7000 -j ACCEPT
COMMIT
`

// The firewall as its operator has it: started, asked, reloaded, refused, ended, killed and released.
func TestRun(t *testing.T) {
	l := lab.Need(t, lab.Config{})
	before := links(t, l)
	dir := t.TempDir()
	rules, socket := write(t, "rules", udpRules), filepath.Join(dir, "cw.sock")
	args := []string{"--inside", lab.InsidePort, "--outside", lab.OutPort, "--rules", rules, "--control-socket", socket, "--metrics-addr", "127.0.0.1:9180",
		"--state-file", filepath.Join(dir, "state.json")}
	echo(t, l, 7000)
	echo(t, l, 7001)
	ask := func(words ...string) string {
		t.Helper()
		out, err := call(t, append(words, "--control-socket", socket)...)
		if err != nil {
			t.Errorf("corewire %s: %v", strings.Join(words, " "), err)
		}
		return out
	}

	notify := filepath.Join(dir, "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	told := func() string {
		t.Helper()
		b := make([]byte, 200)
		manager.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := manager.Read(b)
		if err != nil {
			t.Error(err)
		}
		return string(b[:n])
	}

	t.Setenv("NOTIFY_SOCKET", notify)
	p := start(t, l, args...)
	p.wait("msg=forwarding")
	if s := told(); !strings.HasPrefix(s, "READY=1\n") {
		t.Errorf("the service manager was told %q", s)
	}
	for _, want := range []string{"inside   in0 (veth, mtu 1500", "XDP native, copy mode, 1 queue, need_wakeup on", "outside  out0", "driver   xsk", "fails    closed", "1 worker, 2 rules", "control  " + socket, "metrics  http://127.0.0.1:9180/metrics"} {
		if !strings.Contains(p.out.String(), want) {
			t.Errorf("it did not say %q:\n%s", want, p.out.String())
		}
	}
	if !answered(t, l, 7000, 5*time.Second) {
		t.Error("no answer from the allowed port")
	}
	if answered(t, l, 7001, 200*time.Millisecond) {
		t.Error("an answer from the forbidden port")
	}
	if list := ask("conntrack", "list", "-p", "udp", "--dport", "7000"); !strings.Contains(list, "dst=10.73.0.2") || strings.Count(list, "\n") != 1 {
		t.Errorf("listing: %q", list)
	}
	if out := ask("rules", "show"); !strings.Contains(out, "policy DROP") || !strings.Contains(out, "udp  --  in0 ") {
		t.Errorf("rules:\n%s", out)
	}
	if out := ask("stats"); !strings.Contains(out, "accept") || !strings.Contains(out, "inside xdp") {
		t.Errorf("stats:\n%s", out)
	}
	if out := ask("status"); !strings.Contains(out, "XDP native") {
		t.Errorf("status:\n%s", out)
	}
	if c, err := l.Dial(t.Context(), lab.Wire, "tcp", "127.0.0.1:9180"); err != nil {
		t.Error(err)
	} else {
		fmt.Fprintf(c, "GET /metrics HTTP/1.0\r\n\r\n")
		var b bytes.Buffer
		b.ReadFrom(c)
		c.Close()
		if !strings.Contains(b.String(), `corewire_xdp_frames_total{action="to_socket",port="inside"}`) || !strings.Contains(b.String(), "corewire_up 1") {
			t.Errorf("metrics:\n%s", b.String())
		}
	}

	// What is refused leaves the running one as it is.
	for name, other := range map[string][]string{
		"the same socket":     args,
		"the same interfaces": append(append([]string{}, args...), "--control-socket", filepath.Join(dir, "other.sock"), "--metrics-addr="),
		"a missing interface": {"--inside", "nosuch0", "--outside", lab.OutPort, "--rules", rules, "--control-socket=", "--metrics-addr="},
	} {
		q := start(t, l, other...)
		err := q.end()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.ExitCode() != exitFailed {
			t.Errorf("%s: %v\n%s", name, err, q.out.String())
		}
		t.Logf("%s: %s", name, q.out.String())
	}

	// A reload with a mistake changes nothing; one without takes effect for connections that live as well.
	if err := os.WriteFile(rules, []byte(udpRules+"nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.cmd.Process.Signal(syscall.SIGHUP)
	p.wait("reload refused")
	if !answered(t, l, 7000, 5*time.Second) {
		t.Error("no answer after a refused reload")
	}
	if err := os.WriteFile(rules, []byte(strings.ReplaceAll(udpRules, "7000", "7001")), 0o600); err != nil {
		t.Fatal(err)
	}
	p.cmd.Process.Signal(syscall.SIGHUP)
	p.wait("msg=reloaded")
	if !answered(t, l, 7001, 5*time.Second) || answered(t, l, 7000, 200*time.Millisecond) {
		t.Error("the new rules are not in force")
	}
	if out := ask("config", "set", "nf_conntrack_udp_timeout=5", "log-level=warn"); !strings.Contains(out, `nf_conntrack_udp_timeout: "30" to "5"`) {
		t.Errorf("config set: %q", out)
	}

	// Its end restores everything.
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.end(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, p.out.String())
	}
	if s := told(); s != "STOPPING=1" {
		t.Errorf("the service manager was told %q", s)
	}
	if after := links(t, l); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the control socket is still there")
	}

	// A killed one leaves its program; the next one takes over; release removes what is left.
	p = start(t, l, args...)
	p.wait("msg=forwarding")
	p.cmd.Process.Kill()
	p.end()
	p = start(t, l, args...)
	p.wait("msg=forwarding")
	p.wait("taken over")
	if !answered(t, l, 7001, 5*time.Second) {
		t.Error("no answer after the takeover")
	}
	p.cmd.Process.Kill()
	p.end()
	for _, want := range []string{"released in0 and out0", "nothing to release"} {
		r := program("release", "--inside", lab.InsidePort, "--outside", lab.OutPort, "--state-file", filepath.Join(dir, "state.json"))
		var out buffer
		r.Stdout, r.Stderr = &out, &out
		if err := l.Run(lab.Wire, r); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("release: %v\n%s", err, out.String())
		}
	}
	if after := links(t, l); after != before {
		t.Errorf("before:\n%s\nafter the release:\n%s", before, after)
	}
}

// The context's end is the firewall's, as a signal's is; here it ends before the firewall has begun.
func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := run(ctx, []string{"run", "--inside", "nosuch0", "--outside", "nosuch1", "--rules", write(t, "rules", goodRules), "--control-socket=", "--metrics-addr="}, &bytes.Buffer{})
	if exitCode(err) != exitFailed {
		t.Error(err)
	}
}
