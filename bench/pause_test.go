package bench

import (
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"corewire/dataplane"
	"corewire/internal/packet"
)

// BenchmarkPause is the worker's longest turn — a burst of 64 frames with everything that comes with it — over a quarter
// of a million connections, while nf_conntrack_buckets and nf_conntrack_max stay as they are, while the table grows to
// eight times the buckets, and while it shrinks again. The three are run in turn, so many turns each that growing and
// shrinking end within them. Times are the thread's own, system calls and page faults included, in µs: of a turn in the
// middle, of one in a thousand, and of the longest, and the ratios of the latter two to the steady run's. On a machine that
// others use the longest turn is whoever else ran; so it is counted as well how many page faults the turns took, which are
// what a table that grows would pause for (that of a huge page takes some hundred microseconds). Every connection must be
// there at the end, found by its packets.
func BenchmarkPause(b *testing.B) {
	const flows, turns, few, many = 1 << 18, 30_000, 1 << 15, 1 << 18
	onThread(b)
	ctx := context.Background()
	t := udpTraffic(flows, 4, frameSize)
	p := newPath(b, 0, 2*flows)
	p.open(b, t)
	p.steady(b, t, flows)
	began := p.made(b)
	r := rand.New(rand.NewPCG(7, 8))
	p.f.port = packet.Inside
	runtime.GC()

	// play returns the turns' times in ascending order, in µs.
	play := func() ([]float64, int64) {
		times := make([]float64, 0, turns)
		faults := pageFaults(b)
		for i := range turns {
			if i%156 == 0 {
				p.now++
			}
			at := r.IntN(flows-64) * t.size
			p.f.frames, p.f.next = t.steady[at:at+64*t.size], 0
			start := cpuTime(b)
			n, err := p.Step(p.now)
			times = append(times, float64((cpuTime(b)-start).Nanoseconds())/1000)
			if err != nil || n != 64 {
				b.Fatalf("a turn of %d frames: %v", n, err)
			}
		}
		faults = pageFaults(b) - faults
		slices.Sort(times)
		return times, faults
	}
	resize := func(buckets, max int) {
		p.SetMax(max)
		if err := p.SetBuckets(ctx, buckets); err != nil {
			b.Fatal(err)
		}
	}
	type phase struct{ middle, thousandth, longest, faults figures }
	var phases [3]phase
	note := func(i int, times []float64, faults int64) {
		f := &phases[i]
		f.faults = append(f.faults, float64(faults))
		f.middle = append(f.middle, times[turns/2])
		f.thousandth = append(f.thousandth, times[turns*999/1000])
		f.longest = append(f.longest, times[turns-1])
	}
	for range rounds {
		times, faults := play()
		note(0, times, faults)
		resize(many, 4*flows)
		times, faults = play()
		note(1, times, faults)
		if n := p.buckets(b); n < many {
			b.Fatalf("%d buckets after growing, want %d", n, many)
		}
		resize(few, 2*flows)
		times, faults = play()
		note(2, times, faults)
		if n := p.buckets(b); n > many/2 {
			b.Fatalf("%d buckets after shrinking", n)
		}
	}
	p.steady(b, t, flows) // each connection once
	if n := p.Count(); n != flows {
		b.Fatalf("%d connections, want %d", n, flows)
	}
	if made := p.made(b); made != began {
		b.Fatalf("%d packets found no connection", made-began)
	}
	for i, name := range []string{"steady", "growing", "shrinking"} {
		f := &phases[i]
		b.ReportMetric(f.middle.median(), name+"-median-µs")
		b.ReportMetric(f.thousandth.median(), name+"-p99.9-µs")
		f.longest.report(b, name+"-longest-µs")
		f.faults.report(b, name+"-page-faults")
		if i > 0 {
			f.thousandth.over(phases[0].thousandth).report(b, name+"-p99.9-ratio")
			f.longest.over(phases[0].longest).report(b, name+"-longest-ratio")
		}
	}
	once(b)
}

// worker0 returns the counters of the only worker.
func (p *path) worker0(b *testing.B) *dataplane.WorkerStats {
	s, err := p.Stats(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	return &s.Workers[0]
}

// made returns how many connections were begun.
func (p *path) made(b *testing.B) uint64 { return p.worker0(b).Conntrack.New }

// buckets returns how many the table has now.
func (p *path) buckets(b *testing.B) int { return p.worker0(b).Buckets }
