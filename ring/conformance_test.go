package ring

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"corewire/internal/packet"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// rig is a driver under test with the network around it.
type rig struct {
	wires   []Wire
	inject  func(p packet.Port, frame []byte) // the network sends a frame towards port p; it may get lost when full
	collect func(p packet.Port) []byte        // the next frame that came out of port p, nil if there is none
	detach  func()                            // before Close: no more frames towards the sockets
	kernel  bool                              // frames pass a kernel
}

// drivers makes a rig for each driver. RingSize is 64 and a worker has 512 chunks, so that every limit is reached.
var drivers = []struct {
	name string
	make func(t testing.TB, workers int) *rig
}{
	{"memory", memoryRig},
	{"xsk", func(t testing.TB, n int) *rig { return socketRig(t, n, openXSK, CopyOnly, link.XDPDriverMode) }},
	{"xsk-auto", func(t testing.TB, n int) *rig { return socketRig(t, n, openXSK, CopyAuto, link.XDPDriverMode) }},
	{"asavie", func(t testing.TB, n int) *rig { return socketRig(t, n, openAsavie, CopyOnly, link.XDPDriverMode) }},
	{"xsk-generic", func(t testing.TB, n int) *rig { return socketRig(t, n, openXSK, CopyAuto, link.XDPGenericMode) }},
}

const (
	rigRing   = 64
	rigChunks = 512
)

func memoryRig(t testing.TB, workers int) *rig {
	ms := newMemory(t, MemoryConfig{Pool: PoolConfig{Workers: workers, Chunks: rigChunks}, RingSize: rigRing})
	r := &rig{detach: func() {}}
	for _, m := range ms {
		r.wires = append(r.wires, m)
	}
	var out [packet.Ports][][]byte
	r.inject = func(p packet.Port, frame []byte) {
		flow, _ := flowSeq(frame)
		ms[int(flow)%workers].Inject(p, frame)
	}
	r.collect = func(p packet.Port) []byte {
		if len(out[p]) == 0 {
			for _, m := range ms {
				m.Collect(p, func(b []byte) { out[p] = append(out[p], bytes.Clone(b)) })
			}
		}
		if len(out[p]) == 0 {
			return nil
		}
		b := out[p][0]
		out[p] = out[p][1:]
		return b
	}
	return r
}

