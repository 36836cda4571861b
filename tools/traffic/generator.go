package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// MaxSize is the largest frame in bytes that live frames can have: a page less the headroom, the kernel's own header
// and the room for a socket buffer's shared info, with some to spare (net/bpf/test_run.c).
const MaxSize = 3000

// MaxBatch is the kernel's bound on a batch (TEST_XDP_MAX_BATCH, net/bpf/test_run.c).
const MaxBatch = 256

// Config says what a generator sends.
type Config struct {
	Port  string // interface that the frames leave through
	Flows Flows
	Side  Side
	Order Order
	// Size of a frame in bytes without FCS; 0 means 60, or the headers where they are longer. 60 is what Ethernet
	// calls a 64-byte frame.
	Size int
	// Batch is the number of frames that are transmitted at once; 0 means 64, as many as a NAPI poll takes.
	Batch int
}

// Limit bounds a run. Zero values mean no bound; a run without Frames and Duration ends with its context.
type Limit struct {
	Rate     float64       // frames a second; less is sent where the processor is taken away
	Frames   uint64        // number of frames
	Duration time.Duration // time
}

// Generator sends frames. One run at a time.
type Generator struct {
	program  *ebpf.Program
	state    *ebpf.Map
	anchor   *anchor
	template []byte
	ifindex  uint32
	batch    uint32
	running  sync.Mutex
}

// NewGenerator loads a generator. The port is looked up in the calling thread's network namespace. It needs CAP_BPF
// and CAP_NET_ADMIN, and a kernel with live frames (5.18).
func NewGenerator(c Config) (_ *Generator, err error) {
	if c.Size == 0 {
		c.Size = max(60, c.Flows.headers())
	}
	if c.Batch == 0 {
		c.Batch = 64
	}
	if c.Batch < 1 || c.Batch > MaxBatch {
		return nil, fmt.Errorf("generator with batches of %d: must be 1 to %d", c.Batch, MaxBatch)
	}
	g := &Generator{batch: uint32(c.Batch)}
	if g.template, err = c.Flows.Frame(c.Side, 0, c.Size); err != nil {
		return nil, fmt.Errorf("generator: %w", err)
	}
	port, err := net.InterfaceByName(c.Port)
	if err != nil {
		return nil, fmt.Errorf("generator: find interface %s: %w", c.Port, err)
	}
	g.ifindex = uint32(port.Index)
	if g.state, err = newState(); err != nil {
		return nil, err
	}
	g.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "traffic_make", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: generator(&c.Flows, c.Side, c.Order, g.template, g.state.FD())})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load the generator's program: %w", err), g.state.Close())
	}
	if g.anchor, err = newAnchor(g.program); err != nil {
		return nil, errors.Join(err, g.program.Close(), g.state.Close())
	}
	return g, nil
}

// Close frees the program. No run may be under way.
func (g *Generator) Close() error {
	return errors.Join(g.anchor.close(), g.program.Close(), g.state.Close())
}

// Made returns the number of frames made since the generator was loaded. Those that found no room in the receiver's queue
// are among them.
func (g *Generator) Made() (uint64, error) {
	var value [stateSize]byte
	if err := g.state.Lookup(uint32(0), &value); err != nil {
		return 0, fmt.Errorf("read the generator's counter: %w", err)
	}
	return binary.NativeEndian.Uint64(value[stateSent:]), nil
}

// liveFrames is struct xdp_md as the kernel takes it for a run: where the frame claims to have come from.
type liveFrames struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }

const (
	// stretch is the length of a burst and the pause after it where a rate is given: shorter ones cost more, as each
	// call allocates its pages anew and sleeping has its price; longer ones overrun a veth's queue of 256 frames.
	stretch = 100 * time.Microsecond
	// catchUp is the largest burst in frames after a delay, such as another program's turn on the processor. Frames
	// that are due beyond it are not sent and the rate of the run is lower than asked for, because what is
	// tested would see a burst that nobody offered, and a veth's queue would lose it.
	catchUp = 192
	// longest is the most frames of one call: some milliseconds, so that an ended context is noticed.
	longest = 1 << 15
)

// Run sends frames within the limit, on the calling thread, which must be in the namespace that the generator was made
// in. It returns the number of frames made and the time taken; an ended context is no error. It spends a processor.
func (g *Generator) Run(ctx context.Context, limit Limit) (made uint64, took time.Duration, err error) {
	g.running.Lock()
	defer g.running.Unlock()
	before, err := g.Made()
	if err != nil {
		return 0, 0, err
	}
	if limit.Rate > 0 {
		// The kernel may put off a thread's wake-up by its timer slack, 50 µs by default (prctl(2)).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err == nil && unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) == nil {
			defer unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0)
		}
	}
	began := time.Now()
	due := began // when the next burst is
	for asked := uint64(0); ; {
		if ctx.Err() != nil || limit.Duration > 0 && time.Since(began) >= limit.Duration || limit.Frames > 0 && asked >= limit.Frames {
			break
		}
		n := uint64(longest)
		if limit.Rate > 0 {
			late := time.Since(due)
			if late < 0 {
				nap(-late)
				continue // the duration may be over
			}
			room := max(1, catchUp, uint64(limit.Rate*stretch.Seconds()))
			wanted := max(1, uint64(limit.Rate*(late+stretch).Seconds()))
			if wanted > room { // what is too late is never sent
				due = due.Add(time.Duration(float64(wanted-room) / limit.Rate * float64(time.Second)))
			}
			n = min(n, wanted, room)
			due = due.Add(time.Duration(float64(n) / limit.Rate * float64(time.Second)))
		}
		if limit.Frames > 0 {
			n = min(n, limit.Frames-asked)
		}
		if err = g.call(uint32(n)); err != nil {
			break
		}
		asked += n
	}
	took = time.Since(began)
	after, readErr := g.Made()
	return after - before, took, errors.Join(err, readErr)
}

// nap sleeps on the calling thread. time.Sleep would wait in epoll_wait, which counts in milliseconds. A signal may cut it
// short.
func nap(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &t, nil)
}

// call makes n frames.
func (g *Generator) call(n uint32) error {
	_, err := g.program.Run(&ebpf.RunOptions{
		Data:      g.template,
		Context:   liveFrames{DataEnd: uint32(len(g.template)), IngressIfindex: g.ifindex},
		Repeat:    n,
		BatchSize: min(g.batch, n),
		Flags:     unix.BPF_F_TEST_XDP_LIVE_FRAMES,
	})
	if err != nil {
		return fmt.Errorf("make %d live frames: %w", n, err)
	}
	return nil
}
