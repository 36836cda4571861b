package ring

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"corewire/internal/packet"
	"corewire/internal/spelling"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkLab is a lab with what a Link needs: a bpffs and a state file of its own.
type linkLab struct {
	*lab
	config Config
}

func newLinkLab(t *testing.T, queues int) *linkLab {
	t.Helper()
	l := &linkLab{lab: newLab(t, queues)}
	dir := t.TempDir()
	bpf := filepath.Join(dir, "bpf")
	if err := os.Mkdir(bpf, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", bpf, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(bpf, 0); err != nil {
			t.Error(err)
		}
	})
	l.config = Config{
		Inside: l.port[packet.Inside].Name, Outside: l.port[packet.Outside].Name,
		Chunks: 512, RingSize: 64, PinPath: bpf, StatePath: filepath.Join(dir, "state.json"),
		HeartbeatTimeout: MaxHeartbeatTimeout, // a slow machine must not look like a hanging worker
	}
	h := testHost(t)
	for _, f := range l.far {
		// A frame that XDP redirects into a veth pair is taken only by an end that polls: with GRO on, or a program.
		if err := h.eth.Change(f.link.Attrs().Name, map[string]bool{"rx-gro": true}); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range l.port {
		// Settings as an ordinary host has them.
		if err := h.eth.Change(d.Name, map[string]bool{"rx-gro": true, "rx-vlan-hw-parse": true}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+d.Name+"/accept_dad", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+d.Name+"/disable_ipv6", []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
	}
	dev := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.port[packet.Inside].Index}}
	for _, s := range []string{"2001:db8::1/64", "192.0.2.1/24"} {
		a, err := netlink.ParseAddr(s)
		if err == nil {
			err = netlink.AddrAdd(dev, a)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func testHost(t *testing.T) *host {
	t.Helper()
	h, err := openHost()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.close() })
	return h
}

// snapshot describes the ports as `ip -d link`, `ip addr`, `ethtool -k`, `ethtool -l` would.
func (l *linkLab) snapshot(t *testing.T) map[string]string {
	t.Helper()
	h, err := openHost()
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	s := make(map[string]string)
	for port, d := range l.port {
		dev, err := h.device(packet.Port(port), d.Name)
		if err != nil {
			s[d.Name] = err.Error()
			continue
		}
		put := func(what string, v any) { s[d.Name+" "+what] = fmt.Sprint(v) }
		put("flags", dev.attrs.RawFlags&(unix.IFF_UP|unix.IFF_PROMISC|unix.IFF_ALLMULTI))
		put("promiscuity", dev.attrs.Promisc)
		put("mtu", dev.mtu)
		put("queues", [2]int{dev.rx, dev.tx})
		if dev.attrs.Xdp != nil {
			put("xdp", *dev.attrs.Xdp)
		}
		f, err := h.eth.Features(d.Name)
		if err != nil {
			t.Fatal(err)
		}
		put("features", f)
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + d.Name + "/disable_ipv6")
		put("disable_ipv6", string(b)+fmt.Sprint(err))
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			a, err := h.addresses(dev, family)
			put(fmt.Sprint("addresses ", family), fmt.Sprint(a, err))
		}
	}
	return s
}

func diff(a, b map[string]string) string {
	var s strings.Builder
	for k := range maps.Keys(a) {
		if a[k] != b[k] {
			fmt.Fprintf(&s, "\n%s: %s -> %s", k, a[k], b[k])
		}
	}
	return s.String()
}

// resources counts what this process holds: descriptors, goroutines, mappings of rings and heartbeats.
type resources struct{ fds, goroutines int }

func held(t *testing.T) resources {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return resources{len(d), runtime.NumGoroutine()}
}

// unleaked checks that nothing more is held than before.
func (r resources) unleaked(t *testing.T) {
	t.Helper()
	eventually(t, "the end of all goroutines", func() bool { return runtime.NumGoroutine() <= r.goroutines })
	if now := held(t); now.fds > r.fds {
		t.Errorf("%d file descriptors, %d before", now.fds, r.fds)
	}
}

// forwarder is the least that can stand behind a link: each frame leaves at the other port.
type forwarder struct {
	link    *Link
	stop    atomic.Bool
	mute    atomic.Bool // goes on, but no longer says so
	workers sync.WaitGroup
	failed  atomic.Pointer[error]
}

func forward(l *Link) *forwarder {
	f := &forwarder{link: l}
	for i, w := range l.Wires() {
		f.workers.Add(1)
		go func() {
			defer f.workers.Done()
			burst := make([]packet.Frame, 32)
			for !f.stop.Load() {
				if now, err := now(); err == nil && !f.mute.Load() {
					l.Beat(i, now)
				}
				for _, p := range []packet.Port{packet.Inside, packet.Outside} {
					n := w.Receive(p, burst)
					sent := w.Send(p.Other(), burst[:n])
					w.Release(burst[sent:n])
				}
				if err := errors.Join(w.Flush(), w.Wait(time.Millisecond)); err != nil {
					f.failed.Store(&err)
					return
				}
			}
		}()
	}
	return f
}

func (f *forwarder) end(t *testing.T) {
	t.Helper()
	f.stop.Store(true)
	f.workers.Wait()
	if err := f.failed.Load(); err != nil {
		t.Error(*err)
	}
}

var sequence uint32

