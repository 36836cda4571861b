package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"corewire/internal/packet"

	"golang.org/x/sys/unix"
)

// fakeKernel plays the kernel's side of one worker's rings, on heap memory: it takes chunks from the fill rings, puts
// frames into the RX rings, takes frames from the TX rings and puts their chunks into the completion rings, each when
// told, in as odd an order as a driver may. Its methods other than xskKernel's belong to the test.
type fakeKernel struct {
	w    *xskWire
	port [packet.Ports]fakePort
	rng  *rand.Rand
}

// fakePort is one socket as the kernel sees it.
type fakePort struct {
	fill, completion xskRing[uint64]
	rx, tx           xskRing[desc]
	chunks           []uint64 // taken from fill, not yet used
	flying           []uint64 // taken from tx, not yet completed
	arrived, left    uint32   // frames put into rx and taken from tx; their sequence numbers where in order
	late             uint32   // slots of tx consumed but not published: in copy mode the kernel tells late
	lost             int      // chunks that corrupt descriptors made unreachable
	down             bool
	gone             bool
	check            func(data []byte) // looks at each frame that leaves
}

// newFakeWires makes wires whose rings have size slots and begin at index start.
func newFakeWires(t testing.TB, c PoolConfig, size, start uint32, rng *rand.Rand) ([]*xskWire, []*fakeKernel) {
	t.Helper()
	pool, err := NewPool(c)
	if err != nil {
		t.Fatal(err)
	}
	var ws []*xskWire
	var ks []*fakeKernel
	for i := range c.Workers {
		w, err := newXSKWire(pool, i)
		if err != nil {
			t.Fatal(err)
		}
		k := &fakeKernel{w: w, rng: rng}
		if err := w.kernel.close(); err != nil {
			t.Fatal(err)
		}
		w.kernel = k
		for i := range w.port {
			p, q := &w.port[i], &k.port[i]
			p.dev.Name = fmt.Sprint("fake", i)
			p.mode = socketMode{NeedWakeup: true, TXBudget: kernelTXBudget}
			fakeRing(t, &p.fill, &q.fill, size, start)
			fakeRing(t, &p.rx, &q.rx, size, start)
			fakeRing(t, &p.tx, &q.tx, size, start)
			fakeRing(t, &p.completion, &q.completion, size, start)
			p.tx.flags.Store(needWakeup)
		}
		w.refill()
		ws, ks = append(ws, w), append(ks, k)
	}
	t.Cleanup(func() {
		for _, w := range ws {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return ws, ks
}

// fakeRing lays a ring out as the kernel does, indices on cache lines of their own, and gives both sides a view.
func fakeRing[T uint64 | desc](t testing.TB, user, kernel *xskRing[T], size, start uint32) {
	t.Helper()
	off := unix.XDPRingOffset{Producer: 0, Consumer: 128, Flags: 196, Desc: 256}
	n, err := ringBytes[T](off, size)
	if err != nil {
		t.Fatal(err)
	}
	mem := make([]byte, max(n, 4096)) // the heap aligns it
	binary.NativeEndian.PutUint32(mem[off.Producer:], start)
	binary.NativeEndian.PutUint32(mem[off.Consumer:], start)
	for _, r := range []*xskRing[T]{user, kernel} {
		if *r, err = ringOver[T](mem, off, size); err != nil {
			t.Fatal(err)
		}
	}
}

// takeFill moves up to n chunks from the fill ring to the kernel.
func (k *fakeKernel) takeFill(p *fakePort, n uint32) {
	n = p.fill.ready(min(n, uint32(len(p.fill.slots))))
	for i := range n {
		p.chunks = append(p.chunks, p.fill.get(i))
	}
	p.fill.consume(n)
}

// arrive receives up to n frames, in chunks in any order. Frame number seq has 8+seq%50 bytes, 4 of them seq.
func (k *fakeKernel) arrive(p *fakePort, n uint32) {
	n = min(p.rx.room(min(n, uint32(len(p.rx.slots)))), uint32(len(p.chunks)))
	for i := range n {
		addr := k.anyChunk(p) + Headroom
		b := k.w.home.pool.area[addr : addr+8+uint64(p.arrived%50)]
		for i := range b {
			b[i] = byte(p.arrived)
		}
		binary.BigEndian.PutUint32(b, p.arrived)
		p.rx.put(i, desc{addr: addr, len: uint32(len(b))})
		p.arrived++
	}
	p.rx.produce(n)
}

// corrupt receives up to one frame with a descriptor that cannot be right. It returns how many that is.
func (k *fakeKernel) corrupt(p *fakePort) int {
	if p.rx.room(1) == 0 || len(p.chunks) == 0 {
		return 0
	}
	addr := k.anyChunk(p)
	size := uint64(k.w.home.pool.ChunkSize())
	d := desc{addr: addr + Headroom, len: 60}
	switch k.rng.IntN(4) {
	case 0:
		d.addr += uint64(len(k.w.home.pool.area)) * (1 + uint64(k.rng.Uint32()))
		p.lost++
	case 1:
		d.len = uint32(size) - Headroom + 1 + k.rng.Uint32N(1<<31)
		p.lost++
	case 2:
		d.addr = 1<<64 - 1
		p.lost++
	case 3:
		d.options = 1 // XDP_PKT_CONTD, which was not asked for; the chunk itself is known
	}
	p.rx.put(0, d)
	p.rx.produce(1)
	return 1
}

func (k *fakeKernel) anyChunk(p *fakePort) uint64 {
	i := k.rng.IntN(len(p.chunks))
	addr := p.chunks[i]
	p.chunks[i] = p.chunks[len(p.chunks)-1]
	p.chunks = p.chunks[:len(p.chunks)-1]
	return addr
}

// complete finishes the transmission of up to n frames, in any order.
func (k *fakeKernel) complete(p *fakePort, n uint32) {
	n = min(n, uint32(len(p.flying)))
	n = p.completion.room(min(n, uint32(len(p.completion.slots))))
	for i := range n {
		j := k.rng.IntN(len(p.flying))
		p.completion.put(i, p.flying[j])
		p.flying[j] = p.flying[len(p.flying)-1]
		p.flying = p.flying[:len(p.flying)-1]
	}
	p.completion.produce(n)
}

func (k *fakeKernel) fake(p *xskPort) *fakePort {
	if p == &k.w.port[packet.Inside] {
		return &k.port[packet.Inside]
	}
	return &k.port[packet.Outside]
}

// transmit is sendto as in net/xdp/xsk.c: at most 32 frames, each only with room for its completion; now and then the
// driver's queue is full or drops a frame.
func (k *fakeKernel) transmit(x *xskPort) unix.Errno {
	p := k.fake(x)
	switch {
	case p.gone:
		return unix.ENXIO
	case p.down && k.rng.IntN(2) == 0:
		return unix.ENETDOWN
	}
	size := uint32(len(p.completion.slots))
	for range kernelTXBudget {
		// Only the consumer index that the kernel has published tells user space of free slots.
		have := p.tx.producer.Load() - p.tx.next
		if have == 0 {
			p.tx.consumer.Store(p.tx.next)
			p.late = 0
			return 0
		}
		if p.completion.room(size) <= uint32(len(p.flying)) { // every frame under way has a slot reserved
			return 0
		}
		if k.rng.IntN(50) == 0 {
			return unix.EAGAIN
		}
		d := p.tx.get(0)
		p.tx.next++
		p.late++
		b := k.w.home.pool.area[d.addr : d.addr+uint64(d.len)]
		if p.check != nil {
			p.check(b)
		}
		p.left++
		p.flying = append(p.flying, d.addr)
		if k.rng.IntN(3) > 0 {
			k.complete(p, 1)
		}
		if p.down || k.rng.IntN(40) == 0 {
			return unix.EBUSY
		}
	}
	return unix.EAGAIN
}

func (k *fakeKernel) receive(x *xskPort) unix.Errno {
	k.takeFill(k.fake(x), k.rng.Uint32N(8))
	return 0
}

func (k *fakeKernel) running(x *xskPort) (bool, error) { return !k.fake(x).down, nil }

func (k *fakeKernel) statistics(*xskPort) unix.XDPStatistics { return unix.XDPStatistics{} }

func (k *fakeKernel) close() error { return nil }

// census looks for every chunk everywhere and fails unless each is in exactly one place and the accounts say the same.
func census(t testing.TB, ws []*xskWire, ks []*fakeKernel, held []packet.Frame) {
	t.Helper()
	pool := ws[0].home.pool
	seen := make([]string, pool.Chunks())
	var want Account
	mark := func(addr uint64, place string, n *int) {
		c := addr >> pool.shift
		if c >= uint64(len(seen)) {
			t.Fatalf("%#x in %s is not in the pool", addr, place)
		}
		if seen[c] != "" {
			t.Fatalf("chunk %d is in %s and in %s", c, seen[c], place)
		}
		seen[c] = place
		*n++
	}
	lost := 0
	for i, w := range ws {
		for _, c := range w.home.free {
			if c/pool.each != uint32(i) {
				t.Fatalf("chunk %d is in worker %d's free list", c, i)
			}
			mark(pool.base(c), "a free list", &want.Free)
		}
		for _, s := range w.home.stage {
			for _, c := range s {
				mark(pool.base(c), "a stage", &want.Returning)
			}
		}
		for _, r := range w.home.back {
			if r != nil {
				for j := r.head.Load(); j != r.tail.Load(); j++ {
					mark(pool.base(r.slots[j&r.mask]), "a return ring", &want.Returning)
				}
			}
		}
		for j := range w.port {
			p, q := &w.port[j], &ks[i].port[j]
			for n := q.fill.next; n != p.fill.next; n++ {
				mark(p.fill.slots[n&p.fill.mask], "a fill ring", &want.Fill)
			}
			for _, a := range q.chunks {
				mark(a, "the kernel for reception", &want.Fill)
			}
			for n := p.rx.next; n != q.rx.next; n++ {
				want.RX++ // may be corrupt: whatever is there, lost says how many are
				if d := p.rx.slots[n&p.rx.mask]; d.addr < uint64(len(pool.area)) && d.len <= uint32(pool.Room()) {
					var dummy int
					mark(d.addr, "an RX ring", &dummy)
				}
			}
			for n := q.tx.next; n != p.tx.next; n++ {
				mark(p.tx.slots[n&p.tx.mask].addr, "a TX ring", &want.TX)
			}
			for _, a := range q.flying {
				mark(a, "the kernel for transmission", &want.TX)
			}
			for n := p.completion.next; n != q.completion.next; n++ {
				mark(p.completion.slots[n&p.completion.mask], "a completion ring", &want.Completion)
			}
			lost += q.lost
		}
	}
	for _, f := range held {
		mark(f.Addr, "the caller's hands", &want.Caller)
	}
	missing := 0
	for _, s := range seen {
		if s == "" {
			missing++
		}
	}
	if missing != lost {
		t.Fatalf("%d chunks are nowhere, and corrupt descriptors took %d", missing, lost)
	}
	want.Total = pool.Chunks()
	var sum Account
	for _, w := range ws {
		var a Account
		w.Account(&a)
		sum.Add(&a)
	}
	// What corrupt descriptors took stays counted as out for reception.
	inRing := want.Free + want.Returning + want.Fill + want.RX + want.TX + want.Completion + want.Caller
	want.Fill += want.Total - inRing
	if sum != want || !sum.Balanced() {
		t.Fatalf("the accounts say %+v,\nbut it is        %+v", sum, want)
	}
}

// schedule runs n random steps of two workers that receive, hold, hand over, send, release and allocate, and of their
// kernels. op is the source of randomness that picks the steps.
func schedule(t testing.TB, c PoolConfig, size, start uint32, n int, rng *rand.Rand, corrupt bool, op func(n int) int) {
	ws, ks := newFakeWires(t, c, size, start, rng)
	var held []packet.Frame
	var f [40]packet.Frame
	var bad uint64
	var got [2][packet.Ports]uint32 // next sequence number by worker and port of arrival
	for _, k := range ks {
		for p := range k.port {
			k.port[p].check = func(b []byte) {
				if len(b) < 8 || len(b) > 58 {
					t.Fatalf("%d bytes were sent", len(b))
				}
				for _, c := range b[4:] {
					if c != b[len(b)-1] {
						t.Fatalf("sent frame was damaged: %x", b)
					}
				}
			}
		}
	}
	for range n {
		i, j := op(len(ws)), packet.Port(op(packet.Ports))
		w, k := ws[i], ks[i]
		p := &k.port[j]
		burst := 1 + op(len(f))
		switch op(11) {
		case 0:
			k.takeFill(p, uint32(burst))
		case 1:
			k.arrive(p, uint32(burst))
		case 2:
			k.complete(p, uint32(burst))
		case 3, 4:
			m := w.Receive(j, f[:burst])
			for _, f := range f[:m] {
				if seq := binary.BigEndian.Uint32(f.Data); seq < got[i][j] {
					t.Fatalf("frame %d was received after %d", seq, got[i][j])
				} else {
					got[i][j] = seq + 1
				}
			}
			held = append(held, f[:m]...)
		case 5, 6: // send what is held, wherever it came from
			burst = min(burst, len(held))
			m := w.Send(j, held[:burst])
			held = held[:copy(held, held[m:])]
		case 7:
			burst = min(burst, len(held), 3)
			w.Release(held[:burst])
			held = held[:copy(held, held[burst:])]
		case 8:
			m := w.Alloc(f[:min(burst, 4)])
			for i := range f[:m] {
				f[i].Data = f[i].Data[:8]
				clear(f[i].Data)
			}
			held = append(held, f[:m]...)
		case 9:
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		case 10:
			if corrupt && op(4) == 0 {
				bad += uint64(k.corrupt(p))
			}
			if op(30) == 0 {
				p.down = !p.down
			}
			if op(8) == 0 {
				p.fill.flags.Store(uint32(op(2)))
			}
		}
		census(t, ws, ks, held)
	}
	// All that is under way arrives.
	for _, k := range ks {
		for j := range k.port {
			k.port[j].down = false
		}
	}
	var sum Account
	for range 10_000 {
		sum = Account{}
		for i, w := range ws {
			for j := range w.port {
				w.Release(f[:w.Receive(packet.Port(j), f[:])])
				ks[i].complete(&ks[i].port[j], size)
			}
			m := w.Send(packet.Inside, held[:min(len(held), len(f))])
			held = held[:copy(held, held[m:])]
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		for _, w := range ws {
			var a Account
			w.Account(&a)
			sum.Add(&a)
		}
		if sum.TX+sum.Completion+sum.RX+sum.Returning+sum.Caller == 0 {
			break
		}
	}
	census(t, ws, ks, held)
	if sum.TX+sum.Completion+sum.RX+sum.Returning+sum.Caller != 0 {
		t.Fatalf("not drained: %+v", sum)
	}
	var s, all Stats
	for _, w := range ws {
		w.Stats(&s)
		all.Add(&s)
	}
	if n := all.Port[0].RXBad + all.Port[1].RXBad; n != bad {
		t.Fatalf("%d corrupt descriptors were counted, there were %d", n, bad)
	}
}

// TestFakeKernel: random schedules over small and large rings, with few and many chunks, across the wrap of the indices.
func TestFakeKernel(t *testing.T) {
	for _, c := range []struct {
		chunks  int
		size    uint32
		corrupt bool
	}{
		{16, 2, false}, {64, 4, false}, {512, 64, false}, {20, 64, false}, {1024, 8, true}, {2048, 64, true},
	} {
		for seed := range uint64(4) {
			rng := rand.New(rand.NewPCG(seed, 11))
			steps := 1500
			if testing.Short() {
				steps = 300
			}
			start := -c.size*3/2 - uint32(seed)*7
			schedule(t, PoolConfig{Workers: 2, Chunks: c.chunks}, c.size, start, steps, rng, c.corrupt, rng.IntN)
		}
	}
}

// FuzzFakeKernel lets the fuzzer pick the steps.
func FuzzFakeKernel(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 12))
	for range 4 {
		b := make([]byte, 400)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 4000 {
			return
		}
		steps := len(ops) / 4
		next := func(n int) int {
			if len(ops) == 0 {
				return 0
			}
			b := ops[0]
			ops = ops[1:]
			return int(b) % n
		}
		schedule(t, PoolConfig{Workers: 2, Chunks: 32}, 8, 1<<32-9, steps, rand.New(rand.NewPCG(13, 14)), true, next)
	})
}

// TestFakeKernelConcurrent runs the kernel's side in goroutines of its own; with the race detector this shows that what
// the rings publish is published in order.
func TestFakeKernelConcurrent(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 16))
	ws, ks := newFakeWires(t, PoolConfig{Workers: 1, Chunks: 256}, 32, 1<<32-100, rng)
	w, k := ws[0], ks[0]
	const total = 5000
	stop, done := make(chan struct{}), make(chan struct{})
	p := &k.port[packet.Inside] // only this port's reception is the goroutine's; the rest is the worker's
	k2 := &fakeKernel{w: w, rng: rand.New(rand.NewPCG(17, 18))}
	go func() {
		defer close(done)
		for p.arrived < total {
			select {
			case <-stop:
				return
			default:
			}
			k2.takeFill(p, 16)
			k2.arrive(p, min(16, total-p.arrived))
			runtime.Gosched()
		}
	}()
	defer func() { close(stop); <-done }()
	var f [24]packet.Frame
	next := uint32(0)
	eventually(t, "reception of everything", func() bool {
		n := w.Receive(packet.Inside, f[:])
		for _, f := range f[:n] {
			if seq := binary.BigEndian.Uint32(f.Data); seq != next || len(f.Data) != 8+int(seq%50) || f.Data[len(f.Data)-1] != byte(seq) && len(f.Data) > 8 {
				t.Fatalf("frame %d of %d bytes, want %d", seq, len(f.Data), next)
			}
			next++
		}
		m := w.Send(packet.Outside, f[:n])
		w.Release(f[m:n])
		k.complete(&k.port[packet.Outside], 24)
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		return next == total
	})
}

