package ring

import (
	"fmt"
	"sync/atomic"
	"time"

	"corewire/internal/packet"
)

// DefaultRingSize is the number of descriptors of each ring: two bursts of 1024 in flight; longer rings only add latency
// and cache misses under overload, shorter ones lose frames in a scheduling gap of a millisecond at 2 Mpps.
const DefaultRingSize = 2048

// MemoryConfig describes in-memory wires. Zero values mean defaults.
type MemoryConfig struct {
	Pool     PoolConfig // one wire per worker
	RingSize int        // slots of each ring, a power of two from 1 to 1<<20; default 2048, or less for a small pool
}

// Memory is a Wire without a network: frames come in through Inject and go out through Collect. Tests, replay and
// benchmarks use it. It has the four rings of AF_XDP for each port and the same rules of ownership.
//
// The methods of Wire belong to the worker's goroutine; Inject, Collect and Pending to the far side's, which may be the
// same goroutine or another one.
type Memory struct {
	home *home
	port [packet.Ports]memoryPort
	// idle is true while the worker sleeps in Wait or is about to; the far side then sends to wake.
	idle   atomic.Bool
	wake   chan struct{} // capacity 1: a Wake that nobody waited for yet is kept
	timer  *time.Timer
	closed bool
	stats  [packet.Ports]memoryStats
}

// memoryPort is one port's rings, named as in AF_XDP. fill and tx are written by the worker, rx and completion by the
// far side. Elements of fill and completion are chunk numbers.
type memoryPort struct {
	fill       *SPSC[uint32]
	rx         *SPSC[packet.Frame]
	tx         *SPSC[packet.Frame]
	completion *SPSC[uint32]
	filled     int // chunks given through fill and not yet taken by Receive; worker's
	sent       int // frames put into tx and not yet taken from completion; worker's
}

type memoryStats struct{ rx, tx, txFull, fillShort atomic.Uint64 }

