package dataplane

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"corewire/conntrack"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/ring"
)

// start runs the rig's engine until the test ends it.
func (r *rig) start() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.e.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

// await waits until cond holds; the limit only ends a test that hangs.
func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func TestRun(t *testing.T) {
	var beats [2]atomic.Int64
	r := newRig(t, 2, web, func(c *Config) { c.Beat = func(w int, ns int64) { beats[w].Store(ns) } })
	stop := r.start()
	const flows = 100
	sent := 0
	for i := range flows {
		for !r.wires[i%2].Inject(packet.Inside, pt.NewUDP(addrPort(client, i), pt.AP("10.0.0.2:53"))) {
			time.Sleep(time.Millisecond)
		}
	}
	await(t, "all frames", func() bool { sent += len(r.out(packet.Outside)); return sent == flows })
	ctx := context.Background()
	seen := map[string]bool{}
	if err := r.e.Connections(ctx, func(list []conntrack.Info) error {
		for i := range list {
			line := string(list[i].AppendLine(nil, conntrack.FormatConntrack))
			if seen[line] || !strings.Contains(line, "[UNREPLIED]") {
				t.Errorf("listed twice, or replied to: %s", line)
			}
			seen[line] = true
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != flows || r.e.Count() != flows {
		t.Errorf("%d connections listed, %d counted, want %d", len(seen), r.e.Count(), flows)
	}
	if n, err := r.e.Flush(ctx); n != flows || err != nil || r.e.Count() != 0 {
		t.Errorf("flushed %d, %v, %d left", n, err, r.e.Count())
	}
	for i := range beats {
		last := beats[i].Load()
		await(t, "a heartbeat", func() bool { return beats[i].Load() > last })
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.balanced()
	if _, err := r.e.Step(0); err != nil {
		t.Fatal(err)
	}
	if err := r.e.Run(ctx); err == nil {
		t.Error("an engine ran twice")
	}
}

// TestReload changes the rules under traffic: every packet is judged by the old or by the new set, and cached verdicts
// of the old one are worth nothing.
func TestReload(t *testing.T) {
	r := newRig(t, 1, "-A FORWARD -j ACCEPT", nil)
	dns := pt.AP("10.0.0.2:53")
	for range 5 {
		if got := r.send(packet.Inside, pt.NewUDP(client, dns)); got.Verdict != Accept {
			t.Fatalf("%v under rules that accept", got.Verdict)
		}
	}
	if s := r.stats(); s.Workers[0].Counters.Cached == 0 {
		t.Error("no verdict was cached: the test proves nothing")
	}
	ctx := context.Background()
	if err := r.e.SetRuleset(ctx, compile(t, filter("-A FORWARD -p tcp -j ACCEPT"))); err != nil {
		t.Fatal(err)
	}
	if got := r.send(packet.Inside, pt.NewUDP(client, dns)); got.Verdict != Drop {
		t.Errorf("%v under rules that drop: a stale verdict was used", got.Verdict)
	}
	if r.e.Count() != 1 {
		t.Error("the connection did not survive the reload")
	}
	accept := compile(t, filter("-A FORWARD -j ACCEPT"))
	drop := compile(t, filter(""))
	for i := range maxEpoch + 10 {
		rs := accept
		if i%2 == 1 {
			rs = drop
		}
		if err := r.e.SetRuleset(ctx, rs); err != nil {
			t.Fatal(err)
		}
		if i > 20 && i < maxEpoch-20 {
			continue
		}
		for range 2 {
			if got := r.send(packet.Inside, pt.NewUDP(client, dns)); (got.Verdict == Accept) != (rs == accept) {
				t.Fatalf("reload %d: %v", i, got.Verdict)
			}
		}
	}
}

// brittle is a wire that panics when told to.
type brittle struct {
	ring.Wire
	broken atomic.Bool
}

func (b *brittle) Receive(p packet.Port, f []packet.Frame) int {
	if b.broken.Load() {
		panic("the wire broke")
	}
	return b.Wire.Receive(p, f)
}

// TestPanic: a panic in one worker stops all, and says so.
func TestPanic(t *testing.T) {
	var b brittle
	r := newRig(t, 3, web, func(c *Config) {
		b.Wire = c.Wires[1]
		c.Wires[1] = &b
	})
	done := make(chan error, 1)
	go func() { done <- r.e.Run(context.Background()) }()
	await(t, "the workers to turn", func() bool { return r.e.workers[1].turns.Load() > 0 })
	b.broken.Store(true)
	var p *PanicError
	if err := <-done; !errors.As(err, &p) || p.Worker != 1 || !strings.Contains(err.Error(), "the wire broke") {
		t.Fatalf("Run returned %v, want the panic of worker 1", err)
	}
	if _, err := r.e.Flush(context.Background()); err != nil {
		t.Errorf("a stopped engine does not answer: %v", err)
	}
}

// TestStall: a worker that stands still is reported, and a caller that asks it does not wait for ever.
func TestStall(t *testing.T) {
	events := make(chan Event, 10)
	r := newRig(t, 1, web, func(c *Config) { c.Notify = func(e Event) { events <- e } })
	stop := r.start()
	release := make(chan struct{})
	r.e.workers[0].commands <- func() { <-release }
	if e := <-events; e.Kind != EventStalled || e.Count != 0 {
		t.Errorf("got %v, want that worker 0 stands still", e)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.e.Stats(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("asking a stalled worker returned %v", err)
	}
	close(release)
	if e := <-events; e.Kind != EventResumed {
		t.Errorf("got %v, want that it turns again", e)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	rs := compile(t, filter(""))
	wires, err := ring.NewMemory(ring.MemoryConfig{Pool: ring.PoolConfig{Workers: 1, Chunks: 64}})
	if err != nil {
		t.Fatal(err)
	}
	defer wires[0].Close()
	one := []ring.Wire{wires[0]}
	for _, c := range []struct {
		want string
		c    Config
	}{
		{"no wires", Config{Ruleset: rs}},
		{"no rule set", Config{Wires: one}},
		{"burst", Config{Wires: one, Ruleset: rs, Burst: MaxBurst + 1}},
		{"cpus", Config{Wires: one, Ruleset: rs, CPUs: []int{0, 1}}},
	} {
		if _, err := New(c.c); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error about %q", err, c.want)
		}
	}
}