// crosses sends frames in at one far side until one comes out at the other.
func (l *linkLab) crosses(t *testing.T, from packet.Port) {
	t.Helper()
	sequence++
	seq, tries := sequence, 0
	eventually(t, "a frame's way from "+from.String(), func() bool {
		if tries++; tries%16 == 1 {
			if err := l.far[from].send(udp(100, 7, seq)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Millisecond)
		for {
			b := l.far[from.Other()].receive()
			if b == nil {
				return false
			}
			if _, got := flowSeq(b); got == seq {
				return true
			}
		}
	})
}

// blocked sends frames in at one far side and checks by the program's counters that all of them were dropped there.
func (l *linkLab) blocked(t *testing.T, from packet.Port, count func() Counters) {
	t.Helper()
	for l.far[from.Other()].receive() != nil {
	}
	before := count()
	sequence++
	for range 10 {
		if err := l.far[from].send(udp(100, 7, sequence)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "dropping", func() bool { return count().FailClosed >= before.FailClosed+10 })
	for {
		b := l.far[from.Other()].receive()
		if b == nil {
			break
		}
		if _, seq := flowSeq(b); seq == sequence {
			t.Fatal("a frame came through a wire that is closed")
		}
	}
}

// pinned reads the counters that a killed process left.
func (l *linkLab) pinned(t *testing.T, port packet.Port) func() Counters {
	return func() Counters {
		t.Helper()
		m, err := ebpf.LoadPinnedMap(filepath.Join(l.config.PinPath, pinName(pairName(l.config.Inside, l.config.Outside)), pinVersion, "counters"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		var c [packet.Ports]Counters
		if err := (&program{counts: m}).counters(&c); err != nil {
			t.Fatal(err)
		}
		return c[port]
	}
}

func mustOpen(t *testing.T, c Config) *Link {
	t.Helper()
	l, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestLink: both modes and both drivers forward both ways, say what they are, and leave no trace.
func TestLink(t *testing.T) {
	for _, test := range []struct {
		mode        XDPMode
		asked, want Driver
	}{{Native, DriverAuto, DriverXSK}, {Generic, DriverXSK, DriverXSK}, {Native, DriverAsavie, DriverAsavie}} {
		t.Run(test.mode.String()+"/"+test.asked.String(), func(t *testing.T) {
			l := newLinkLab(t, 2)
			before, held := l.snapshot(t), held(t)
			c, mode := l.config, test.mode
			c.XDPMode, c.Driver = mode, test.asked
			k := mustOpen(t, c)
			f := forward(k)
			for range 3 {
				l.crosses(t, packet.Inside)
				l.crosses(t, packet.Outside)
			}
			r := k.Report()
			if r.Driver != test.want || r.Workers != 2 || r.Fallback != "" {
				t.Errorf("report: %+v", r)
			}
			for port, p := range r.Port {
				if p.XDPMode != mode || p.Queues != 2 || p.Copy() != "copy" || (p.NeedWakeup == 2) != (test.want == DriverXSK) || (p.SharedUMEM == 2) != (test.want == DriverXSK) || p.Driver != "veth" ||
					p.Interface != l.port[port].Name || p.MTU != 1500 || !p.Up || p.TakenOver || p.TXBudget < 32 {
					t.Errorf("report of %s port: %+v", packet.Port(port), p)
				}
				for _, s := range []Setting{{"rx-gro", on, off}, {"rx-vlan-hw-parse", on, off}, {setIPv6, on, off}, {setPromisc, off, on}} {
					if !contains(p.Changed, s) {
						t.Errorf("%s port: %v is not among the changes %v", packet.Port(port), s, p.Changed)
					}
				}
			}
			if notes := strings.Join(r.Port[packet.Inside].Notes, "; "); !strings.Contains(notes, "192.0.2.1/24") || !strings.Contains(notes, "2001:db8::1/64") {
				t.Errorf("notes do not name the addresses that are out of reach: %s", notes)
			}
			during := l.snapshot(t)
			for _, d := range l.port {
				if during[d.Name+" disable_ipv6"] != "1\n<nil>" {
					t.Errorf("ipv6 is on at %s", d.Name)
				}
			}
			var count [packet.Ports]Counters
			if err := k.Counters(&count); err != nil {
				t.Error(err)
			}
			for port, n := range count {
				if n.ToSocket < 3 || n.FailOpen+n.FailClosed != n.Stale+n.NoSocket {
					t.Errorf("%s port counted %+v", packet.Port(port), n)
				}
			}
			var ids []ebpf.ProgramID
			for port := range k.prog.port {
				info, err := k.prog.port[port].prog.Info()
				if err != nil {
					t.Fatal(err)
				}
				id, _ := info.ID()
				ids = append(ids, id)
			}
			f.end(t)
			closed := make(chan error)
			go func() { closed <- k.Close() }() // on a thread of another network namespace
			if err := <-closed; err != nil {
				t.Error(err)
			}
			if d := diff(before, l.snapshot(t)); d != "" {
				t.Errorf("not restored:%s", d)
			}
			l.clean(t)
			held.unleaked(t)
			for _, id := range ids {
				eventually(t, "unloading the program", func() bool {
					p, err := ebpf.NewProgramFromID(id)
					p.Close()
					return errors.Is(err, os.ErrNotExist)
				})
			}
		})
	}
}

func contains(list []Setting, s Setting) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// clean checks that no state file, lock or pin is left.
func (l *linkLab) clean(t *testing.T) {
	t.Helper()
	if left, _ := filepath.Glob(l.config.StatePath + "*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	l.unpinned(t)
}

// unpinned checks that no pin is left.
func (l *linkLab) unpinned(t *testing.T) {
	t.Helper()
	left, err := pinned(l.config.PinPath)
	if err != nil || len(left) > 0 {
		t.Errorf("pins left behind: %v, %v", left, err)
	}
}

// child runs the link of c in another process, which says that it is ready and forwards until it is killed.
func (l *linkLab) child(t *testing.T, c Config) *exec.Cmd {
	t.Helper()
	j, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestLinkChild$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), "COREWIRE_TEST_LINK="+string(j))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil { // inherits this thread's network namespace
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	s := bufio.NewScanner(out)
	for s.Scan() {
		if s.Text() == "ready" {
			return cmd
		}
		t.Log("child: ", s.Text())
	}
	t.Fatal("child ended")
	return nil
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
}

// TestLinkChild is the other process of child; alone it does nothing.
func TestLinkChild(t *testing.T) {
	j := os.Getenv("COREWIRE_TEST_LINK")
	if j == "" {
		return
	}
	var c Config
	if err := json.Unmarshal([]byte(j), &c); err != nil {
		t.Fatal(err)
	}
	forward(mustOpen(t, c))
	fmt.Println("ready")
	select {}
}

// TestLinkKilled: the fail mode holds after a kill -9, another process takes over without a gap in the program, and
// restores what the killed one changed.
func TestLinkKilled(t *testing.T) {
	for _, mode := range []XDPMode{Native, Generic} {
		for _, fail := range []FailMode{FailClosed, FailOpen} {
			t.Run(mode.String()+"/"+fail.String(), func(t *testing.T) {
				l := newLinkLab(t, 1)
				before, held := l.snapshot(t), held(t)
				c := l.config
				c.FailMode, c.XDPMode = fail, mode
				cmd := l.child(t, c)
				l.crosses(t, packet.Inside)
				l.crosses(t, packet.Outside)
				if _, err := Open(c); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by another corewire process, pid %d", cmd.Process.Pid)) {
					t.Errorf("opened while another process holds the interfaces: %v", err)
				}
				if err := Release(c); err == nil || !strings.Contains(err.Error(), "in use") {
					t.Errorf("released while another process holds the interfaces: %v", err)
				}
				l.crosses(t, packet.Inside) // neither did harm
				kill(t, cmd)
				for _, p := range []packet.Port{packet.Inside, packet.Outside} {
					count := l.pinned(t, p)
					if fail == FailOpen {
						n := count().FailOpen
						l.crosses(t, p)
						if count().FailOpen == n {
							t.Error("a frame crossed, but the program did not count it")
						}
					} else {
						l.blocked(t, p, count)
					}
				}
				n := l.pinned(t, packet.Inside)()

				k := mustOpen(t, c)
				f := forward(k)
				for port, p := range k.Report().Port {
					if !p.TakenOver {
						t.Errorf("%s port was not taken over", packet.Port(port))
					}
					if !contains(p.Changed, Setting{setPromisc, off, on}) || !contains(p.Changed, Setting{"rx-gro", on, off}) {
						t.Errorf("%s port: originals were lost: %v", packet.Port(port), p.Changed)
					}
				}
				var to uint64
				l.crosses(t, packet.Inside)
				l.crosses(t, packet.Outside)
				var count [packet.Ports]Counters
				if err := k.Counters(&count); err != nil {
					t.Error(err)
				}
				if to = count[packet.Inside].ToSocket; to <= n.ToSocket || count[packet.Inside].FailOpen < n.FailOpen || count[packet.Inside].FailClosed < n.FailClosed {
					t.Errorf("counters did not go on: %+v, before %+v", count[packet.Inside], n)
				}
				f.end(t)
				if err := k.Close(); err != nil {
					t.Error(err)
				}
				if d := diff(before, l.snapshot(t)); d != "" {
					t.Errorf("not restored:%s", d)
				}
				l.clean(t)
				held.unleaked(t)
			})
		}
	}
}

// TestLinkTakeOverMode: a new process may ask for other modes than the killed one had.
func TestLinkTakeOverMode(t *testing.T) {
	l := newLinkLab(t, 1)
	before := l.snapshot(t)
	c := l.config
	kill(t, l.child(t, c))
	c.XDPMode, c.FailMode = Generic, FailOpen
	k := mustOpen(t, c)
	f := forward(k)
	l.crosses(t, packet.Inside)
	for _, p := range k.Report().Port {
		if p.XDPMode != Generic || p.TakenOver {
			t.Errorf("report: %+v", p)
		}
	}
	f.end(t)
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if d := diff(before, l.snapshot(t)); d != "" {
		t.Errorf("not restored:%s", d)
	}
	l.clean(t)
}

// TestLinkAbandon: the fail mode holds at once, although this process lives on, and the next Open takes over.
func TestLinkAbandon(t *testing.T) {
	l := newLinkLab(t, 1)
	before, held := l.snapshot(t), held(t)
	k := mustOpen(t, l.config)
	f := forward(k)
	l.crosses(t, packet.Inside)
	f.end(t)
	if err := k.Abandon(); err != nil {
		t.Error(err)
	}
	held.unleaked(t)
	l.blocked(t, packet.Inside, l.pinned(t, packet.Inside))
	l.blocked(t, packet.Outside, l.pinned(t, packet.Outside))
	k = mustOpen(t, l.config)
	if r := k.Report(); !r.Port[packet.Inside].TakenOver || !r.Port[packet.Outside].TakenOver {
		t.Errorf("not taken over: %+v", r)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if d := diff(before, l.snapshot(t)); d != "" {
		t.Errorf("not restored:%s", d)
	}
	l.clean(t)
	held.unleaked(t)
}

// TestLinkKeepsFormer: an Open that fails leaves the fail mode and the record of the killed process as they are.
func TestLinkKeepsFormer(t *testing.T) {
	l := newLinkLab(t, 1)
	before := l.snapshot(t)
	kill(t, l.child(t, l.config))
	during, state := l.snapshot(t), readFile(t, l.config.StatePath)
	c := l.config
	c.CopyMode = ZeroCopy // veth cannot: fails when the sockets are opened
	if k, err := Open(c); err == nil {
		k.Close()
		t.Fatal("opened with zero copy on veth")
	}
	if d := diff(during, l.snapshot(t)); d != "" {
		t.Errorf("failed open changed:%s", d)
	}
	if now := readFile(t, l.config.StatePath); now != state {
		t.Errorf("failed open changed the record from %s to %s", state, now)
	}
	l.blocked(t, packet.Inside, l.pinned(t, packet.Inside))
	if err := Release(l.config); err != nil {
		t.Error(err)
	}
	if d := diff(before, l.snapshot(t)); d != "" {
		t.Errorf("not restored:%s", d)
	}
	l.clean(t)
}

// TestLinkKeepsFormerMode: the former program is put back where another mode was tried in its place and refused.
func TestLinkKeepsFormerMode(t *testing.T) {
	l := newLinkLab(t, 2)
	l.fewQueues(t)
	before := l.snapshot(t)
	c := l.config
	c.XDPMode = Generic
	kill(t, l.child(t, c))
	during := l.snapshot(t)
	c.XDPMode = Native
	if k, err := Open(c); err == nil {
		k.Close()
		t.Fatal("attached in native mode to an interface with too few queues")
	} else if !strings.Contains(err.Error(), "attach native xdp program to outside interface few: ") || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
	if d := diff(during, l.snapshot(t)); d != "" {
		t.Errorf("failed open changed:%s", d)
	}
	l.blocked(t, packet.Inside, l.pinned(t, packet.Inside))
	if err := Release(c); err != nil {
		t.Error(err)
	}
	if d := diff(before, l.snapshot(t)); d != "" {
		t.Errorf("not restored:%s", d)
	}
	l.clean(t)
}

// fewQueues replaces the outside interface by one with fewer queues than its other end: native mode refuses it, and only
// when the program is attached, after all checks and the inside interface.
func (l *linkLab) fewQueues(t *testing.T) {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name, a.NumRxQueues, a.NumTxQueues = "few", 2, 2
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "fewfar", PeerNumTxQueues: 4, PeerNumRxQueues: 4}); err != nil {
		t.Fatal(err)
	}
	few, err := netlink.LinkByName("few")
	if err != nil {
		t.Fatal(err)
	}
	far, err := netlink.LinkByName("fewfar")
	if err == nil {
		err = netlink.LinkSetUp(far)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.port[packet.Outside] = socketDev{Name: "few", Index: few.Attrs().Index}
	l.far[packet.Outside] = newFarSide(t, far)
	l.config.Outside = "few"
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRelease: what a killed process left is given back, once.
func TestRelease(t *testing.T) {
	l := newLinkLab(t, 1)
	before, held := l.snapshot(t), held(t)
	if err := Release(l.config); !errors.Is(err, ErrNothingHeld) {
		t.Errorf("release of free interfaces: %v, want %v", err, ErrNothingHeld)
	}
	kill(t, l.child(t, l.config))
	if d := diff(before, l.snapshot(t)); d == "" {
		t.Error("the killed process left nothing: this test is worth nothing")
	}
	if err := Release(l.config); err != nil {
		t.Error(err)
	}
	if d := diff(before, l.snapshot(t)); d != "" {
		t.Errorf("not restored:%s", d)
	}
	l.clean(t)
	if err := Release(l.config); !errors.Is(err, ErrNothingHeld) {
		t.Errorf("second release: %v, want %v", err, ErrNothingHeld)
	}
	l.clean(t)
	held.unleaked(t)
}

// TestLinkForeignRecord: the record of a namespace that is gone says nothing about interfaces that happen to have the same
// names and indices.
func TestLinkForeignRecord(t *testing.T) {
	l := newLinkLab(t, 1)
	before := l.snapshot(t)
	r := record{Version: recordVersion, Netns: 1 << 60, Pins: filepath.Join(l.config.PinPath, "x")}
	for port, d := range l.port {
		r.Port[port] = recordPort{Name: d.Name, Index: d.Index, Settings: []Setting{{setPromisc, on, on}, {setUp, off, on}}}
	}
	j, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, l.config.StatePath, string(j))
	k := mustOpen(t, l.config)
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if d := diff(before, l.snapshot(t)); d != "" {
		t.Errorf("not restored:%s", d)
	}
	writeFile(t, l.config.StatePath, string(j))
	if err := Release(l.config); err != nil {
		t.Error(err)
	}
	if d := diff(before, l.snapshot(t)); d != "" {
		t.Errorf("release changed:%s", d)
	}
	l.clean(t)
}

// TestReleaseWithoutInterface: the record of an interface that is gone, or was made anew, does not hinder.
func TestReleaseWithoutInterface(t *testing.T) {
	l := newLinkLab(t, 1)
	kill(t, l.child(t, l.config))
	if err := netlink.LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.port[packet.Outside].Index}}); err != nil {
		t.Fatal(err)
	}
	if err := Release(l.config); err != nil {
		t.Error(err)
	}
	l.clean(t)
}

// TestLinkHangs: a worker that does not come round any more loses its frames to the fail mode, though its sockets are
// open, and gets them back when it does.
func TestLinkHangs(t *testing.T) {
	l := newLinkLab(t, 1)
	c := l.config
	c.HeartbeatTimeout = MinHeartbeatTimeout
	k := mustOpen(t, c)
	f := forward(k)
	l.crosses(t, packet.Inside)
	count := func() Counters {
		var c [packet.Ports]Counters
		if err := k.Counters(&c); err != nil {
			t.Fatal(err)
		}
		return c[packet.Inside]
	}
	f.mute.Store(true)
	eventually(t, "a frame without a heartbeat", func() bool {
		if err := l.far[packet.Inside].send(udp(100, 7, 0)); err != nil {
			t.Fatal(err)
		}
		return count().Stale > 0
	})
	k.Beat(0, 0) // ended: no heartbeat at all
	l.blocked(t, packet.Inside, count)
	f.mute.Store(false)
	l.crosses(t, packet.Inside)
	f.end(t)
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// TestLinkUnderLoad: opening and closing while frames pour in from both sides loses no chunk and leaves nothing.
func TestLinkUnderLoad(t *testing.T) {
	l := newLinkLab(t, 2)
	before, held := l.snapshot(t), held(t)
	var stop atomic.Bool
	var senders sync.WaitGroup
	for _, f := range l.far {
		senders.Add(1)
		go func() {
			defer senders.Done()
			for seq := uint32(0); !stop.Load(); seq++ {
				_ = f.send(udp(200, uint16(seq), seq)) // ENETDOWN and the like: nobody counts
				if seq%32 == 0 {
					time.Sleep(100 * time.Microsecond)
				}
			}
		}()
	}
	for round := range 6 {
		c := l.config
		c.XDPMode, c.FailMode = XDPMode(round%2), FailMode(round/2%2)
		k := mustOpen(t, c)
		f := forward(k)
		var sum Stats
		eventually(t, "frames both ways", func() bool {
			sum = Stats{}
			for _, w := range k.Wires() {
				var s Stats
				w.Stats(&s)
				sum.Add(&s)
			}
			return sum.Port[packet.Inside].RX > 100 && sum.Port[packet.Outside].RX > 100
		})
		f.end(t)
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		var account Account
		for _, w := range k.Wires() {
			var a Account
			w.Account(&a)
			account.Add(&a)
		}
		if !account.Balanced() || account.Caller != 0 {
			t.Errorf("chunks do not add up: %+v", account)
		}
	}
	stop.Store(true)
	senders.Wait()
	if d := diff(before, l.snapshot(t)); d != "" {
		t.Errorf("not restored:%s", d)
	}
	l.clean(t)
	held.unleaked(t)
}

// TestLinkCarrier: Up follows the interface.
func TestLinkCarrier(t *testing.T) {
	l := newLinkLab(t, 1)
	k := mustOpen(t, l.config)
	far := l.far[packet.Outside].link
	for _, up := range []bool{false, true} {
		set := netlink.LinkSetDown
		if up {
			set = netlink.LinkSetUp
		}
		if err := set(far); err != nil {
			t.Fatal(err)
		}
		eventually(t, "carrier", func() bool { return k.Up(packet.Outside) == up && k.Report().Port[packet.Outside].Up == up })
		if !k.Up(packet.Inside) {
			t.Error("the inside port followed the outside one")
		}
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}

// TestLinkDown: an interface that was down is brought up, and down again.
func TestLinkDown(t *testing.T) {
	l := newLinkLab(t, 1)
	for _, d := range l.port {
		if err := netlink.LinkSetDown(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: d.Index}}); err != nil {
			t.Fatal(err)
		}
	}
	before := l.snapshot(t)
	k := mustOpen(t, l.config)
	f := forward(k)
	l.crosses(t, packet.Outside)
	f.end(t)
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if d := diff(before, l.snapshot(t)); d != "" {
		t.Errorf("not restored:%s", d)
	}
}

// TestLinkChannels: the number of queues follows the number of workers that was asked for, and is restored.
func TestLinkChannels(t *testing.T) {
	l := newLinkLab(t, 2)
	l.oneQueueFar(t)
	before := l.snapshot(t)
	c := l.config
	c.Workers = 1
	k := mustOpen(t, c)
	if r := k.Report(); r.Workers != 1 || r.Port[packet.Inside].Queues != 1 || !contains(r.Port[packet.Outside].Changed, Setting{setChannels, "2", "1"}) {
		t.Errorf("report: %+v", r)
	}
	f := forward(k)
	l.crosses(t, packet.Inside)
	l.crosses(t, packet.Outside)
	f.end(t)
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if d := diff(before, l.snapshot(t)); d != "" {
		t.Errorf("not restored:%s", d)
	}
}

// TestLinkTakeOverChannels: the number of queues that a killed process set is restored, though its successor did not ask
// for one.
func TestLinkTakeOverChannels(t *testing.T) {
	l := newLinkLab(t, 2)
	l.oneQueueFar(t)
	before := l.snapshot(t)
	c := l.config
	c.Workers = 1
	kill(t, l.child(t, c))
	c.Workers = 0
	k := mustOpen(t, c)
	if n := k.Report().Workers; n != 1 {
		t.Errorf("%d workers on interfaces with one queue", n)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if d := diff(before, l.snapshot(t)); d != "" {
		t.Errorf("not restored:%s", d)
	}
	l.clean(t)
}

// oneQueueFar lets the far ends send on one queue only: a port with a program may not have fewer (veth_xdp_set).
func (l *linkLab) oneQueueFar(t *testing.T) {
	t.Helper()
	h := testHost(t)
	for _, f := range l.far {
		d, err := h.device(packet.Inside, f.link.Attrs().Name)
		if err == nil {
			err = h.setChannels(d, "1")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestLinkInterfaceGone: closing a link whose interface was removed is no error, and the other one is restored.
func TestLinkInterfaceGone(t *testing.T) {
	l := newLinkLab(t, 1)
	before, held := l.snapshot(t), held(t)
	k := mustOpen(t, l.config)
	if err := netlink.LinkDel(l.far[packet.Outside].link); err != nil {
		t.Fatal(err)
	}
	eventually(t, "carrier loss", func() bool { return !k.Up(packet.Outside) })
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	after := l.snapshot(t)
	for what, v := range before {
		if strings.HasPrefix(what, "port0 ") && after[what] != v {
			t.Errorf("not restored: %s: %s -> %s", what, v, after[what])
		}
	}
	l.clean(t)
	held.unleaked(t)
}

// TestLinkRenamed: settings are restored though the interface has got another name, one with a dot at that. And what
// lives on top of an interface is told.
func TestLinkRenamed(t *testing.T) {
	l := newLinkLab(t, 1)
	rename := func(p packet.Port, name string) {
		t.Helper()
		if err := netlink.LinkSetName(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.port[p].Index}}, name); err != nil {
			t.Fatal(err)
		}
		l.port[p].Name = name
	}
	rename(packet.Inside, "wan.7")
	before := l.snapshot(t)
	l.config.Inside = "wan.7"
	above := netlink.NewLinkAttrs()
	above.Name, above.ParentIndex = "above", l.port[packet.Inside].Index
	if err := netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: above}); err != nil {
		t.Fatal(err)
	}
	k := mustOpen(t, l.config)
	if notes := strings.Join(k.Report().Port[packet.Inside].Notes, "; "); !strings.Contains(notes, "gives no frames to above") {
		t.Errorf("notes do not name the interface on top: %s", notes)
	}
	rename(packet.Inside, "lan.8") // possible while up since Linux 6.2
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	rename(packet.Inside, "wan.7")
	if d := diff(before, l.snapshot(t)); d != "" {
		t.Errorf("not restored:%s", d)
	}
	l.clean(t)
}

// TestLinkFailOpenNote: an interface that could not send what fail-open redirects to it is told of.
func TestLinkFailOpenNote(t *testing.T) {
	const note = "fail mode open cannot send out of it"
	for _, gro := range []bool{true, false} {
		l := newLinkLab(t, 1)
		if err := testHost(t).eth.Change(l.far[packet.Outside].link.Attrs().Name, map[string]bool{"rx-gro": gro}); err != nil {
			t.Fatal(err)
		}
		c := l.config
		c.FailMode = FailOpen
		k := mustOpen(t, c)
		r := k.Report()
		if _, err := k.host.xdpFeatures(l.port[0].Index); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("the kernel does not tell: %v", err)
			}
			t.Skipf("the kernel does not tell: %v", err)
		}
		if got := strings.Contains(strings.Join(r.Port[packet.Outside].Notes, ";"), note); got == gro {
			t.Errorf("gro %v at the other end: notes %q", gro, r.Port[packet.Outside].Notes)
		}
		if strings.Contains(strings.Join(r.Port[packet.Inside].Notes, ";"), note) {
			t.Errorf("notes of the other port: %q", r.Port[packet.Inside].Notes)
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestLinkDriver: which driver is tried, and when the other one is taken.
func TestLinkDriver(t *testing.T) {
	other := errors.New("something else")
	for _, test := range []struct {
		asked    Driver
		xsk      error
		want     Driver
		fallback bool
		err      error
	}{
		{DriverAuto, nil, DriverXSK, false, nil},
		{DriverAuto, fmt.Errorf("bind: %w", errNoSharedUMEM), DriverAsavie, true, nil},
		{DriverAuto, other, DriverXSK, false, other},
		{DriverXSK, errNoSharedUMEM, DriverXSK, false, errNoSharedUMEM},
		{DriverAsavie, other, DriverAsavie, false, nil},
	} {
		var tried []Driver
		l := &Link{device: [packet.Ports]*device{{name: "a", index: 1}, {name: "b", index: 2}}}
		err := l.open(&Config{Driver: test.asked}, 1,
			func(c socketConfig) ([]socketWire, error) { tried = append(tried, DriverXSK); return nil, test.xsk },
			func(c socketConfig) ([]socketWire, error) { tried = append(tried, DriverAsavie); return nil, nil })
		if !errors.Is(err, test.err) {
			t.Errorf("%v: error %v, want %v", test.asked, err, test.err)
		}
		if l.report.Driver != test.want || tried[len(tried)-1] != test.want || (l.report.Fallback != "") != test.fallback {
			t.Errorf("%v with %v: report %v, fallback %q, tried %v", test.asked, test.xsk, l.report.Driver, l.report.Fallback, tried)
		}
	}
}

// TestLinkDefaults: without paths, the record is in /run/corewire and the pins in the system's bpffs or one of our own,
// which goes again.
func TestLinkDefaults(t *testing.T) {
	l := newLinkLab(t, 1)
	own := isBPF(ownBPF)
	c := Config{Inside: l.config.Inside, Outside: l.config.Outside, Chunks: 512, RingSize: 64}
	k := mustOpen(t, c)
	r := k.Report()
	var ns unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &ns); err != nil {
		t.Fatal(err)
	}
	if !isBPF(r.PinPath) || r.StatePath != fmt.Sprintf("%s/port0-port1@%d.json", runDir, ns.Ino) {
		t.Errorf("pins in %s, state in %s", r.PinPath, r.StatePath)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	for _, p := range []string{r.PinPath, r.StatePath, r.StatePath + ".lock"} {
		if _, err := os.Stat(p); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", p, err)
		}
	}
	if !own && isBPF(ownBPF) {
		if left, _ := pinned(ownBPF); len(left) == 0 { // else another wire came meanwhile
			t.Error("our own bpffs is still mounted")
		}
	}
}

// TestOpenRefuses: what cannot work is refused with a sentence that says so, and nothing is changed.
func TestOpenRefuses(t *testing.T) {
	port := func(l *linkLab, p packet.Port) netlink.Link {
		return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.port[p].Index, Name: l.port[p].Name}}
	}
	add := func(t *testing.T, l netlink.Link) {
		t.Helper()
		if err := netlink.LinkAdd(l); err != nil {
			t.Fatal(err)
		}
	}
	named := func(name string) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name = name
		return a
	}
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, l *linkLab, c *Config)
		want    string
	}{
		{"no such interface", func(t *testing.T, l *linkLab, c *Config) { c.Outside = "prot1" },
			"outside interface prot1: no such interface (did you mean port1?)"},
		{"no such interface, none near", func(t *testing.T, l *linkLab, c *Config) { c.Inside = "wan" },
			"inside interface wan: no such interface (there are far0, far1, port0, port1)"},
		{"no name", func(t *testing.T, l *linkLab, c *Config) { c.Inside = "" }, "inside interface: no name given"},
		{"twice the same", func(t *testing.T, l *linkLab, c *Config) { c.Outside = c.Inside }, "inside and outside are the same interface port0"},
		{"twice the same by another name", func(t *testing.T, l *linkLab, c *Config) {
			if err := netlink.LinkAddAltName(port(l, packet.Inside), "an-alternative-name"); err != nil {
				t.Fatal(err)
			}
			c.Outside = "an-alternative-name"
		}, "inside and outside are the same interface port0"},
		{"loopback", func(t *testing.T, l *linkLab, c *Config) { c.Inside = "lo" }, "inside interface lo is the loopback device"},
		{"two ends of one pair", func(t *testing.T, l *linkLab, c *Config) { c.Outside = "far0" }, "are the two ends of one veth pair"},
		{"not ethernet", func(t *testing.T, l *linkLab, c *Config) {
			add(t, &netlink.Tuntap{LinkAttrs: named("tun0"), Mode: netlink.TUNTAP_MODE_TUN})
			c.Inside = "tun0"
		}, "inside interface tun0 is not ethernet"},
		{"bridge port", func(t *testing.T, l *linkLab, c *Config) {
			br := &netlink.Bridge{LinkAttrs: named("br0")}
			add(t, br)
			if err := netlink.LinkSetMaster(port(l, packet.Outside), br); err != nil {
				t.Fatal(err)
			}
		}, "outside interface port1 belongs to the bridge br0"},
		{"unequal mtu", func(t *testing.T, l *linkLab, c *Config) {
			if err := netlink.LinkSetMTU(port(l, packet.Inside), 1400); err != nil {
				t.Fatal(err)
			}
		}, "inside interface port0 has mtu 1400, outside interface port1 has 1500"},
		{"mtu too large for the chunk", func(t *testing.T, l *linkLab, c *Config) {
			for p := range l.port {
				if err := netlink.LinkSetMTU(port(l, packet.Port(p)), 1800); err != nil {
					t.Fatal(err)
				}
			}
			c.ChunkSize = 2048
		}, "mtu 1800 does not fit a chunk of 2048 bytes, which holds up to 1770"},
		{"mtu too large for any chunk", func(t *testing.T, l *linkLab, c *Config) {
			for p := range l.port {
				if err := netlink.LinkSetMTU(port(l, packet.Port(p)), 9000); err != nil {
					t.Fatal(err)
				}
			}
		}, "mtu 9000 does not fit a chunk of 4096 bytes"},
		{"unequal queues", func(t *testing.T, l *linkLab, c *Config) {
			a := named("one")
			add(t, &netlink.Veth{LinkAttrs: a, PeerName: "onepeer"})
			c.Outside = "one"
		}, "inside interface port0 has 2 queues, outside interface one has 1"},
		{"more workers than queues", func(t *testing.T, l *linkLab, c *Config) { c.Workers = 3 },
			"set channels of inside interface port0 to 3: cannot be changed on this interface: it has at most 2 queues"},
		{"another xdp program", func(t *testing.T, l *linkLab, c *Config) {
			prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "stranger", Type: ebpf.XDP, License: "Apache-2.0",
				Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
			if err != nil {
				t.Fatal(err)
			}
			at, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: l.port[packet.Outside].Index, Flags: link.XDPGenericMode})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { at.Close(); prog.Close() })
		}, "outside interface port1 already has the xdp program stranger, id "},
		{"fewer queues than the other end", func(t *testing.T, l *linkLab, c *Config) {
			l.fewQueues(t)
			*c = l.config
		}, "attach native xdp program to outside interface few: "},
		{"zero copy on veth", func(t *testing.T, l *linkLab, c *Config) { c.CopyMode = ZeroCopy }, "port0"},
		{"zero copy in generic mode", func(t *testing.T, l *linkLab, c *Config) { c.CopyMode, c.XDPMode = ZeroCopy, Generic }, "zero copy needs xdp mode native"},
		{"ring size", func(t *testing.T, l *linkLab, c *Config) { c.RingSize = 100 }, "ring size 100"},
		{"chunk size", func(t *testing.T, l *linkLab, c *Config) { c.ChunkSize = 3000 }, "chunk size 3000"},
		{"heartbeat timeout", func(t *testing.T, l *linkLab, c *Config) { c.HeartbeatTimeout = time.Millisecond }, "heartbeat timeout 1ms (50ms to 1m0s are possible)"},
		{"pin path", func(t *testing.T, l *linkLab, c *Config) { c.PinPath = filepath.Dir(c.StatePath) }, "is not on a bpffs"},
		{"state path", func(t *testing.T, l *linkLab, c *Config) { c.StatePath = "/proc/self/state/x.json" }, "make directory of state file"},
		{"state of an unknown version", func(t *testing.T, l *linkLab, c *Config) { writeFile(t, c.StatePath, `{"version":99}`) }, "version 99, expected 1"},
		{"state that is broken", func(t *testing.T, l *linkLab, c *Config) { writeFile(t, c.StatePath, "{") }, "read state file"},
		{"a pin that is something else", func(t *testing.T, l *linkLab, c *Config) {
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			dir := filepath.Join(c.PinPath, pinName(pairName(c.Inside, c.Outside)), pinVersion)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := m.Pin(filepath.Join(dir, "outside")); err != nil {
				t.Fatal(err)
			}
		}, "open pinned link of outside port"},
		{"counters of another form", func(t *testing.T, l *linkLab, c *Config) {
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			dir := filepath.Join(c.PinPath, pinName(pairName(c.Inside, c.Outside)), pinVersion)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := m.Pin(filepath.Join(dir, "counters")); err != nil {
				t.Fatal(err)
			}
		}, "load xdp program for inside port: "},
		{"no privileges", func(t *testing.T, l *linkLab, c *Config) { dropCapabilities(t) },
			"lacks CAP_NET_ADMIN to attach XDP programs, change interface settings, CAP_NET_RAW to open AF_XDP sockets, CAP_BPF to load BPF programs and maps"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLinkLab(t, 2)
			c := l.config
			test.prepare(t, l, &c)
			before, held := l.snapshot(t), held(t)
			files, _ := filepath.Glob(filepath.Join(filepath.Dir(l.config.StatePath), "*"))
			pins, _ := pinned(l.config.PinPath)
			k, err := Open(c)
			if err == nil {
				k.Close()
				t.Fatal("opened")
			}
			if !strings.HasPrefix(err.Error(), "open link: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error: %v\nwant: %s", err, test.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one error: %v", err)
			}
			if d := diff(before, l.snapshot(t)); d != "" {
				t.Errorf("changed:%s", d)
			}
			if now, _ := filepath.Glob(filepath.Join(filepath.Dir(l.config.StatePath), "*")); !reflect.DeepEqual(files, now) {
				t.Errorf("files %v, before %v", now, files)
			}
			if now, err := pinned(l.config.PinPath); err != nil || !reflect.DeepEqual(pins, now) {
				t.Errorf("pins %v, before %v: %v", now, pins, err)
			}
			held.unleaked(t)
		})
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// dropCapabilities takes this thread's effective capabilities until the test ends.
func dropCapabilities(t *testing.T) {
	t.Helper()
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(&h, &had[0]); err != nil {
		t.Fatal(err)
	}
	none := had
	none[0].Effective, none[1].Effective = 0, 0
	if err := unix.Capset(&h, &none[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Capset(&h, &had[0]); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"eth0", "eth0", 0}, {"eth0", "eth1", 1}, {"eth", "eth0", 1}, {"eth0", "", 4}, {"prot1", "port1", 2}, {"abc", "cab", 2},
	} {
		if got := spelling.Distance(test.a, test.b); got != test.want {
			t.Errorf("spelling.Distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
		if got := spelling.Distance(test.b, test.a); got != test.want {
			t.Errorf("spelling.Distance(%q, %q) = %d, want %d", test.b, test.a, got, test.want)
		}
	}
}

func TestChunkFor(t *testing.T) {
	for _, test := range []struct {
		mtu, size, want int // want 0: refused
	}{
		{1500, 0, 2048}, {1770, 0, 2048}, {1771, 0, 4096}, {3818, 0, 4096}, {3819, 0, 0},
		{1770, 2048, 2048}, {1771, 2048, 0}, {1500, 4096, 4096}, {9000, 4096, 0},
	} {
		got, err := chunkFor(test.mtu, test.size)
		if got != test.want || (err == nil) != (test.want != 0) {
			t.Errorf("chunkFor(%d, %d) = %d, %v, want %d", test.mtu, test.size, got, err, test.want)
		}
	}
}