// TestXSKGone: an interface that is removed is an error from Flush and Wait, for good.
func TestXSKGone(t *testing.T) {
	ws, ks := newFakeWires(t, PoolConfig{Workers: 1, Chunks: 64}, 8, 0, rand.New(rand.NewPCG(1, 1)))
	w := ws[0]
	ks[0].port[packet.Outside].gone = true
	if err := w.Flush(); err != nil {
		t.Fatalf("nothing to send, and yet %v", err)
	}
	for range aliveInterval {
		if err := w.Wait(time.Nanosecond); err != nil {
			if !errors.Is(err, unix.ENXIO) {
				t.Fatal(err)
			}
			break
		}
	}
	for range 3 {
		if err := w.Flush(); !errors.Is(err, unix.ENXIO) {
			t.Fatalf("flush: %v", err)
		}
	}
}

// TestXSKShares: neither a stuck transmitter nor a flooded port takes the chunks that the others need.
func TestXSKShares(t *testing.T) {
	const size = 64
	ws, ks := newFakeWires(t, PoolConfig{Workers: 1, Chunks: 4 * size}, size, 0, rand.New(rand.NewPCG(1, 1)))
	w, k := ws[0], ks[0]
	var f [16]packet.Frame
	for range 200 { // inside floods, outside never completes
		k.takeFill(&k.port[packet.Inside], size)
		k.arrive(&k.port[packet.Inside], size)
		n := w.Receive(packet.Inside, f[:])
		w.Release(f[w.Send(packet.Outside, f[:n]):n])
		w.reclaim(&w.port[packet.Outside])
		w.home.settle()
		w.refill()
		census(t, ws, ks, nil)
	}
	var s Stats
	w.Stats(&s)
	if s.Port[packet.Inside].FillShort+s.Port[packet.Outside].FillShort != 0 || s.Port[packet.Inside].RX < 200*16/2 {
		t.Errorf("reception starved: %+v", s)
	}
	if n := w.Alloc(f[:8]); n != 8 {
		t.Errorf("only %d chunks are left for the firewall's own frames", n)
	}
	w.Release(f[:8])
	if s.Port[packet.Outside].TXFull == 0 {
		t.Error("the transmitter was not full")
	}
}

