package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"corewire/dataplane"
	"corewire/internal/packet"
	"corewire/ring"
	"corewire/rules"
)

// manyRules is n rules of an IP version about hosts, networks and ports that match none of the traffic, then the two that do.
func manyRules(f rules.Family, n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := []byte("*filter\n:FORWARD DROP [0:0]\n")
	for range n {
		if f == rules.IPv6 {
			b = fmt.Appendf(b, "-A FORWARD -s 2001:db8:%x:%x::%x/%d -d 2001:db8:ff::%x:%x -p tcp -m tcp --dport %d -j ACCEPT\n", r.IntN(40), r.IntN(256), r.IntN(256),
				[]int{48, 64, 128}[r.IntN(3)], r.IntN(16), r.IntN(256), r.IntN(2000))
			continue
		}
		b = fmt.Appendf(b, "-A FORWARD -s 192.%d.%d.%d/%d -d 172.16.%d.%d -p tcp -m tcp --dport %d -j ACCEPT\n", r.IntN(40), r.IntN(256), r.IntN(256),
			[]int{16, 24, 32}[r.IntN(3)], r.IntN(16), r.IntN(256), r.IntN(2000))
	}
	return append(b, "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -i inside -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n"...)
}

// changer changes one rule after the other, each time of the rule set that the change before has made.
type changer struct {
	rs    *rules.Ruleset
	rng   *rand.Rand
	v     rules.Family
	force func(from, to *rules.Ruleset, m rules.Mapping) error // puts it in force

	hold func() (now *rules.Ruleset, release func()) // nil: nobody else changes them

	took, cpu, bytes map[string]figures // ms, ms, MB, by what was done
	stats            runtime.MemStats
}

// change inserts, replaces or deletes a rule at a random number, from its words on.
func (c *changer) change(b *testing.B, op rules.EditOp) {
	what := op.String()
	if c.hold != nil {
		now, release := c.hold()
		defer release()
		c.rs = now
	}
	edit := rules.Edit{Op: op, Chain: "FORWARD", Number: 1 + c.rng.IntN(c.rs.Len()), Source: "change", Line: 1}
	if op != rules.EditDelete {
		address := fmt.Sprintf("192.1.2.%d/32", c.rng.IntN(256))
		if c.v == rules.IPv6 {
			address = fmt.Sprintf("2001:db8:1:2::%x/128", c.rng.IntN(256))
		}
		edit.Rule = strings.Fields(fmt.Sprintf("-s %s -p tcp -m tcp --dport %d -j DROP", address, c.rng.IntN(65536)))
	}
	runtime.ReadMemStats(&c.stats)
	allocated := c.stats.TotalAlloc
	start, ran := time.Now(), cpuTime(b)
	to, m, err := c.rs.Edit(edit, rules.Options{})
	if err == nil {
		err = c.force(c.rs, to, m)
	}
	cpu, took := cpuTime(b)-ran, time.Since(start)
	if err != nil {
		b.Fatal(err)
	}
	runtime.ReadMemStats(&c.stats)
	if to.Patches() == 0 {
		b.Fatal("everything was compiled anew")
	}
	c.took[what] = append(c.took[what], float64(took.Nanoseconds())/1e6)
	c.cpu[what] = append(c.cpu[what], float64(cpu.Nanoseconds())/1e6)
	c.bytes[what] = append(c.bytes[what], float64(c.stats.TotalAlloc-allocated)/1e6)
	c.rs = to
}

// report reports what changes took, by the clock and of the time of the thread that made them, and what they allocated.
func (c *changer) report(b *testing.B) {
	for _, op := range kinds {
		what := op.String()
		c.took[what].report(b, what+"-ms")
		c.cpu[what].report(b, what+"-cpu-ms")
		b.ReportMetric(c.bytes[what].median(), what+"-MB")
	}
	once(b)
}

// changes are made of each kind in turn; so few that nothing is compiled anew, in the background neither.
const changes = 15

var kinds = [...]rules.EditOp{rules.EditInsert, rules.EditReplace, rules.EditDelete}

