package control

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"corewire/dataplane"
	"corewire/internal/config"
	"corewire/internal/packet"
	"corewire/ring"
)

// broken is a wire that panics once it is asked for frames.
type broken struct{ ring.Wire }

func (broken) Receive(packet.Port, []packet.Frame) int { panic("torn") }

// fakeLink counts how often it is closed or abandoned.
type fakeLink struct {
	wires     []ring.Wire
	closed    int
	abandoned int
}

func (l *fakeLink) Wires() []ring.Wire                         { return l.wires }
func (l *fakeLink) Report() ring.Report                        { return ring.Report{Driver: ring.DriverXSK, Workers: 1} }
func (l *fakeLink) Beat(int, int64)                            {}
func (l *fakeLink) XDP() (map[string]map[string]uint64, error) { return nil, nil }
func (l *fakeLink) Close() error                               { l.closed++; return nil }
func (l *fakeLink) Abandon() error                             { l.abandoned++; return nil }

// A panic in a worker ends the firewall and leaves the interfaces to the fail mode; any other end gives them back.
func TestPanicLeavesFailMode(t *testing.T) {
	c, _, err := config.Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = c.With(map[string]string{"rules": (&rig{t: t}).file(), "cpus": "none"}); err != nil {
		t.Fatal(err)
	}
	rs, err := c.LoadRules()
	if err != nil {
		t.Fatal(err)
	}
	for _, panics := range []bool{false, true} {
		wires, err := ring.NewMemory(ring.MemoryConfig{Pool: ring.PoolConfig{Chunks: 1024}})
		if err != nil {
			t.Fatal(err)
		}
		l := &fakeLink{wires: []ring.Wire{wires[0]}}
		if panics {
			l.wires[0] = broken{wires[0]}
		}
		f, err := newFirewall(c, rs, l.wires, l, Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if !panics {
			cancel()
		}
		err = f.Run(ctx)
		cancel()
		if _, ok := errors.AsType[*dataplane.PanicError](err); ok != panics {
			t.Errorf("panics %v: %v", panics, err)
		}
		err = f.Close()
		switch {
		case panics && (l.closed != 0 || l.abandoned != 1 || err == nil || !strings.Contains(err.Error(), "stays attached")):
			t.Errorf("after a panic: closed %d times, %v", l.closed, err)
		case !panics && (l.closed != 1 || l.abandoned != 0 || err != nil):
			t.Errorf("after a good end: closed %d times, %v", l.closed, err)
		}
		if err := wires[0].Close(); err != nil {
			t.Error(err)
		}
	}
}

// What a firewall and its server start, they end.
func TestNoGoroutineLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("firewall", func(t *testing.T) {
		r := newRig(t, 2, nil)
		if _, err := r.client.Stats(r.ctx); err != nil {
			t.Error(err)
		}
	})
	for range 500 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Errorf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
}
