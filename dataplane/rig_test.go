package dataplane

import (
	"context"
	"testing"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/ring"
	"corewire/rules"
)

const (
	syn = 0x02
	rst = 0x04
	ack = 0x10
)

// rig is an engine over in-memory wires, with a clock that the test turns.
type rig struct {
	t     testing.TB
	e     *Engine
	wires []*ring.Memory
	now   conntrack.Tick
}

const chunksPerWorker = 512

func compile(t testing.TB, text string) *rules.Ruleset {
	t.Helper()
	f, err := rules.Parse("test.rules", []byte(text), rules.Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rules.Compile([]*rules.File{f}, rules.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// newRig makes an engine; text is the rules of *filter FORWARD, whose policy is DROP.
func newRig(t testing.TB, workers int, text string, change func(*Config)) *rig {
	t.Helper()
	wires, err := ring.NewMemory(ring.MemoryConfig{Pool: ring.PoolConfig{Workers: workers, Chunks: chunksPerWorker}})
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Ruleset: compile(t, filter(text)), Max: 1 << 12, Record: workers == 1}
	for _, w := range wires {
		c.Wires = append(c.Wires, w)
	}
	if change != nil {
		change(&c)
	}
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, e: e, wires: wires}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		for _, w := range wires {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	r.step()
	return r
}

func filter(text string) string { return "*filter\n:FORWARD DROP [0:0]\n" + text + "\nCOMMIT\n" }

// step makes one turn.
func (r *rig) step() int {
	r.t.Helper()
	n, err := r.e.Step(r.now)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// settle turns until nothing moves.
func (r *rig) settle() {
	r.t.Helper()
	for quiet := 0; quiet < 3; {
		if r.step() == 0 {
			quiet++
		} else {
			quiet = 0
		}
	}
}

// inject puts a frame before a worker's port.
func (r *rig) inject(worker int, port packet.Port, frame []byte) {
	r.t.Helper()
	if !r.wires[worker].Inject(port, frame) {
		r.t.Fatalf("worker %d %v: no room for a frame of %d bytes", worker, port, len(frame))
	}
}

// send passes one frame through a rig with one worker and returns its result.
func (r *rig) send(port packet.Port, frame []byte) Result {
	r.t.Helper()
	r.inject(0, port, frame)
	r.step()
	if n := len(r.e.Results()); n != 1 {
		r.t.Fatalf("%d results for one frame", n)
	}
	return r.e.Results()[0]
}

// out takes the frames that left through a port, over all workers.
func (r *rig) out(port packet.Port) (frames []string) {
	for _, w := range r.wires {
		w.Collect(port, func(b []byte) { frames = append(frames, string(b)) })
	}
	return frames
}

func (r *rig) stats() Stats {
	r.t.Helper()
	s, err := r.e.Stats(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// balanced checks that every chunk has exactly one owner.
func (r *rig) balanced() Ledger {
	r.t.Helper()
	s := r.stats()
	l := s.Ledger()
	if !l.Balanced() || l.Total != chunksPerWorker*len(r.wires) {
		r.t.Fatalf("chunks do not add up: %+v", l)
	}
	return l
}