func socketRig(t testing.TB, workers int, open func(socketConfig) ([]socketWire, error), mode CopyMode, attach link.XDPAttachFlags) *rig {
	l := newLab(t, workers)
	ws, err := open(socketConfig{Pool: PoolConfig{Workers: workers, Chunks: rigChunks}, Port: l.port, RingSize: rigRing, Copy: mode})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		inject: func(p packet.Port, frame []byte) {
			if err := l.far[p].send(frame); err != nil {
				t.Fatalf("send to %v: %v", p, err)
			}
		},
		collect: func(p packet.Port) []byte { return l.far[p].receive() },
		kernel:  true,
	}
	for _, w := range ws {
		r.wires = append(r.wires, w)
		t.Cleanup(func() {
			if err := w.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	r.detach = l.attach(t, ws, attach)
	return r
}

func eachDriver(t *testing.T, workers int, f func(t *testing.T, r *rig)) {
	for _, d := range drivers {
		t.Run(d.name, func(t *testing.T) { f(t, d.make(t, workers)) })
	}
}

// quiet waits until all frames have left the wires and checks that every chunk is accounted for.
func (r *rig) quiet(t *testing.T, held int) {
	t.Helper()
	var f [64]packet.Frame
	eventually(t, "transmission of everything", func() bool {
		var sum Account
		for _, w := range r.wires {
			for _, p := range []packet.Port{packet.Inside, packet.Outside} {
				w.Release(f[:w.Receive(p, f[:])])
			}
			if !r.kernel {
				r.collect(packet.Inside)
				r.collect(packet.Outside)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		for _, w := range r.wires {
			var a Account
			w.Account(&a)
			sum.Add(&a)
		}
		return sum.TX+sum.Completion+sum.Returning+sum.RX == 0
	})
	balance(t, r.wires, held)
	for i, w := range r.wires {
		if a, ok := w.(*asavieWire); ok { // its sockets have frames of their own
			for p := range a.socket {
				if free := len(a.socket[p].free); free != rigRing || a.port[p].txOut != 0 {
					t.Errorf("worker %d, %v: %d transmit frames free, %d out", i, packet.Port(p), free, a.port[p].txOut)
				}
			}
		}
		var s Stats
		w.Stats(&s)
		for p := range s.Port {
			if s.Port[p].KernelTXInvalid+s.Port[p].KernelRXInvalid+s.Port[p].RXBad+s.Port[p].TXBad != 0 {
				t.Errorf("worker %d, %v: invalid descriptors: %+v", i, packet.Port(p), s.Port[p])
			}
		}
	}
}

// exchange sends frames of many flows and lengths through both ports, lets step move them, and checks that each comes
// out of the other port once, unchanged and in its flow's order.
func (r *rig) exchange(t *testing.T, rounds int, step func()) {
	t.Helper()
	const flows = 64
	rng := rand.New(rand.NewPCG(7, 8))
	var sent, got [packet.Ports][flows]uint32
	var frames [packet.Ports][flows][][]byte
	check := func(in packet.Port, b []byte) {
		flow, seq := flowSeq(b)
		if int(flow) >= flows {
			t.Fatalf("a frame of flow %d came out of %v", flow, in.Other())
		}
		if seq != got[in][flow] {
			t.Fatalf("flow %d from %v: frame %d came out, want %d", flow, in, seq, got[in][flow])
		}
		if !bytes.Equal(b, frames[in][flow][seq]) {
			t.Fatalf("flow %d from %v: frame %d was changed", flow, in, seq)
		}
		frames[in][flow][seq] = nil
		got[in][flow]++
	}
	for range rounds {
		missing := 0
		for range 1 + rng.IntN(32) {
			in, flow := packet.Port(rng.IntN(packet.Ports)), rng.IntN(flows)
			b := udp(60+rng.IntN(1455), uint16(flow), sent[in][flow])
			frames[in][flow] = append(frames[in][flow], b)
			sent[in][flow]++
			r.inject(in, b)
			missing++
		}
		eventually(t, "arrival of a round's frames", func() bool {
			step()
			for _, out := range []packet.Port{packet.Inside, packet.Outside} {
				for b := r.collect(out); b != nil; b = r.collect(out) {
					check(out.Other(), b)
					missing--
				}
			}
			return missing <= 0
		})
	}
	step()
	for p := range sent {
		if sent[p] != got[p] {
			t.Errorf("from %v: sent %v, got %v", packet.Port(p), sent[p], got[p])
		}
		for b := r.collect(packet.Port(p)); b != nil; b = r.collect(packet.Port(p)) {
			t.Errorf("one frame too many came out of %v: %x", packet.Port(p), b[:60])
		}
	}
}

// TestConformanceForward: every worker sends what it received out of its own other port.
func TestConformanceForward(t *testing.T) {
	for _, workers := range []int{1, 3} {
		eachDriver(t, workers, func(t *testing.T, r *rig) {
			var f [32]packet.Frame
			busy := make([]int, workers)
			r.exchange(t, 100, func() {
				for i, w := range r.wires {
					for _, in := range []packet.Port{packet.Inside, packet.Outside} {
						n := w.Receive(in, f[:])
						busy[i] += n
						if k := w.Send(in.Other(), f[:n]); k != n {
							t.Fatalf("the transmit ring took only %d of %d frames", k, n)
						}
					}
					if err := w.Flush(); err != nil {
						t.Fatal(err)
					}
				}
			})
			// In generic mode veth leaves the sender's queue mapping in the skb, which is the receive queue plus one:
			// the last queue gets nothing.
			if idle := slices.Index(busy, 0); idle >= 0 && (idle < workers-1 || !strings.HasSuffix(t.Name(), "xsk-generic#01")) {
				t.Errorf("worker %d of %d received nothing", idle, workers)
			}
			r.quiet(t, 0)
		})
	}
}

// TestConformanceHandOff: what worker 0 received is sent by worker 1, and the other way round; some frames are held for
// a while. The chunks go home.
func TestConformanceHandOff(t *testing.T) {
	eachDriver(t, 2, func(t *testing.T, r *rig) {
		type dest struct {
			worker int
			port   packet.Port
		}
		held := map[dest][]packet.Frame{}
		rng := rand.New(rand.NewPCG(9, 10))
		var f [32]packet.Frame
		count := func() (n int) {
			for _, h := range held {
				n += len(h)
			}
			return n
		}
		r.exchange(t, 100, func() {
			for i, w := range r.wires {
				for _, in := range []packet.Port{packet.Inside, packet.Outside} {
					d := dest{1 - i, in.Other()}
					held[d] = append(held[d], f[:w.Receive(in, f[:])]...)
				}
			}
			for d, h := range held {
				n := r.wires[d.worker].Send(d.port, h[:rng.IntN(len(h)+1)])
				held[d] = append(h[:0], h[n:]...)
			}
			for _, w := range r.wires {
				if err := w.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			var sum Account
			for _, w := range r.wires {
				var a Account
				w.Account(&a)
				sum.Add(&a)
			}
			if !sum.Balanced() || sum.Caller != count() {
				t.Fatalf("%d frames held, account %+v", count(), sum)
			}
		})
		r.quiet(t, 0)
	})
}

// TestConformanceFull: a transmit ring that is not flushed fills up, Send refuses the rest, reception goes on, and
// everything that was accepted comes out in order.
func TestConformanceFull(t *testing.T) {
	eachDriver(t, 1, func(t *testing.T, r *rig) {
		w := r.wires[0]
		var f [16]packet.Frame
		accepted := uint32(0)
		for range 40 {
			n := w.Alloc(f[:])
			if n == 0 {
				t.Fatal("no chunks left")
			}
			for i := range f[:n] {
				f[i].Data = f[i].Data[:copy(f[i].Data, udp(100, 1, accepted+uint32(i)))]
			}
			k := w.Send(packet.Outside, f[:n])
			w.Release(f[k:n])
			accepted += uint32(k)
			if k < n {
				break
			}
		}
		var s Stats
		w.Stats(&s)
		if accepted != rigRing || s.Port[packet.Outside].TXFull == 0 || s.Port[packet.Outside].TX != rigRing {
			t.Fatalf("the transmit ring took %d frames, want %d; stats %+v", accepted, rigRing, s.Port[packet.Outside])
		}
		balance(t, r.wires, 0)
		// The other direction works meanwhile.
		for i := range uint32(200) {
			r.inject(packet.Outside, udp(60, 0, i))
			eventually(t, "reception behind a full transmit ring", func() bool {
				n := w.Receive(packet.Outside, f[:])
				w.Release(f[:n])
				if err := w.Flush(); err != nil {
					t.Fatal(err)
				}
				return n == 1
			})
		}
		next := uint32(0)
		eventually(t, "arrival of all accepted frames", func() bool {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			for b := r.collect(packet.Outside); b != nil; b = r.collect(packet.Outside) {
				if _, seq := flowSeq(b); seq != next || !bytes.Equal(b, udp(100, 1, seq)) {
					t.Fatalf("frame %d came out, want %d", seq, next)
				}
				next++
			}
			return next == accepted
		})
		r.quiet(t, 0)
	})
}

// TestConformanceOverrun: more frames arrive than anybody takes. Nothing is lost for good, and it works again after.
func TestConformanceOverrun(t *testing.T) {
	eachDriver(t, 1, func(t *testing.T, r *rig) {
		w := r.wires[0]
		for i := range uint32(4 * rigChunks) {
			r.inject(packet.Inside, udp(60, 0, i))
		}
		var f [8]packet.Frame
		n := 0
		eventually(t, "reception of what fitted", func() bool {
			k := w.Receive(packet.Inside, f[:])
			w.Release(f[:k])
			n += k
			return k == 0 && n >= rigRing
		})
		r.quiet(t, 0)
		w.Flush()
		r.exchange(t, 10, func() {
			for _, in := range []packet.Port{packet.Inside, packet.Outside} {
				w.Send(in.Other(), f[:w.Receive(in, f[:])])
			}
			w.Flush()
		})
		r.quiet(t, 0)
	})
}

// TestConformanceWait: Wait ends by Wake, by a frame at either port, and by time.
func TestConformanceWait(t *testing.T) {
	eachDriver(t, 1, func(t *testing.T, r *rig) {
		w := r.wires[0]
		w.Wake()
		if err := w.Wait(time.Hour); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 100 {
				w.Wake()
				runtime.Gosched()
			}
		}()
		if err := w.Wait(time.Hour); err != nil {
			t.Fatal(err)
		}
		<-done
		var f [4]packet.Frame
		for _, p := range []packet.Port{packet.Inside, packet.Outside} {
			r.inject(p, udp(60, 0, 0))
			eventually(t, "a frame", func() bool {
				if err := w.Wait(time.Hour); err != nil { // the frame ends it, or an old Wake
					t.Fatal(err)
				}
				n := w.Receive(p, f[:])
				w.Release(f[:n])
				return n == 1
			})
		}
		for range 10 {
			if err := w.Wait(100 * time.Microsecond); err != nil {
				t.Fatal(err)
			}
		}
		w.Wait(0)
		r.quiet(t, 0)
	})
}

// TestConformanceAllocation: the packet path allocates nothing.
func TestConformanceAllocation(t *testing.T) {
	eachDriver(t, 1, func(t *testing.T, r *rig) {
		w := r.wires[0]
		var f [16]packet.Frame
		n := testing.AllocsPerRun(50, func() {
			k := w.Alloc(f[:])
			for i := range f[:k] {
				f[i].Data = f[i].Data[:60]
			}
			w.Release(f[w.Send(packet.Inside, f[:k]):k])
			w.Receive(packet.Inside, f[:])
			w.Flush()
			w.Wait(time.Microsecond)
		})
		if n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

// TestConformanceClose: wires close under load, from both sides, and leave no descriptor, goroutine or chunk behind.
func TestConformanceClose(t *testing.T) {
	for _, d := range drivers {
		t.Run(d.name, func(t *testing.T) {
			goroutines := runtime.NumGoroutine()
			mappings := ringMappings(t)
			t.Run("run", func(t *testing.T) {
				r := d.make(t, 2)
				var f [32]packet.Frame
				for i := range uint32(300) {
					r.inject(packet.Port(i%2), udp(200, uint16(i%7), i))
					for _, w := range r.wires {
						n := w.Receive(packet.Inside, f[:])
						w.Release(f[w.Send(packet.Outside, f[:n]):n])
						if i%16 == 0 {
							w.Flush()
						}
					}
				}
				r.detach()
				stop, done := make(chan struct{}), make(chan struct{})
				go func() { // others may look while it closes
					defer close(done)
					var s Stats
					for {
						select {
						case <-stop:
							return
						default:
							r.wires[0].Wake()
							r.wires[1].Stats(&s)
						}
					}
				}()
				for _, w := range r.wires {
					if err := w.Close(); err != nil {
						t.Errorf("close: %v", err)
					}
					if err := w.Close(); err != nil {
						t.Errorf("second close: %v", err)
					}
				}
				close(stop)
				<-done
				balance(t, r.wires, 0)
				var s Stats
				r.wires[0].Stats(&s)
				if s.Port[packet.Inside].RX == 0 && r.kernel {
					var s1 Stats
					r.wires[1].Stats(&s1)
					if s1.Port[packet.Inside].RX == 0 {
						t.Error("nothing was received")
					}
				}
			})
			eventually(t, "end of all goroutines", func() bool { return runtime.NumGoroutine() <= goroutines })
			if n := ringMappings(t); n > mappings {
				t.Errorf("%d ring mappings are left", n-mappings)
			}
		})
	}
}

// ringMappings counts AF_XDP ring mappings and sockets of this process.
func ringMappings(t *testing.T) int {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	n := strings.Count(string(maps), "socket:")
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		if strings.HasPrefix(to, "socket:") || strings.Contains(to, "eventfd") {
			n++
		}
	}
	return n
}

// sockets are the drivers over AF_XDP sockets.
var sockets = []struct {
	name string
	open func(socketConfig) ([]socketWire, error)
}{{"xsk", openXSK}, {"asavie", openAsavie}}

// TestSocketCarrier: frames towards a port without carrier are dropped and counted, not queued, and it recovers. Neither
// does an interface that is set down do harm; one that is removed is an error.
func TestSocketCarrier(t *testing.T) {
	for _, d := range sockets {
		t.Run(d.name, func(t *testing.T) { testCarrier(t, d.open) })
	}
}

func testCarrier(t *testing.T, open func(socketConfig) ([]socketWire, error)) {
	l := newLab(t, 1)
	ws, err := open(socketConfig{Pool: PoolConfig{Chunks: rigChunks}, Port: l.port, RingSize: rigRing})
	if err != nil {
		t.Fatal(err)
	}
	w := ws[0]
	defer w.Close()
	l.attach(t, ws, link.XDPDriverMode)
	dev, err := netlink.LinkByName(l.port[packet.Outside].Name)
	if err != nil {
		t.Fatal(err)
	}
	var f [8]packet.Frame
	send := func() PortStats {
		t.Helper()
		n := w.Alloc(f[:])
		if n == 0 {
			t.Fatal("out of chunks")
		}
		for i := range f[:n] {
			f[i].Data = f[i].Data[:copy(f[i].Data, udp(60, 3, 0))]
		}
		w.Release(f[w.Send(packet.Outside, f[:n]):n])
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		var s Stats
		w.Stats(&s)
		return s.Port[packet.Outside]
	}
	set := func(dev netlink.Link, up func(netlink.Link) error) {
		t.Helper()
		if err := up(dev); err != nil {
			t.Fatal(err)
		}
	}
	far := l.far[packet.Outside]
	for name, dev := range map[string]netlink.Link{"carrier": far.link, "interface": dev} {
		set(dev, netlink.LinkSetDown)
		// The kernel may tell a second late that the carrier is gone.
		down := send().TXDown
		eventually(t, "noticing the loss of "+name, func() bool { return send().TXDown > down })
		before := send()
		eventually(t, "dropping without "+name, func() bool { return send().TXDown > down+5000 })
		if s := send(); s.TX > before.TX || s.Kicks-before.Kicks > 100 {
			t.Errorf("without %s: %+v, before %+v", name, s, before)
		}
		for far.receive() != nil {
		}
		set(dev, netlink.LinkSetUp)
		eventually(t, "transmission after the "+name+" came back", func() bool {
			send()
			return far.receive() != nil
		})
		balance(t, ws, 0)
	}
	set(dev, netlink.LinkDel)
	eventually(t, "an error for the removed interface", func() bool {
		if err := w.Wait(time.Microsecond); err != nil {
			return true
		}
		return w.Flush() != nil
	})
	if err := w.Flush(); !errors.Is(err, unix.ENXIO) || !strings.Contains(err.Error(), "port1") {
		t.Errorf("the error is %v", err)
	}
	balance(t, ws, 0)
}

// TestSocketErrors: what cannot work is refused with a reason, and nothing is left open.
func TestSocketErrors(t *testing.T) {
	for _, d := range sockets {
		t.Run(d.name, func(t *testing.T) {
			l := newLab(t, 1)
			good := socketConfig{Pool: PoolConfig{Chunks: rigChunks}, Port: l.port, RingSize: rigRing}
			before := ringMappings(t)
			for _, c := range []struct {
				name   string
				change func(*socketConfig)
				errno  unix.Errno
				text   string
			}{
				{"no such queue", func(c *socketConfig) { c.Pool.Workers = 2 }, unix.EINVAL, "port0 queue 1"},
				{"no such interface", func(c *socketConfig) { c.Port[1] = socketDev{"gone", 1 << 20} }, unix.ENODEV, "gone queue 0"},
				{"no zero copy", func(c *socketConfig) { c.Copy = ZeroCopy }, unix.EOPNOTSUPP, "copy mode works everywhere"},
				{"the same port twice", func(c *socketConfig) { c.Port[1] = c.Port[0] }, 0, "port0 queue 0"},
				{"ring size", func(c *socketConfig) { c.RingSize = 100 }, 0, "ring size 100"},
				{"chunks", func(c *socketConfig) { c.Pool.Chunks = 2 }, 0, "2 chunks"},
				{"chunk size", func(c *socketConfig) { c.Pool.ChunkSize = 9000 }, 0, "chunk size 9000"},
			} {
				cfg := good
				c.change(&cfg)
				ws, err := d.open(cfg)
				if err == nil || len(ws) != 0 {
					t.Errorf("%s: opened %d wires, %v", c.name, len(ws), err)
					continue
				}
				if c.errno != 0 && !errors.Is(err, c.errno) || !strings.Contains(err.Error(), c.text) {
					t.Errorf("%s: %v, want %v with %q", c.name, err, c.errno, c.text)
				}
				if n := ringMappings(t); n != before {
					t.Errorf("%s: %d descriptors or mappings more than before", c.name, n-before)
				}
			}
			// Both ports can be had again at once, many times.
			for i := range 3 {
				ws, err := d.open(good)
				if err != nil {
					t.Fatal(err)
				}
				m := ws[0].Mode(packet.Outside)
				if m.ZeroCopy || m.SharedUMEM != (d.name == "xsk") || m.NeedWakeup != (d.name == "xsk") || m.TXBudget < kernelTXBudget {
					t.Errorf("mode %+v", m)
				}
				if i > 0 {
					// refusing a taken queue takes a second
				} else if ws, err := d.open(good); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "is another socket bound to this queue?") {
					t.Errorf("a second socket on the same queue: %d wires, %v", len(ws), err)
				}
				if err := ws[0].Close(); err != nil {
					t.Fatal(err)
				}
			}
			if n := ringMappings(t); n != before {
				t.Errorf("%d descriptors or mappings more than before", n-before)
			}
		})
	}
}

// TestSocketFlood: far more arrives at both ports than one worker on a busy machine can take. What the wire took was
// sent or refused, nothing is stuck, every chunk is there, and then it works as before.
func TestSocketFlood(t *testing.T) {
	for _, d := range sockets {
		t.Run(d.name, func(t *testing.T) {
			l := newLab(t, 1)
			ws, err := d.open(socketConfig{Pool: PoolConfig{Chunks: rigChunks}, Port: l.port, RingSize: rigRing})
			if err != nil {
				t.Fatal(err)
			}
			w := ws[0]
			t.Cleanup(func() { w.Close() })
			l.attach(t, ws, link.XDPDriverMode)
			const n = 20_000
			var f [64]packet.Frame
			step := func() int {
				got := 0
				for _, in := range []packet.Port{packet.Inside, packet.Outside} {
					n := w.Receive(in, f[:])
					w.Release(f[w.Send(in.Other(), f[:n]):n])
					got += n
				}
				if err := w.Flush(); err != nil {
					t.Error(err)
				}
				return got
			}
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				for {
					select {
					case <-stop:
						return
					default:
						if step() == 0 {
							w.Wait(time.Millisecond)
						}
					}
				}
			}()
			for range 3 {
				l.flood(t, packet.Inside, 1, n)
				l.flood(t, packet.Outside, 2, n)
			}
			close(stop)
			<-done
			for _, far := range l.far {
				for far.receive() != nil {
				}
			}
			r := &rig{
				wires:   []Wire{w},
				inject:  func(p packet.Port, b []byte) { l.far[p].send(b) },
				collect: func(p packet.Port) []byte { return l.far[p].receive() },
				kernel:  true,
			}
			r.quiet(t, 0)
			var s Stats
			w.Stats(&s)
			for p := range s.Port {
				out := &s.Port[packet.Port(p).Other()]
				if in := &s.Port[p]; in.RX < rigRing || in.RX < out.TX+out.TXFull || in.RX+in.KernelRXDropped+in.KernelRXFull != 3*n {
					t.Errorf("%v: %d frames arrived, %+v", packet.Port(p), 3*n, s)
				}
			}
			for _, far := range l.far {
				for far.receive() != nil {
				}
			}
			r.exchange(t, 20, func() { step() })
			r.quiet(t, 0)
		})
	}
}

// TestSocketSecondUMEM: where the ports cannot share, the pool is registered twice and frames still cross without a
// copy. No device here does zero copy, so the fallback is bound by hand.
func TestSocketSecondUMEM(t *testing.T) {
	l := newLab(t, 1)
	c := socketConfig{Pool: PoolConfig{Chunks: rigChunks}, Port: l.port, RingSize: rigRing}
	if err := c.fill(); err != nil {
		t.Fatal(err)
	}
	pool, err := NewPool(c.Pool)
	if err != nil {
		t.Fatal(err)
	}
	w, err := newXSKWire(pool, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := range w.port {
		p := &w.port[i]
		p.dev = l.port[i]
		if err := w.bind(p, &c, nil, CopyOnly.flags()); err != nil {
			t.Fatal(err)
		}
		w.polls[i] = unix.PollFd{Fd: int32(p.fd), Events: unix.POLLIN}
	}
	l.attach(t, []socketWire{w}, link.XDPDriverMode)
	r := &rig{
		wires:   []Wire{w},
		inject:  func(p packet.Port, b []byte) { l.far[p].send(b) },
		collect: func(p packet.Port) []byte { return l.far[p].receive() },
		kernel:  true,
	}
	var f [32]packet.Frame
	r.exchange(t, 30, func() {
		for _, in := range []packet.Port{packet.Inside, packet.Outside} {
			w.Send(in.Other(), f[:w.Receive(in, f[:])])
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	})
	r.quiet(t, 0)
}
