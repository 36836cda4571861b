package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"corewire/tools/lab"
	"corewire/tools/traffic"
)

// subjectCPU is the processor of what is measured. The generator has the last one.
const subjectCPU = 0

// patience bounds every wait for a subject.
const patience = 10 * time.Second

// subject is something that forwards frames between the wire's ports.
type subject struct {
	name   string // in tables and JSON
	detail string // what exactly it is here, for the output's head
	// start makes l forward by bench.rules with so many rules more. It returns what stops it again.
	start func(ctx context.Context, l *lab.Lab, dir string, rules int) (running, error)
}

// running is a subject at work.
type running struct {
	stop  func() error
	count func() (int, error) // connections tracked; nil where none are
	flush func() error        // forgets them; nil likewise
	tasks []int               // processes and kernel threads that do its work
}

// filters are the bridge firewalls: the command that loads the rules, and the rules in its language. Those with an only are
// measured only where the number of rules is what matters, which it says.
var filters = []struct {
	name    string
	command []string
	rules   func(n int) []byte
	only    string
}{
	{"bridge-iptables", []string{"iptables-restore"}, iptablesRules, ""},
	{"bridge-legacy", []string{"iptables-legacy-restore"}, iptablesRules, ", one after the other"},
	{"bridge-nft", []string{"nft", "-f", "-"}, func(n int) []byte { return nftRules(n, false) }, ", one after the other"},
	{"bridge-nft-set", []string{"nft", "-f", "-"}, func(n int) []byte { return nftRules(n, true) }, ", one rule with a set"},
}

// subjects returns what can be measured here, and the reasons why something cannot.
func subjects(binary string, manyRules bool) (list []subject, missing []string) {
	if path, err := filepath.Abs(binary); err != nil {
		missing = append(missing, fmt.Sprintf("corewire: %v", err))
	} else if _, err := os.Stat(path); err != nil {
		missing = append(missing, fmt.Sprintf("corewire: %v (run make build first)", err))
	} else {
		list = append(list, subject{"corewire", path, func(ctx context.Context, l *lab.Lab, dir string, rules int) (running, error) {
			return startCorewire(ctx, l, path, dir, rules)
		}})
	}
	list = append(list, subject{"bare-afxdp", "package ring, one worker, no tracking, no rules", startBare})
	// Which backend iptables-restore has makes a difference, so name it.
	for _, f := range filters {
		if len(f.only) > 0 && !manyRules {
			continue
		}
		path, err := exec.LookPath(f.command[0])
		if err != nil {
			missing = append(missing, fmt.Sprintf("%s: %s is not installed", f.name, f.command[0]))
			continue
		}
		version, _ := exec.Command(path, "--version").Output()
		list = append(list, subject{f.name, "Linux bridge, br_netfilter, nf_conntrack, " + strings.TrimSpace(string(version)) + f.only,
			func(_ context.Context, l *lab.Lab, _ string, rules int) (running, error) {
				return startFilter(l, f.command, f.rules(rules))
			}})
	}
	if why := missingOVS(); why != "" {
		missing = append(missing, "ovs: "+why)
	} else {
		version, _ := exec.Command("ovs-vswitchd", "--version").Output()
		line, _, _ := strings.Cut(string(version), "\n")
		list = append(list, subject{"ovs", "userspace datapath over AF_XDP, its own connection tracking, the same rules as OpenFlow's, " + line, startOVS})
	}
	list = append(list, subject{"bridge", "Linux bridge alone", func(_ context.Context, l *lab.Lab, _ string, _ int) (running, error) {
		threads, err := startBridge(l, lab.Plain)
		return running{stop: func() error { return nil }, tasks: threads}, err
	}})
	return list, missing
}

// startCorewire runs the real binary and waits until it answers.
func startCorewire(ctx context.Context, l *lab.Lab, binary, dir string, n int) (r running, err error) {
	rules, socket := filepath.Join(dir, "bench.rules"), filepath.Join(dir, "corewire.sock")
	if err := os.WriteFile(rules, iptablesRules(n), 0o600); err != nil {
		return r, fmt.Errorf("write rule file: %w", err)
	}
	cmd := exec.Command(binary, "run", "--inside", lab.InsidePort, "--outside", lab.OutPort, "--rules", rules, "--workers", "1", "--cpus", strconv.Itoa(subjectCPU),
		"--control-socket", socket, "--metrics-addr", "", "--state-file", filepath.Join(dir, "state.json"))
	p, err := startProcess(l, cmd)
	if err != nil {
		return r, err
	}
	verb := func(words ...string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		out, err := exec.CommandContext(ctx, binary, append(words, "--control-socket", socket)...).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("corewire %s: %w: %s", strings.Join(words, " "), err, bytes.TrimSpace(out))
		}
		return out, nil
	}
	count := func() (int, error) {
		out, err := verb("conntrack", "count", "--json")
		if err != nil {
			return 0, err
		}
		var c struct{ Count int }
		if err := json.Unmarshal(out, &c); err != nil {
			return 0, fmt.Errorf("corewire conntrack count: %w", err)
		}
		return c.Count, nil
	}
	err = p.until(ctx, func() error { _, err := count(); return err })
	if err != nil {
		return r, errors.Join(err, p.stop())
	}
	return running{p.stop, count, func() error { _, err := verb("conntrack", "flush"); return err }, []int{cmd.Process.Pid}}, nil
}

