package dataplane

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"corewire/conntrack"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// TestRejudge: connections that the new rules would not let begin are closed, with an event each, and the others stay; the
// port that a connection came in on counts.
func TestRejudge(t *testing.T) {
	const open = "-A FORWARD -j ACCEPT"
	for _, workers := range []int{1, 3} {
		r := newRig(t, workers, open, nil)
		ctx := context.Background()
		const flows = 300
		for i := range flows {
			to := []string{"10.0.0.2:53", "10.0.0.2:80", "10.0.0.2:443"}[i%3]
			port := packet.Inside
			if i%6 >= 3 {
				port = packet.Outside
			}
			frame := pt.NewUDP(addrPort(client, i), pt.AP(to))
			if i%2 == 0 {
				frame = pt.NewTCP(addrPort(client, i), pt.AP(to), syn)
			}
			r.inject(i%workers, port, frame)
			r.settle()
			r.out(packet.Inside)
			r.out(packet.Outside)
		}
		if n := r.e.Count(); n != flows {
			t.Fatalf("%d connections", n)
		}
		var told atomic.Int64
		listening, stop := context.WithCancel(ctx)
		heard := make(chan error, 1)
		go func() {
			heard <- r.e.Events(listening, 0, func(events []conntrack.Event, lost uint64) error {
				for i := range events {
					if events[i].Kind == conntrack.EventDestroy {
						told.Add(1)
					}
				}
				return nil
			})
		}()
		await(t, "the listener", func() bool { return r.e.listeners.count() == 1 && r.e.workers[workers-1].table.Heard() })
		rs := compile(t, filter("-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A FORWARD -i inside -p udp --dport 53 -j ACCEPT\n-A FORWARD -o inside -p tcp --syn --dport 80 -j ACCEPT"))
		if _, err := r.e.Rejudge(ctx, rs); !errors.Is(err, ErrSuperseded) || r.e.Count() != flows {
			t.Errorf("by rules that are not in force: %v, %d connections", err, r.e.Count())
		}
		if err := r.e.SetRuleset(ctx, rs); err != nil {
			t.Fatal(err)
		}
		if r.e.Count() != flows {
			t.Error("a reload alone closed connections")
		}
		got, err := r.e.Rejudge(ctx, rs)
		if err != nil {
			t.Fatal(err)
		}
		var left []string
		if err := r.e.Connections(ctx, func(list []conntrack.Info) error {
			for i := range list {
				to := list[i].Tuple(conntrack.Original)
				if !(list[i].In == packet.Inside && list[i].Key.Proto == packet.ProtoUDP && to.DstPort == 53 || list[i].In == packet.Outside && list[i].Key.Proto == packet.ProtoTCP && to.DstPort == 80) {
					t.Errorf("%s is left", list[i].AppendLine(nil, conntrack.FormatConntrack))
				}
				left = append(left, to.Dst.String())
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		want := 0
		for i := range flows {
			if i%3 == 0 && i%2 == 1 && i%6 < 3 || i%3 == 1 && i%2 == 0 && i%6 >= 3 {
				want++
			}
		}
		if len(left) != want || want == 0 || got.Judged != flows || got.Closed != flows-want {
			t.Errorf("%d workers: %+v, %d left, want %d", workers, got, len(left), want)
		}
		await(t, "the events", func() bool { r.settle(); return told.Load() == int64(got.Closed) })
		if got, err := r.e.Rejudge(ctx, rs); err != nil || got.Closed != 0 || got.Judged != want {
			t.Errorf("once more: %+v %v", got, err)
		}
		stop()
		<-heard
		r.balanced()
	}
}

// TestRejudgeUnderTraffic: while connections wait for their judgement their packets go by the new rules, none is lost that
// these accept, and none passes that they drop.
func TestRejudgeUnderTraffic(t *testing.T) {
	r := newRig(t, 2, "-A FORWARD -j ACCEPT", func(c *Config) { c.Max = 1 << 16 })
	const flows = 4000
	send := func(i int, port string) {
		for !r.wires[i%2].Inject(packet.Inside, pt.NewUDP(addrPort(client, i), pt.AP("10.0.0.2:"+port))) {
			r.out(packet.Outside)
		}
	}
	stop := r.start()
	judged := func(n int) {
		await(t, "all frames", func() bool {
			sum := uint64(0)
			for _, w := range r.stats().Workers {
				sum += w.Counters.Verdict[Accept] + w.Counters.Verdict[Drop]
			}
			return sum == uint64(n)
		})
	}
	sent, passed := 0, 0
	for i := range flows {
		send(i, []string{"53", "99"}[i%2])
		if sent++; sent%64 == 0 {
			judged(sent)
			passed += len(r.out(packet.Outside))
		}
	}
	judged(sent)
	passed += len(r.out(packet.Outside))
	if passed != flows {
		t.Fatalf("%d of %d passed at first", passed, flows)
	}
	rs := compile(t, filter("-A FORWARD -p udp --dport 53 -j ACCEPT"))
	ctx := context.Background()
	if err := r.e.SetRuleset(ctx, rs); err != nil {
		t.Fatal(err)
	}
	done := make(chan Rejudged, 1)
	go func() {
		got, err := r.e.Rejudge(ctx, rs)
		if err != nil {
			t.Error(err)
		}
		done <- got
	}()
	ports := map[uint16]int{}
	var got Rejudged
	more := 0
	for ended := false; !ended || more < 1000; {
		for k := range 32 {
			i := (more + k) % flows
			send(i, []string{"53", "99"}[i%2])
		}
		more += 32
		sent += 32
		judged(sent)
		for _, f := range r.out(packet.Outside) {
			p := packet.Packet{Frame: []byte(f)}
			packet.Parse(&p)
			ports[p.DstPort]++
		}
		select {
		case got = <-done:
			ended = true
		default:
		}
	}
	if ports[53] != more/2 || ports[99] != 0 {
		t.Errorf("of %d frames %v passed", more, ports)
	}
	if got.Closed != flows/2 {
		t.Errorf("%+v", got)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.balanced()
}