// TestXSKRingNonsense: indices that the kernel could never have stored neither crash nor hang.
func TestXSKRingNonsense(t *testing.T) {
	ws, ks := newFakeWires(t, PoolConfig{Workers: 1, Chunks: 64}, 8, 0, rand.New(rand.NewPCG(1, 1)))
	w, k := ws[0], ks[0]
	var f [8]packet.Frame
	for i := range w.port {
		k.port[i].rx.producer.Store(1 << 31)
		k.port[i].tx.consumer.Store(1 << 30)
		k.port[i].completion.producer.Store(77)
		k.port[i].fill.consumer.Store(1 << 29)
		if n := w.Receive(packet.Port(i), f[:]); n != 0 {
			t.Errorf("received %d frames", n)
		}
		for want := 8; want >= 0; want -= 8 { // as much as the ring had room for before
			n := w.Alloc(f[:])
			m := w.Send(packet.Port(i), f[:n])
			if m != want {
				t.Errorf("sent %d frames into a ring that makes no sense, want %d", m, want)
			}
			w.Release(f[m:n])
		}
		w.reclaim(&w.port[i])
		w.refill()
	}
	// An empty frame and one outside its chunk are dropped, not handed to the kernel.
	ws, _ = newFakeWires(t, PoolConfig{Workers: 1, Chunks: 64}, 8, 0, rand.New(rand.NewPCG(1, 1)))
	w = ws[0]
	w.Alloc(f[:1])
	f[0].Data = f[0].Data[:0]
	if n := w.Send(packet.Inside, f[:1]); n != 1 || w.port[packet.Inside].tx.waiting() != 0 {
		t.Errorf("an empty frame: took %d, queued %d", n, w.port[packet.Inside].tx.waiting())
	}
	var s Stats
	w.Stats(&s)
	if s.Port[packet.Inside].TXLost != 1 {
		t.Errorf("not counted: %+v", s.Port[packet.Inside])
	}
	balance(t, ws, 0)

	for _, off := range []unix.XDPRingOffset{{}, {Producer: 1, Consumer: 64, Desc: 128}, {Producer: 0, Consumer: 64, Desc: 1 << 40}, {Producer: 0, Consumer: 64, Desc: 132}} {
		if _, err := ringBytes[desc](off, 8); err == nil {
			t.Errorf("offsets %+v were taken", off)
		}
	}
}

// BenchmarkXSK is the cost of the rings alone: receive, send, complete, refill, for bursts of 64.
func BenchmarkXSK(b *testing.B) {
	ws, ks := newFakeWires(b, PoolConfig{Workers: 1}, DefaultRingSize, 0, rand.New(rand.NewPCG(1, 1)))
	w, k := ws[0], ks[0]
	in, out := &k.port[packet.Inside], &k.port[packet.Outside]
	var f [64]packet.Frame
	b.ReportAllocs()
	for b.Loop() {
		n := in.fill.ready(64) // the kernel's part, as short as can be
		for i := range n {
			in.rx.put(i, desc{addr: in.fill.get(i) + Headroom, len: 60})
		}
		in.fill.consume(n)
		in.rx.room(n)
		in.rx.produce(n)

		m := w.Receive(packet.Inside, f[:])
		w.Send(packet.Outside, f[:m])
		w.reclaim(&w.port[packet.Inside])
		w.reclaim(&w.port[packet.Outside])
		w.home.settle()
		w.refill()

		n = out.tx.ready(64)
		for i := range n {
			out.completion.put(i, out.tx.get(i).addr)
		}
		out.tx.consume(n)
		out.completion.room(n)
		out.completion.produce(n)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/frame")
}