// startBare runs this program as the bare forwarder.
func startBare(ctx context.Context, l *lab.Lab, dir string, _ int) (r running, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.Command(self, forwardVerb, lab.InsidePort, lab.OutPort, filepath.Join(dir, "state.json"))
	p, err := startProcess(l, cmd)
	if err != nil {
		return r, err
	}
	err = p.until(ctx, func() error {
		if !strings.Contains(p.log.String(), readyLine) {
			return errors.New("the bare forwarder is not ready")
		}
		return nil
	})
	if err != nil {
		return r, errors.Join(err, p.stop())
	}
	return running{stop: p.stop, tasks: []int{cmd.Process.Pid}}, nil
}

// startBridge makes the bridge, and lets its ports receive on the subject's processor. It returns the threads that do.
func startBridge(l *lab.Lab, filter lab.Filter) (threads []int, err error) {
	if err := l.Bridge(filter); err != nil {
		return nil, err
	}
	if err := l.Receive(); err != nil {
		return nil, err
	}
	return threads, l.Do(lab.Wire, func() error {
		for _, port := range []string{lab.InsidePort, lab.OutPort} {
			added, err := threadNAPI(port, subjectCPU)
			if err != nil {
				return err
			}
			threads = append(threads, added...)
		}
		return nil
	})
}

// startFilter makes the bridge with netfilter and loads the rules.
func startFilter(l *lab.Lab, command []string, rules []byte) (r running, err error) {
	threads, err := startBridge(l, lab.Netfilter)
	if err != nil {
		return r, err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = bytes.NewReader(rules)
	var complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &complaint, &complaint
	if err := l.Run(lab.Wire, cmd); err != nil {
		return r, fmt.Errorf("%s: %w: %s", command[0], err, bytes.TrimSpace(complaint.Bytes()))
	}
	count := func() (n int, err error) {
		err = l.Do(lab.Wire, func() error {
			text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
			if err != nil {
				return fmt.Errorf("count connections: %w", err)
			}
			n, err = strconv.Atoi(strings.TrimSpace(string(text)))
			return err
		})
		return n, err
	}
	flush := func() error {
		return l.Do(lab.Wire, func() error {
			if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
				return fmt.Errorf("flush connections: %w", err)
			}
			return nil
		})
	}
	return running{func() error { return nil }, count, flush, threads}, nil
}

// threadNAPI moves an interface's NAPI into kernel threads (Documentation/networking/napi.rst), binds them to a processor and
// returns them.
func threadNAPI(port string, cpu int) ([]int, error) {
	// Interfaces of other labs on this machine may have the same name; theirs are not to be touched.
	prefix := "napi/" + port + "-"
	before, err := traffic.Kernel(prefix)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile("/sys/class/net/"+port+"/threaded", []byte("1"), 0); err != nil {
		return nil, fmt.Errorf("thread NAPI of %s: %w", port, err)
	}
	threads, err := traffic.Kernel(prefix)
	if err != nil {
		return nil, err
	}
	threads = slices.DeleteFunc(threads, func(pid int) bool { return slices.Contains(before, pid) })
	if len(threads) == 0 {
		return nil, fmt.Errorf("thread NAPI of %s: no thread appeared", port)
	}
	for _, pid := range threads {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(pid, &set); err != nil {
			return nil, fmt.Errorf("bind NAPI thread of %s to processor %d: %w", port, cpu, err)
		}
		// A softirq would not wait for other programs either, and the queue of 256 frames is full long before a tick.
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
		if err := unix.SchedSetAttr(pid, &attr, 0); err != nil {
			return nil, fmt.Errorf("raise priority of NAPI thread of %s: %w", port, err)
		}
	}
	return threads, nil
}

// process is a subject that is a process in the wire's namespace.
type process struct {
	cmd   *exec.Cmd
	log   *logBuffer
	ended chan error
}

func startProcess(l *lab.Lab, cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, log: &logBuffer{}, ended: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = p.log, p.log, time.Second
	if err := l.Start(lab.Wire, cmd); err != nil {
		return nil, err
	}
	go func() { p.ended <- cmd.Wait() }()
	return p, nil
}

// until calls ready until it returns nil.
func (p *process) until(ctx context.Context, ready func() error) error {
	for deadline := time.Now().Add(patience); ; {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case end := <-p.ended:
			p.ended <- end // for stop
			return fmt.Errorf("%s ended: %w: %s", filepath.Base(p.cmd.Path), end, p.log.last())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %v: %w: %s", filepath.Base(p.cmd.Path), patience, err, p.log.last())
		}
	}
}

// stop ends the process in order, or by force, which is an error.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
	return p.wait()
}

// wait waits for the end of a process that was told to end, and brings it about by force, which is an error.
func (p *process) wait() error {
	select {
	case err := <-p.ended:
		if err != nil {
			return fmt.Errorf("%s: %w: %s", filepath.Base(p.cmd.Path), err, p.log.last())
		}
		return nil
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s still ran %v after it was told to end", filepath.Base(p.cmd.Path), patience)
	}
}

// logBuffer collects a process's output, which exec writes from another goroutine.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// last returns the last line.
func (b *logBuffer) last() string {
	line := "no output"
	for s := bufio.NewScanner(strings.NewReader(b.String())); s.Scan(); {
		line = s.Text()
	}
	return line
}
