package ring

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"corewire/internal/packet"
)

func newMemory(t testing.TB, c MemoryConfig) []*Memory {
	t.Helper()
	ws, err := NewMemory(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, w := range ws {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return ws
}

// balance sums the accounts of all wires and compares what the caller should hold.
func balance[W Wire](t testing.TB, ws []W, held int) Account {
	t.Helper()
	var sum Account
	for _, w := range ws {
		var a Account
		w.Account(&a)
		sum.Add(&a)
	}
	if !sum.Balanced() {
		t.Fatalf("chunks do not add up: %+v", sum)
	}
	if sum.Caller != held {
		t.Fatalf("callers hold %d chunks, the account says %+v", held, sum)
	}
	return sum
}

// TestMemoryForward sends random frames through both ports and two workers with a hand-off, and checks order, content
// and the account after every step.
func TestMemoryForward(t *testing.T) {
	for _, c := range []MemoryConfig{
		{Pool: PoolConfig{Workers: 2, Chunks: 64}, RingSize: 16},
		{Pool: PoolConfig{Workers: 2, Chunks: 5, ChunkSize: 4096}, RingSize: 8},
		{Pool: PoolConfig{Workers: 2, Chunks: 1}, RingSize: 1},
	} {
		ws := newMemory(t, c)
		rng := rand.New(rand.NewPCG(5, 6))
		var sent, got [2]uint32 // by port of arrival; all frames of a port go in at one worker, so order must hold
		var handoff [2][]packet.Frame
		buf := make([]byte, 64)
		f := make([]packet.Frame, 8)
		held := func() int { return len(handoff[0]) + len(handoff[1]) }
		for range 20_000 {
			switch rng.IntN(4) {
			case 0: // arrive: inside at worker 0, outside at worker 1
				p := packet.Port(rng.IntN(2))
				binary.BigEndian.PutUint32(buf, sent[p])
				if ws[p].Inject(p, buf[:4+rng.IntN(60)]) {
					sent[p]++
				}
			case 1: // receive and hand to the other worker
				p := packet.Port(rng.IntN(2))
				n := ws[p].Receive(p, f[:1+rng.IntN(len(f))])
				handoff[p] = append(handoff[p], f[:n]...)
			case 2: // the other worker sends
				p := packet.Port(rng.IntN(2))
				n := ws[1-p].Send(p.Other(), handoff[p])
				handoff[p] = append(handoff[p][:0], handoff[p][n:]...)
			case 3:
				p := packet.Port(rng.IntN(2))
				ws[1-p].Collect(p.Other(), func(d []byte) {
					if n := binary.BigEndian.Uint32(d); n != got[p] {
						t.Fatalf("frame %d came out of %v, want %d", n, p.Other(), got[p])
					}
					got[p]++
				})
				ws[0].Flush()
				ws[1].Flush()
			}
			balance(t, ws, held())
		}
		if got[0] < 100 || got[1] < 100 && c.Pool.Chunks > 1 { // a single chunk serves one port
			t.Fatalf("only %v frames came through", got)
		}
		for p := range handoff {
			ws[0].Release(handoff[p])
			handoff[p] = nil
		}
		for range 3 {
			for _, w := range ws {
				w.Collect(packet.Inside, nil)
				w.Collect(packet.Outside, nil)
				w.Flush()
			}
		}
		sum := balance(t, ws, 0)
		if sum.TX+sum.Completion+sum.Returning != 0 {
			t.Fatalf("not drained: %+v", sum)
		}
	}
}

// TestMemoryNarrow sends frames that were shortened at both ends, and one from Alloc.
func TestMemoryNarrow(t *testing.T) {
	w := newMemory(t, MemoryConfig{Pool: PoolConfig{Chunks: 16}})[0]
	w.Inject(packet.Inside, []byte("abcdefgh"))
	var f [1]packet.Frame
	if w.Receive(packet.Inside, f[:]) != 1 {
		t.Fatal("nothing received")
	}
	f[0].Data = f[0].Data[2:7]
	f[0].Addr += 2
	w.Send(packet.Outside, f[:])
	if w.Alloc(f[:]) != 1 || len(f[0].Data) != w.Pool().Room() {
		t.Fatalf("Alloc gave %d bytes, want %d", len(f[0].Data), w.Pool().Room())
	}
	f[0].Data = f[0].Data[:copy(f[0].Data, "reply")]
	w.Send(packet.Outside, f[:])
	var got [][]byte
	w.Collect(packet.Outside, func(d []byte) { got = append(got, bytes.Clone(d)) })
	if len(got) != 2 || string(got[0]) != "cdefg" || string(got[1]) != "reply" {
		t.Fatalf("sent %q", got)
	}
	w.Flush()
	balance(t, []Wire{w}, 0)
}

// TestMemoryBackpressure fills the transmit ring: reception must go on.
func TestMemoryBackpressure(t *testing.T) {
	w := newMemory(t, MemoryConfig{Pool: PoolConfig{Chunks: 64}, RingSize: 8})[0]
	var f [1]packet.Frame
	full := 0
	for range 100 {
		if !w.Inject(packet.Inside, []byte("x")) {
			t.Fatal("the fill ring starved behind a full transmit ring")
		}
		w.Receive(packet.Inside, f[:])
		if w.Send(packet.Outside, f[:]) == 0 {
			full++
			w.Release(f[:])
		}
		w.Flush()
	}
	var s Stats
	w.Stats(&s)
	if full != 92 || s.Port[packet.Outside].TXFull != 92 || s.Port[packet.Outside].TX != 8 || s.Port[packet.Inside].RX != 100 {
		t.Fatalf("%d refused, stats %+v", full, s)
	}
	balance(t, []Wire{w}, 0)
}

// TestMemoryWait ends waits by a frame, by Wake and by time.
func TestMemoryWait(t *testing.T) {
	w := newMemory(t, MemoryConfig{Pool: PoolConfig{Chunks: 16}})[0]
	w.Wake() // remembered
	if err := w.Wait(time.Hour); err != nil {
		t.Fatal(err)
	}
	go w.Wake()
	w.Wait(time.Hour)
	go w.Inject(packet.Outside, []byte("x"))
	w.Wait(time.Hour)
	w.Wait(time.Hour) // the frame is still there
	var f [2]packet.Frame
	if n := w.Receive(packet.Outside, f[:]); n != 1 {
		t.Fatalf("received %d", n)
	}
	w.Release(f[:1])
	w.Wait(time.Microsecond)
	w.Wait(0)
}

func TestPoolConfig(t *testing.T) {
	for _, c := range []PoolConfig{{Workers: -1}, {Workers: 5000}, {Chunks: -1}, {Chunks: 1 << 30}, {ChunkSize: 1024}, {ChunkSize: 3000}} {
		if p, err := NewPool(c); err == nil {
			p.close()
			t.Errorf("%+v was taken", c)
		}
	}
	if _, err := NewMemory(MemoryConfig{RingSize: 3}); err == nil {
		t.Error("ring size 3 was taken")
	}
}

// TestPoolFrame asks for frames that cross chunks and the pool's end.
func TestPoolFrame(t *testing.T) {
	p, err := NewPool(PoolConfig{Chunks: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	for _, c := range []struct {
		addr uint64
		n    uint32
		ok   bool
	}{
		{0, 2048, true}, {256, 1792, true}, {256, 1793, false}, {2047, 1, true}, {2047, 2, false}, {8191, 1, true},
		{8192, 0, false}, {1 << 63, 1, false}, {1<<64 - 1, 1<<32 - 1, false}, {0, 1<<32 - 1, false}, {6144, 2048, true},
	} {
		f, ok := p.frame(c.addr, c.n)
		if ok != c.ok || ok && (len(f.Data) != int(c.n) || f.Addr != c.addr) {
			t.Errorf("frame(%#x, %d) = %d bytes, %v", c.addr, c.n, len(f.Data), ok)
		}
	}
}

func TestShare(t *testing.T) {
	for have := range 20 {
		for a := range 9 {
			for b := range 9 {
				x, y := share(have, a, b)
				if x < 0 || y < 0 || x > a || y > b || x+y != min(have, a+b) {
					t.Fatalf("share(%d, %d, %d) = %d, %d", have, a, b, x, y)
				}
				if left, right := a-x, b-y; have < a+b && x > 0 && y > 0 && (left-right > 1 || right-left > 1) {
					t.Fatalf("share(%d, %d, %d) = %d, %d is not level", have, a, b, x, y)
				}
			}
		}
	}
}

func TestMemoryAllocatesNothing(t *testing.T) {
	w := newMemory(t, MemoryConfig{})[0]
	var f [64]packet.Frame
	data := make([]byte, 60)
	n := testing.AllocsPerRun(100, func() {
		for range f {
			w.Inject(packet.Inside, data)
		}
		k := w.Receive(packet.Inside, f[:])
		w.Send(packet.Outside, f[:k])
		w.Collect(packet.Outside, nil)
		w.Flush()
	})
	if n != 0 {
		t.Fatalf("%v allocations in a burst", n)
	}
}

func BenchmarkMemory(b *testing.B) {
	w := newMemory(b, MemoryConfig{})[0]
	var f [64]packet.Frame
	data := make([]byte, 60)
	b.ReportAllocs()
	for b.Loop() {
		for range f {
			w.Inject(packet.Inside, data)
		}
		k := w.Receive(packet.Inside, f[:])
		w.Send(packet.Outside, f[:k])
		w.Collect(packet.Outside, nil)
		w.Flush()
	}
}
