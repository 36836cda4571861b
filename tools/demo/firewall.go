package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"corewire/tools/lab"
)

// firewall is the corewire process in the middle of the lab, driven only by what an operator has: its command line.
type firewall struct {
	lab     *lab.Lab
	binary  string
	rules   string // path of the rule file
	socket  string // path of the control socket
	workers int
	log     logBuffer

	command *exec.Cmd // nil when not running
	ended   chan error
}

// newFirewall writes the rule file; start starts the process.
func newFirewall(l *lab.Lab, binary, dir string, o options) (*firewall, error) {
	f := &firewall{lab: l, binary: binary, rules: filepath.Join(dir, "demo.rules"), socket: filepath.Join(dir, "corewire.sock"), workers: o.workers}
	if err := os.WriteFile(f.rules, ruleFile, 0o600); err != nil {
		return nil, fmt.Errorf("write rule file: %w", err)
	}
	return f, nil
}

// arguments is the command line of corewire run.
func (f *firewall) arguments() []string {
	return []string{"run", "--inside", lab.InsidePort, "--outside", lab.OutPort, "--rules", f.rules,
		"--workers", strconv.Itoa(f.workers), "--control-socket", f.socket, "--metrics-addr", metricsInside,
		"--state-file", filepath.Join(filepath.Dir(f.socket), "state.json")}
}

// metricsInside is where corewire serves its metrics, inside the lab's middle namespace.
const metricsInside = "127.0.0.1:9180"

// start starts corewire run and waits until it answers on its control socket.
func (f *firewall) start(ctx context.Context) error {
	f.command = exec.Command(f.binary, f.arguments()...)
	f.command.Stdout, f.command.Stderr = &f.log, &f.log
	f.command.WaitDelay = time.Second
	if err := f.lab.Start(lab.Wire, f.command); err != nil {
		f.command = nil
		return err
	}
	f.ended = make(chan error, 1)
	go func(c *exec.Cmd, ended chan<- error) { ended <- c.Wait() }(f.command, f.ended)
	deadline := time.Now().Add(patience)
	for {
		_, err := f.verb(ctx, "conntrack", "count")
		if err == nil {
			return nil
		}
		select {
		case end := <-f.ended:
			f.command = nil
			return fmt.Errorf("corewire run ended: %w", errors.Join(end, errors.New(f.log.last())))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("corewire does not answer after %v: %w", patience, err)
		}
	}
}

// announced returns what corewire said on start about what it really got, without the details of each interface.
func (f *firewall) announced() []string {
	var lines []string
	for _, line := range f.log.lines() {
		if !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "time=") && len(lines) < 8 {
			lines = append(lines, line)
		}
	}
	return lines
}

// kill ends the process as a crash would, without a chance to clean up.
func (f *firewall) kill() error {
	if f.command == nil {
		return errors.New("kill corewire: it is not running")
	}
	if err := f.command.Process.Kill(); err != nil {
		return fmt.Errorf("kill corewire: %w", err)
	}
	<-f.ended
	f.command = nil
	return nil
}

// stop ends the process as an operator would. It may be called when it does not run.
func (f *firewall) stop() error {
	if f.command == nil {
		return nil
	}
	defer func() { f.command = nil }()
	if err := f.command.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop corewire: %w", err)
	}
	select {
	case err := <-f.ended:
		if err != nil {
			return fmt.Errorf("corewire after SIGTERM: %w", err)
		}
		return nil
	case <-time.After(patience):
		f.command.Process.Kill()
		<-f.ended
		return fmt.Errorf("corewire still ran %v after SIGTERM", patience)
	}
}

// verb runs another verb of the binary against the running firewall and returns what it printed.
func (f *firewall) verb(ctx context.Context, words ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.binary, append(words, "--control-socket", f.socket)...)
	cmd.WaitDelay = time.Second
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("corewire %s: %w: %s", strings.Join(words, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out, nil
}

// connections returns the lines of corewire conntrack list.
func (f *firewall) connections(ctx context.Context) ([]string, error) {
	out, err := f.verb(ctx, "conntrack", "list")
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' }), nil
}

// decode runs a verb and reads the JSON object that it prints.
func (f *firewall) decode(ctx context.Context, into any, words ...string) error {
	out, err := f.verb(ctx, words...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("corewire %s: %w", strings.Join(words, " "), err)
	}
	return nil
}

// complain shows the end of corewire's log, when it did not do what it should.
func (f *firewall) complain(out *report) {
	lines := f.log.lines()
	if n := len(lines); n > 15 {
		lines = lines[n-15:]
	}
	if len(lines) > 0 {
		out.note(append([]string{"the end of corewire's log:"}, lines...)...)
	}
}

// saveLog writes the log to a file.
func (f *firewall) saveLog(path string) error {
	if err := os.WriteFile(path, []byte(strings.Join(f.log.lines(), "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the log: %w", err)
	}
	return nil
}

// proxy passes connections to address on to the metrics inside the lab until ctx ends; it returns the address it got.
func (f *firewall) proxy(ctx context.Context, address string) (string, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		host, _, splitErr := net.SplitHostPort(address)
		if splitErr != nil {
			return "", fmt.Errorf("listen for metrics: %w", err)
		}
		// The usual port may be taken by a corewire that runs on this machine.
		if listener, err = net.Listen("tcp", net.JoinHostPort(host, "0")); err != nil {
			return "", fmt.Errorf("listen for metrics: %w", err)
		}
	}
	context.AfterFunc(ctx, func() { listener.Close() })
	go func() {
		for {
			outer, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer outer.Close()
				inner, err := f.lab.Dial(ctx, lab.Wire, "tcp", metricsInside)
				if err != nil {
					return
				}
				defer inner.Close()
				var both sync.WaitGroup
				both.Go(func() { pass(inner, outer) })
				both.Go(func() { pass(outer, inner) })
				both.Wait()
			}()
		}
	}()
	return listener.Addr().String(), nil
}

// pass copies one direction and passes its end on.
func pass(to, from net.Conn) {
	to.(*net.TCPConn).ReadFrom(from)
	to.(*net.TCPConn).CloseWrite()
}

// logBuffer collects what corewire prints; exec writes it from another goroutine.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// lines returns the lines so far.
func (b *logBuffer) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.FieldsFunc(b.text.String(), func(r rune) bool { return r == '\n' })
}

// last returns the last line, or "no output".
func (b *logBuffer) last() string {
	if lines := b.lines(); len(lines) > 0 {
		return lines[len(lines)-1]
	}
	return "no output"
}
