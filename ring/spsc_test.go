package ring

import (
	"math/rand/v2"
	"runtime"
	"testing"
)

// TestSPSCTwin runs random batches against a plain slice.
func TestSPSCTwin(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, capacity := range []int{1, 2, 3, 8, 64} {
		q := NewSPSC[int](capacity)
		q.tail.Store(1<<64 - 5) // wrap the indices soon
		q.head.Store(1<<64 - 5)
		q.headSeen, q.tailSeen = 1<<64-5, 1<<64-5
		var twin []int
		next := 0
		for range 5000 {
			batch := make([]int, rng.IntN(2*q.Cap()+1))
			switch rng.IntN(3) {
			case 0:
				for i := range batch {
					batch[i] = next + i
				}
				want := min(len(batch), q.Cap()-len(twin))
				if n := q.Push(batch); n != want {
					t.Fatalf("capacity %d: Push(%d) with %d queued = %d, want %d", capacity, len(batch), len(twin), n, want)
				}
				twin = append(twin, batch[:want]...)
				next += want
			case 1:
				for i := range batch {
					batch[i] = next + i
				}
				want := len(batch) <= q.Cap()-len(twin)
				if ok := q.PushAll(batch); ok != want {
					t.Fatalf("capacity %d: PushAll(%d) with %d queued = %v", capacity, len(batch), len(twin), ok)
				}
				if want {
					twin = append(twin, batch...)
					next += len(batch)
				}
			case 2:
				want := min(len(batch), len(twin))
				if n := q.Pop(batch); n != want {
					t.Fatalf("capacity %d: Pop(%d) with %d queued = %d", capacity, len(batch), len(twin), n)
				}
				for i := range want {
					if batch[i] != twin[i] {
						t.Fatalf("capacity %d: element %d is %d, want %d", capacity, i, batch[i], twin[i])
					}
				}
				twin = twin[want:]
			}
			if q.Len() != len(twin) {
				t.Fatalf("capacity %d: Len %d, want %d", capacity, q.Len(), len(twin))
			}
		}
	}
}

// TestSPSCGoroutines passes a sequence between two goroutines.
func TestSPSCGoroutines(t *testing.T) {
	const total = 200_000
	q := NewSPSC[uint64](64)
	go func() {
		rng := rand.New(rand.NewPCG(3, 4))
		var batch [17]uint64
		for sent := uint64(0); sent < total; {
			n := min(1+rng.IntN(len(batch)), int(total-sent))
			for i := range batch[:n] {
				batch[i] = sent + uint64(i)
			}
			k := q.Push(batch[:n])
			if k == 0 {
				runtime.Gosched()
			}
			sent += uint64(k)
		}
	}()
	var batch [23]uint64
	for want := uint64(0); want < total; {
		n := q.Pop(batch[:])
		if n == 0 {
			runtime.Gosched()
		}
		for _, v := range batch[:n] {
			if v != want {
				t.Fatalf("got %d, want %d", v, want)
			}
			want++
		}
	}
}

func BenchmarkSPSC(b *testing.B) {
	q := NewSPSC[uint64](1024)
	var batch [64]uint64
	b.ReportAllocs()
	for b.Loop() {
		q.Push(batch[:])
		q.Pop(batch[:])
	}
}
