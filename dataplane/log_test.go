package dataplane

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/rules"
)

// logging compiles rules that log.
func logging(t *testing.T, text string) func(*Config) {
	t.Helper()
	f, err := rules.Parse("log.rules", []byte(filter(text)), rules.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rules.Compile([]*rules.File{f}, rules.Options{Logs: true})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.Ruleset = rs }
}

const logAll = `-A FORWARD -m length --length 1:1000 -j LOG
-A FORWARD -j NFLOG --nflog-group 7
-A FORWARD -j ACCEPT`

// A packet is told of once for each rule that it passed, as the rules saw it: a datagram that came in fragments as one, a
// long one cut.
func TestLog(t *testing.T) {
	var told []Logged
	change := logging(t, logAll)
	r := newRig(t, 1, "", func(c *Config) {
		change(c)
		c.Log = func(l []Logged) { told = append(told, l...) }
	})
	short := pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("192.0.2.1:53"), pt.VLAN(7))
	r.send(packet.Outside, short)
	if len(told) != 2 {
		t.Fatalf("told %d times", len(told))
	}
	for i, l := range told {
		if l.In != packet.Outside || !l.Tracked || l.State != rules.New || l.Rule != rules.RuleID(i) || l.L3 != 18 || l.End != len(short) || string(l.Frame()) != string(short) {
			t.Errorf("%d: in %v, tracked %v, state %v, rule %d, %d to %d, %d bytes", i, l.In, l.Tracked, l.State, l.Rule, l.L3, l.End, len(l.Frame()))
		}
	}
	told = nil
	long := pt.NewUDP(pt.AP("10.0.0.1:2"), pt.AP("192.0.2.1:53"), pt.PayloadLen(4000))
	for _, f := range pt.Fragments(long, 99, 1480) {
		r.inject(0, packet.Inside, f)
	}
	r.step()
	if len(told) != 1 || told[0].Length != len(long) || len(told[0].Frame()) != LoggedBytes || told[0].End != len(long) || told[0].Rule != 1 {
		t.Errorf("told %d times", len(told))
	}
	if c := r.total(); c.Logged != 3 || c.LogLost != 0 {
		t.Errorf("%d logged, %d lost", c.Logged, c.LogLost)
	}
}

// Whoever listens too slowly costs nobody but himself: every packet is forwarded, and those that he was not told of are
// counted.
func TestLogLost(t *testing.T) {
	var told atomic.Uint64
	gate := make(chan struct{})
	change := logging(t, "-A FORWARD -j LOG\n-A FORWARD -j ACCEPT")
	r := newRig(t, 1, "", func(c *Config) {
		change(c)
		c.Record = false
		c.Log = func(l []Logged) {
			<-gate
			told.Add(uint64(len(l)))
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.e.Run(ctx) }()
	const packets = 4 * logRing
	frame := pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("192.0.2.1:53"))
	for range packets {
		for !r.wires[0].Inject(packet.Inside, frame) {
			r.out(packet.Outside)
			runtime.Gosched()
		}
	}
	c := r.total()
	for c.Verdict[Accept]+c.Drop[DropTxFull] != packets { // nobody takes the frames as fast as they come
		r.out(packet.Outside)
		runtime.Gosched()
		c = r.total()
	}
	if c.LogLost == 0 || c.Logged+c.LogLost != packets {
		t.Errorf("%d logged, %d lost of %d", c.Logged, c.LogLost, packets)
	}
	close(gate)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.e.beside.Wait() // what is left is told when the engine ends
	if told.Load() != c.Logged {
		t.Errorf("told %d times of %d", told.Load(), c.Logged)
	}
}

// Logging allocates nothing on the worker.
func TestLogAllocatesNothing(t *testing.T) {
	change := logging(t, "-A FORWARD -j LOG\n-A FORWARD -j DROP")
	n := 0
	r := newRig(t, 1, "", func(c *Config) {
		change(c)
		c.Record = false
		c.Log = func(l []Logged) { n += len(l) }
	})
	frame := pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("192.0.2.1:53"))
	if allocs := testing.AllocsPerRun(200, func() {
		r.inject(0, packet.Inside, frame)
		r.step()
	}); allocs != 0 {
		t.Errorf("%v allocations a packet", allocs)
	}
	if n == 0 {
		t.Error("nothing was told")
	}
}

// total returns the sum of the workers' counters.
func (r *rig) total() Counters {
	s := r.stats()
	return s.Total()
}