// BenchmarkChange changes one rule of many, from its words on, at random places: in rules alone until there is a rule set that
// matchers could judge by; in a running engine, whose worker always has frames, until every packet is judged by it. Of the
// worker the longest turn in a hundred and the longest of all are told, in µs of its own time, while nothing else happens and
// while rules change: a burst with everything that comes with it, and the change of its rules.
func BenchmarkChange(b *testing.B) {
	for _, v := range []rules.Family{rules.IPv4, rules.IPv6} {
		for _, n := range []int{1000, 10_000, 100_000} {
			text := manyRules(v, n)
			b.Run(fmt.Sprintf("%s/rules/%d", v, n), func(b *testing.B) {
				c := newChanger(compile(b, text), v, func(_, _ *rules.Ruleset, _ rules.Mapping) error { return nil })
				onThread(b)
				for range changes {
					for _, op := range kinds {
						c.change(b, op)
					}
				}
				c.report(b)
			})
			b.Run(fmt.Sprintf("%s/engine/%d", v, n), func(b *testing.B) { changeRunning(b, v, compile(b, text)) })
		}
	}
}

func newChanger(rs *rules.Ruleset, v rules.Family, force func(from, to *rules.Ruleset, m rules.Mapping) error) *changer {
	return &changer{rs: rs, rng: rand.New(rand.NewPCG(3, 4)), v: v, force: force, took: map[string]figures{}, cpu: map[string]figures{}, bytes: map[string]figures{}}
}

// changeRunning changes the rules of a running engine.
func changeRunning(b *testing.B, v rules.Family, rs *rules.Ruleset) {
	onThread(b)
	const flows = 4096
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	t := udpTraffic(flows, 4, frameSize)
	w := &turns{endless: endless{feeder: *newFeeder(), tb: b}}
	e, err := dataplane.New(dataplane.Config{Wires: []ring.Wire{w}, Ruleset: rs, Max: 2 * flows})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	w.frames, w.port, w.size = t.steady, packet.Inside, t.size
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	for w.mark.Load() == nil {
		time.Sleep(time.Millisecond)
	}
	c := newChanger(rs, v, func(from, to *rules.Ruleset, m rules.Mapping) error {
		return e.SwapRuleset(ctx, dataplane.Swap{Ruleset: to, From: from, Mapping: m})
	})
	c.hold = func() (*rules.Ruleset, func()) {
		release := e.KeepRuleset()
		return e.Ruleset(), release
	}
	var quiet, changed [2]figures
	note := func(to *[2]figures, f func()) {
		worst, hundredth := w.watch(f)
		to[0], to[1] = append(to[0], hundredth), append(to[1], worst)
	}
	for range changes {
		start := time.Now()
		note(&changed, func() {
			for _, op := range kinds {
				c.change(b, op)
			}
		})
		spent := time.Since(start)
		note(&quiet, func() { time.Sleep(spent) })
	}
	sum := func() (n uint64) {
		_, counters, err := e.RuleCounters(ctx)
		if err != nil {
			b.Fatal(err)
		}
		for _, k := range counters {
			n += k.Packets
		}
		return n
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	if n := sum(); n != uint64(w.given) { // each packet is counted by the one rule that it matches
		b.Fatalf("%d packets counted of %d", n, w.given)
	}
	if w.sent != w.given {
		b.Fatalf("%d frames forwarded of %d", w.sent, w.given)
	}
	c.report(b)
	for i, name := range []string{"turn-p99", "turn-longest"} {
		changed[i].report(b, name+"-µs")
		changed[i].over(quiet[i]).report(b, name+"-ratio")
	}
}

// turns is an endless feeder that measures its worker's turns, while it is asked to.
type turns struct {
	endless
	on    atomic.Bool
	count atomic.Uint64   // of turns
	last  time.Duration   // the thread's time at the turn before; 0: not measured
	times []time.Duration // the worker's while on, and until it has made a turn since
}

func (w *turns) Receive(port packet.Port, out []packet.Frame) int {
	if port == w.port {
		w.count.Add(1)
		now := time.Duration(0)
		if w.on.Load() {
			if now = cpuTime(w.tb); w.last != 0 && len(w.times) < cap(w.times) {
				w.times = append(w.times, now-w.last)
			}
		}
		w.last = now
	}
	return w.endless.Receive(port, out)
}

// watch returns the longest turn, and that which one in a hundred is longer than, in µs, while f runs.
func (w *turns) watch(f func()) (longest, hundredth float64) {
	w.times = make([]time.Duration, 0, 1<<20)
	some := func() { // turns, for the thread may have to wait for a processor
		for n := w.count.Load(); w.count.Load() < n+3; {
			time.Sleep(time.Millisecond)
		}
	}
	w.on.Store(true)
	f()
	some()
	w.on.Store(false)
	some()
	slices.Sort(w.times)
	µs := func(i int) float64 { return float64(w.times[i].Nanoseconds()) / 1000 }
	return µs(len(w.times) - 1), µs(len(w.times) * 99 / 100)
}
