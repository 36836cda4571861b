package bench

import (
	"fmt"
	"testing"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/packet"
	"corewire/ring"
	"corewire/rules"
)

// ruleFile is n rules that match none of the traffic, then the two that do.
func ruleFile(n int) []byte {
	b := []byte("*filter\n:FORWARD DROP [0:0]\n")
	for i := range n {
		b = fmt.Appendf(b, "-A FORWARD -s 192.0.2.%d/32 -p tcp --dport %d -j ACCEPT\n", i%256, 1+i/256)
	}
	return append(b, "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -i inside -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n"...)
}

func compile(tb testing.TB, text []byte) *rules.Ruleset {
	tb.Helper()
	f, err := rules.Parse("bench.rules", text, rules.Both)
	if err != nil {
		tb.Fatal(err)
	}
	rs, err := rules.Compile([]*rules.File{f}, rules.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return rs
}

// path is an engine with one worker over a feeder.
type path struct {
	*dataplane.Engine
	f   *feeder
	now conntrack.Tick
}

func newPath(tb testing.TB, rules int, max int) *path {
	tb.Helper()
	return newPathWith(tb, rules, max, nil)
}

// newPathWith is newPath with other settings than Linux's.
func newPathWith(tb testing.TB, rules int, max int, set *conntrack.Settings) *path {
	tb.Helper()
	f := newFeeder()
	e, err := dataplane.New(dataplane.Config{Wires: []ring.Wire{f}, Ruleset: compile(tb, ruleFile(rules)), Max: max, Settings: set})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Error(err)
		}
	})
	return &path{Engine: e, f: f}
}

// run passes frames through the engine once, from one port. The clock stands still within a millisecond of traffic at
// 10 Mpps.
func (p *path) run(tb testing.TB, frames []byte, from packet.Port) {
	p.f.frames, p.f.next, p.f.port = frames, 0, from
	for i := 0; ; i++ {
		if i%156 == 0 {
			p.now++
		}
		n, err := p.Step(p.now)
		if err != nil {
			tb.Fatal(err)
		}
		if n == 0 {
			return
		}
	}
}

// open establishes the flows.
func (p *path) open(tb testing.TB, t traffic) {
	p.f.size = t.size
	for i, frames := range t.open {
		from := packet.Inside
		if i == 1 {
			from = packet.Outside
		}
		p.run(tb, frames, from)
	}
}

// steady passes n packets of established flows.
func (p *path) steady(tb testing.TB, t traffic, n int) {
	for n > 0 {
		frames := t.steady[:min(n*t.size, len(t.steady))]
		p.run(tb, frames, packet.Inside)
		n -= len(frames) / t.size
	}
}

// BenchmarkPath is the whole in-memory path — parse, track, match, verdict — for minimal frames of established flows in
// random order, in bursts of 64, on one core. ns/op is ns per packet, cpu-ns/op the thread's own time, which other
// programs disturb less; the feeder's share (BenchmarkFeeder) is in both.
func BenchmarkPath(b *testing.B) {
	for _, proto := range []struct {
		name string
		make func(flows, family, size int) traffic
	}{{"udp", udpTraffic}, {"tcp", tcpTraffic}} {
		for _, flows := range []int{1, 64 << 10, 1 << 20} {
			for _, rules := range []int{0, 1000} {
				if rules > 0 && flows != 64<<10 {
					continue
				}
				b.Run(fmt.Sprintf("%s/flows=%d/rules=%d", proto.name, flows, rules), func(b *testing.B) {
					t := proto.make(flows, 4, frameSize)
					for len(t.steady) < 64<<10*t.size {
						t.steady = append(t.steady, t.steady...)
					}
					p := newPath(b, rules, 2<<20)
					p.open(b, t)
					if got := p.Count(); got != flows {
						b.Fatalf("%d connections in the table, want %d", got, flows)
					}
					p.steady(b, t, min(b.N, flows)) // the caches and cached verdicts warm
					sent := p.f.sent
					onThread(b)
					b.ReportAllocs()
					b.ResetTimer()
					start := cpuTime(b)
					p.steady(b, t, b.N)
					used := cpuTime(b) - start
					b.StopTimer()
					b.ReportMetric(float64(used.Nanoseconds())/float64(b.N), "cpu-ns/op")
					if got := p.f.sent - sent; got != b.N {
						b.Fatalf("%d of %d frames forwarded", got, b.N)
					}
				})
			}
		}
	}
}

// BenchmarkFeeder is the cost of the frames' delivery alone, to be subtracted from BenchmarkPath.
func BenchmarkFeeder(b *testing.B) {
	t := udpTraffic(1<<16, 4, frameSize)
	f := newFeeder()
	out := make([]packet.Frame, 64)
	b.ReportAllocs()
	for n := b.N; n > 0; {
		f.frames, f.next = t.steady[:min(n*frameSize, len(t.steady))], 0
		for {
			got := f.Receive(packet.Inside, out)
			if got == 0 {
				break
			}
			n -= got
			f.Send(packet.Outside, out[:got])
		}
	}
}

// TestPathAllocates nothing: a turn of the worker over established flows, with the rules cached and uncached.
func TestPathAllocatesNothing(t *testing.T) {
	tr := tcpTraffic(1000, 4, frameSize)
	p := newPath(t, 10, 1<<16)
	p.open(t, tr)
	p.steady(t, tr, 1000)
	if n := testing.AllocsPerRun(10, func() { p.steady(t, tr, 1000) }); n != 0 {
		t.Errorf("%v allocations per 1000 packets of established flows, want 0", n)
	}
	fresh := udpTraffic(50_000, 4, frameSize).open[0]
	at := 0
	if n := testing.AllocsPerRun(20, func() {
		p.run(t, fresh[at:at+1000*frameSize], packet.Inside)
		at += 1000 * frameSize
	}); n != 0 {
		t.Errorf("%v allocations per 1000 new flows, want 0", n)
	}
}
