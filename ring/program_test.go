package ring

import (
	"testing"
	"time"

	"corewire/internal/packet"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// XDP's verdicts, as the program returns them (enum xdp_action in include/uapi/linux/bpf.h).
const (
	xdpDrop     = 1
	xdpRedirect = 4
)

// monotonic returns the time that heartbeats are written in.
func monotonic(t testing.TB) int64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano()
}

// xskSocket returns an AF_XDP socket without rings: enough for an XSKMAP slot.
func xskSocket(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func testProgram(t testing.TB, c programConfig) *program {
	t.Helper()
	p, err := newProgram(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// TestProgram runs the loaded program of both ports in the kernel (BPF_PROG_TEST_RUN) through every branch. The frames
// of a test run arrive on queue 0 of the loopback device.
func TestProgram(t *testing.T) {
	needRoot(t)
	const timeout = int64(time.Hour) // far beyond a test run, so that nothing here depends on speed
	now := monotonic(t)
	for _, test := range []struct {
		name   string
		fail   FailMode
		socket bool
		beat   int64
		peer   int // interface behind the devmap
		want   uint32
		count  Counters
	}{
		{"alive", FailClosed, true, now, 1, xdpRedirect, Counters{ToSocket: 1}},
		{"alive, open", FailOpen, true, now, 1, xdpRedirect, Counters{ToSocket: 1}},
		{"heartbeat ahead of the clock", FailClosed, true, now + timeout/2, 1, xdpRedirect, Counters{ToSocket: 1}},
		{"heartbeat just in time", FailClosed, true, now - timeout/2, 1, xdpRedirect, Counters{ToSocket: 1}},
		{"stale, closed", FailClosed, true, now - 2*timeout, 1, xdpDrop, Counters{Stale: 1, FailClosed: 1}},
		{"stale, open", FailOpen, true, now - 2*timeout, 1, xdpRedirect, Counters{Stale: 1, FailOpen: 1}},
		{"no heartbeat yet, closed", FailClosed, true, 0, 1, xdpDrop, Counters{Stale: 1, FailClosed: 1}},
		{"no heartbeat yet, open", FailOpen, true, 0, 1, xdpRedirect, Counters{Stale: 1, FailOpen: 1}},
		{"no socket, closed", FailClosed, false, now, 1, xdpDrop, Counters{NoSocket: 1, FailClosed: 1}},
		{"no socket, open", FailOpen, false, now, 1, xdpRedirect, Counters{NoSocket: 1, FailOpen: 1}},
		{"neither, closed", FailClosed, false, 0, 1, xdpDrop, Counters{Stale: 1, FailClosed: 1}},
		{"neither, open", FailOpen, false, 0, 1, xdpRedirect, Counters{Stale: 1, FailOpen: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, port := range []packet.Port{packet.Inside, packet.Outside} {
				p := testProgram(t, programConfig{Queues: 2, Fail: test.fail, Timeout: time.Duration(timeout), Index: [2]int{test.peer, test.peer}})
				if test.socket {
					if err := p.setSocket(port, 0, xskSocket(t)); err != nil {
						t.Fatal(err)
					}
				}
				p.setBeat(0, test.beat)
				p.setBeat(1, now) // another queue's: must not matter
				got, err := p.port[port].prog.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
				if err != nil {
					t.Fatal(err)
				}
				if got != test.want {
					t.Errorf("%s port: action %d, want %d", port, got, test.want)
				}
				var c [packet.Ports]Counters
				if err := p.counters(&c); err != nil {
					t.Fatal(err)
				}
				if c[port] != test.count {
					t.Errorf("%s port counted %+v, want %+v", port, c[port], test.count)
				}
				if c[port.Other()] != (Counters{}) {
					t.Errorf("%s port counted %+v of the other port's frame", port.Other(), c[port.Other()])
				}
			}
		})
	}
}

// TestProgramPortGone: fail-open with the other interface removed drops, and counts as dropped.
func TestProgramPortGone(t *testing.T) {
	needRoot(t)
	p := testProgram(t, programConfig{Queues: 1, Fail: FailClosed, Timeout: time.Hour})
	spec, err := loadProgram()
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables[programVarFailOpen].Set(uint32(1)); err != nil {
		t.Fatal(err)
	}
	var o programObjects
	opt := &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{programMapCounts: p.counts}}
	if err := spec.LoadAndAssign(&o, opt); err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	got, err := o.Corewire.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	if err != nil || got != xdpDrop {
		t.Errorf("action %d, %v with an empty devmap, want %d", got, err, xdpDrop)
	}
	var c [packet.Ports]Counters
	if err := p.counters(&c); err != nil {
		t.Fatal(err)
	}
	if want := (Counters{Stale: 1, FailClosed: 1}); c[packet.Inside] != want {
		t.Errorf("counted %+v, want %+v", c[packet.Inside], want)
	}
}

// TestProgramClock: both clocks that the program can be loaded with give the same answer.
func TestProgramClock(t *testing.T) {
	needRoot(t)
	for coarse := range uint32(2) {
		spec, err := loadProgram()
		if err != nil {
			t.Fatal(err)
		}
		for name, v := range map[string]any{programVarCoarse: coarse, programVarTimeout: uint64(time.Hour)} {
			if err := spec.Variables[name].Set(v); err != nil {
				t.Fatal(err)
			}
		}
		var o programObjects
		if err := spec.LoadAndAssign(&o, nil); err != nil {
			t.Fatal(err)
		}
		if err := o.Xsks.Put(uint32(0), uint32(xskSocket(t))); err != nil {
			t.Fatal(err)
		}
		for beat, want := range map[int64]uint32{monotonic(t): xdpRedirect, monotonic(t) - 2*int64(time.Hour): xdpDrop} {
			if err := o.Beats.Put(uint32(0), &programBeat{At: uint64(beat)}); err != nil {
				t.Fatal(err)
			}
			if got, err := o.Corewire.Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil || got != want {
				t.Errorf("coarse=%d: action %d, %v, want %d", coarse, got, err, want)
			}
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestProgramKeepsCounters: a second program goes on with the counters of the first.
func TestProgramKeepsCounters(t *testing.T) {
	needRoot(t)
	first := testProgram(t, programConfig{Queues: 1, Timeout: time.Hour})
	second := testProgram(t, programConfig{Queues: 3, Timeout: time.Hour, Counts: first.counts})
	for _, p := range []*program{first, second} {
		if _, err := p.port[packet.Outside].prog.Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil {
			t.Fatal(err)
		}
	}
	var c [packet.Ports]Counters
	if err := second.counters(&c); err != nil {
		t.Fatal(err)
	}
	if want := (Counters{Stale: 2, FailClosed: 2}); c[packet.Outside] != want {
		t.Errorf("counted %+v, want %+v", c[packet.Outside], want)
	}
}

// TestClearSockets: an emptied slot gives its frames to the fail mode.
func TestClearSockets(t *testing.T) {
	needRoot(t)
	p := testProgram(t, programConfig{Queues: 3, Timeout: time.Hour})
	for port := range p.port {
		for q := range uint32(2) { // slot 2 stays empty
			if err := p.setSocket(packet.Port(port), q, xskSocket(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.setBeat(0, monotonic(t))
	if err := p.clearSockets(); err != nil {
		t.Fatal(err)
	}
	for port := range p.port {
		if got, err := p.port[port].prog.Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil || got != xdpDrop {
			t.Errorf("%s port: action %d, %v, want %d", packet.Port(port), got, err, xdpDrop)
		}
	}
	if err := p.setSocket(packet.Inside, 3, xskSocket(t)); err == nil {
		t.Error("a socket went into a slot beyond the last queue")
	}
}

// BenchmarkProgram measures the program alone, by clock: the kernel repeats it b.N times in one call.
func BenchmarkProgram(b *testing.B) {
	needRoot(b)
	for coarse, name := range []string{"precise", "coarse"} {
		b.Run(name, func(b *testing.B) {
			spec, err := loadProgram()
			if err != nil {
				b.Fatal(err)
			}
			for name, v := range map[string]any{programVarCoarse: uint32(coarse), programVarTimeout: uint64(time.Hour)} {
				if err := spec.Variables[name].Set(v); err != nil {
					b.Fatal(err)
				}
			}
			var o programObjects
			if err := spec.LoadAndAssign(&o, nil); err != nil {
				b.Fatal(err)
			}
			defer o.Close()
			if err := o.Xsks.Put(uint32(0), uint32(xskSocket(b))); err != nil {
				b.Fatal(err)
			}
			if err := o.Beats.Put(uint32(0), &programBeat{At: uint64(monotonic(b))}); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			if _, err := o.Corewire.Run(&ebpf.RunOptions{Data: make([]byte, 64), Repeat: uint32(b.N)}); err != nil {
				b.Fatal(err)
			}
		})
	}
}