// NewMemory makes one wire per worker over a pool of their own. Close all of them.
func NewMemory(c MemoryConfig) ([]*Memory, error) {
	if err := c.Pool.fill(); err != nil {
		return nil, err
	}
	if c.RingSize == 0 {
		c.RingSize = DefaultRingSize
		for c.RingSize > 1 && c.RingSize*4 > c.Pool.Chunks {
			c.RingSize /= 2
		}
	}
	if c.RingSize < 1 || c.RingSize > 1<<20 || c.RingSize&(c.RingSize-1) != 0 {
		return nil, fmt.Errorf("make memory wire: ring size %d (a power of two from 1 to %d)", c.RingSize, 1<<20)
	}
	pool, err := NewPool(c.Pool)
	if err != nil {
		return nil, err
	}
	ws := make([]*Memory, c.Pool.Workers)
	for i := range ws {
		m := &Memory{home: &pool.homes[i], wake: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
		m.timer.Stop()
		for p := range m.port {
			m.port[p] = memoryPort{
				fill:       NewSPSC[uint32](c.RingSize),
				rx:         NewSPSC[packet.Frame](c.RingSize),
				tx:         NewSPSC[packet.Frame](c.RingSize),
				completion: NewSPSC[uint32](c.RingSize),
			}
		}
		pool.retain()
		m.refill()
		ws[i] = m
	}
	return ws, nil
}

// Pool returns the pool that all wires of one NewMemory share.
func (m *Memory) Pool() *Pool { return m.home.pool }

// Inject copies data into a chunk of the port's fill ring and queues it for Receive. It reports false if that is
// impossible: no chunk is left (the worker has not called Flush, or holds them all), or data is longer than Pool.Room.
func (m *Memory) Inject(port packet.Port, data []byte) bool {
	p := &m.port[port]
	if len(data) > m.home.pool.Room() {
		return false
	}
	var c [1]uint32
	// Every chunk in fill, on the way and in rx came through fill, which is as long as rx: there is room in rx for it.
	if p.fill.Pop(c[:]) == 0 {
		return false
	}
	f, _ := m.home.pool.frame(m.home.pool.base(c[0])+Headroom, uint32(len(data)))
	copy(f.Data, data)
	p.rx.Push([]packet.Frame{f})
	if m.idle.Load() {
		m.Wake()
	}
	return true
}

// Collect takes the frames that were sent out of port, calls take for each in order, and completes them. The bytes are
// valid during the call only. It returns the number of frames. A nil take discards them.
func (m *Memory) Collect(port packet.Port, take func(data []byte)) int {
	p := &m.port[port]
	var f [stageSize]packet.Frame
	var c [stageSize]uint32
	total := 0
	for {
		n := p.tx.Pop(f[:])
		if n == 0 {
			return total
		}
		for i := range f[:n] {
			if take != nil {
				take(f[i].Data)
			}
			c[i] = m.home.pool.chunk(f[i].Addr)
		}
		p.completion.Push(c[:n]) // takes all: sent never exceeds the ring's size
		total += n
	}
}

// Pending returns the number of frames that were injected at port and not yet received, and the number sent out of it
// and not yet collected.
func (m *Memory) Pending(port packet.Port) (rx, tx int) {
	return m.port[port].rx.Len(), m.port[port].tx.Len()
}

// Receive is Wire.Receive.
func (m *Memory) Receive(port packet.Port, f []packet.Frame) int {
	p := &m.port[port]
	n := p.rx.Pop(f)
	if n == 0 {
		return 0
	}
	for i := range f[:n] {
		m.home.pool.owners.move(m.home.pool.chunk(f[i].Addr), ownerFill, ownerCaller)
	}
	p.filled -= n
	m.home.given += uint64(n)
	m.stats[port].rx.Add(uint64(n))
	return n
}

// Send is Wire.Send.
func (m *Memory) Send(port packet.Port, f []packet.Frame) int {
	p := &m.port[port]
	n := min(len(f), p.tx.Cap()-p.sent)
	if n < len(f) {
		m.reclaim()
		n = min(len(f), p.tx.Cap()-p.sent)
		m.stats[port].txFull.Add(uint64(len(f) - n))
	}
	if n == 0 {
		return 0
	}
	for i := range f[:n] {
		m.home.pool.owners.check(m.home.pool, &f[i])
		m.home.pool.owners.move(m.home.pool.chunk(f[i].Addr), ownerCaller, ownerTX)
	}
	p.tx.Push(f[:n]) // takes all: tx holds a part of sent
	p.sent += n
	m.home.taken += uint64(n)
	m.stats[port].tx.Add(uint64(n))
	return n
}

// Release is Wire.Release.
func (m *Memory) Release(f []packet.Frame) { m.home.put(f) }

// Alloc is Wire.Alloc.
func (m *Memory) Alloc(f []packet.Frame) int { return m.home.alloc(f) }

// Flush is Wire.Flush; it never fails.
func (m *Memory) Flush() error {
	m.reclaim()
	m.home.settle()
	m.refill()
	return nil
}

// reclaim takes completed chunks back.
func (m *Memory) reclaim() {
	var c [stageSize]uint32
	for i := range m.port {
		p := &m.port[i]
		for p.sent > 0 {
			n := p.completion.Pop(c[:])
			if n == 0 {
				break
			}
			for _, c := range c[:n] {
				m.home.give(c, ownerTX)
			}
			p.sent -= n
		}
	}
}

// refill gives free chunks to both fill rings, level as far as they go.
func (m *Memory) refill() {
	in, out := &m.port[packet.Inside], &m.port[packet.Outside]
	a, b := share(len(m.home.free), in.fill.Cap()-in.filled, out.fill.Cap()-out.filled)
	for i, n := range [...]int{a, b} {
		p := &m.port[i]
		if p.filled+n < p.fill.Cap() {
			m.stats[i].fillShort.Add(1)
		}
		var c [stageSize]uint32
		p.filled += n
		for n > 0 {
			k := min(n, len(c))
			for j := range c[:k] {
				c[j] = m.home.pop(ownerFill)
			}
			p.fill.Push(c[:k])
			n -= k
		}
	}
}

// share divides have chunks between two fill rings of equal size that miss a and b of them. When there are not enough,
// the emptier ring gets the more, so that neither port starves.
func share(have, a, b int) (int, int) {
	if a+b <= have {
		return a, b
	}
	// The rings end up level where possible: a - x = b - y with x + y = have.
	x := min(max((have+a-b+1)/2, 0), have)
	x = min(x, a)
	y := min(have-x, b)
	return x, y
}

// Wait is Wire.Wait.
func (m *Memory) Wait(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	// Say that we sleep before the last look: a far side that injects after the look sees it and wakes us.
	m.idle.Store(true)
	defer m.idle.Store(false)
	for i := range m.port {
		if m.port[i].rx.Len() > 0 {
			return nil
		}
	}
	m.timer.Reset(d)
	select {
	case <-m.wake:
		m.timer.Stop()
	case <-m.timer.C:
	}
	return nil
}

// Wake is Wire.Wake.
func (m *Memory) Wake() {
	select {
	case m.wake <- struct{}{}:
	default: // one is waiting to be taken already
	}
}

// Account is Wire.Account.
func (m *Memory) Account(a *Account) {
	m.home.account(a)
	for i := range m.port {
		p := &m.port[i]
		rx, done := p.rx.Len(), p.completion.Len()
		a.RX += rx
		a.Fill += p.filled - rx
		a.Completion += done
		a.TX += p.sent - done
	}
}

// Stats is Wire.Stats.
func (m *Memory) Stats(s *Stats) {
	*s = Stats{}
	for i := range m.stats {
		s.Port[i].RX = m.stats[i].rx.Load()
		s.Port[i].TX = m.stats[i].tx.Load()
		s.Port[i].TXFull = m.stats[i].txFull.Load()
		s.Port[i].FillShort = m.stats[i].fillShort.Load()
	}
}

// Close is Wire.Close. The far side must not use the wire any more.
func (m *Memory) Close() error {
	if m.closed {
		return nil
	}
	m.closed = true
	return m.home.pool.release()
}

var _ Wire = (*Memory)(nil)
