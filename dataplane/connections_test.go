package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"corewire/conntrack"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// connect gives a rig n UDP connections.
func (r *rig) connect(n int) {
	r.t.Helper()
	for i := range n {
		r.inject(i%len(r.wires), packet.Inside, pt.NewUDP(pt.AP(fmt.Sprintf("10.0.%d.%d:1000", i/200, 1+i%200)), pt.AP("10.1.0.1:53")))
		if i%50 == 49 {
			r.settle()
			r.out(packet.Outside)
		}
	}
	r.settle()
	r.out(packet.Outside)
	if got := r.e.Count(); got != n {
		r.t.Fatalf("%d connections, want %d", got, n)
	}
}

// listing returns the lines of all connections, sorted.
func (r *rig) listing() []string {
	r.t.Helper()
	var out []string
	style := conntrack.Style{Labels: &conntrack.LabelNames{1: "one"}}
	if err := r.e.Connections(context.Background(), func(infos []conntrack.Info) error {
		for i := range infos {
			out = append(out, string(style.AppendLine(nil, &infos[i])))
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

const acceptNew = "-A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT"

// TestChangeConnections: marks, labels and deletion reach what is selected at every worker, and nothing else.
func TestChangeConnections(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, 3, acceptNew, nil)
	r.connect(300)
	odd := func(i *conntrack.Info) bool { return i.Tuple(conntrack.Original).Src.As4()[3]%2 == 1 }
	seen := 0
	count := func(infos []conntrack.Info) error {
		for i := range infos {
			if !odd(&infos[i]) {
				return errors.New("not selected")
			}
			seen++
		}
		return nil
	}
	if n, err := r.e.SetMarks(ctx, odd, 0x15, 0xf, func(infos []conntrack.Info) error {
		for i := range infos {
			if infos[i].Mark != 5 {
				return fmt.Errorf("mark %d", infos[i].Mark)
			}
		}
		return count(infos)
	}); n != 150 || err != nil || seen != 150 {
		t.Fatalf("marks: %d, %d, %v", n, seen, err)
	}
	var one conntrack.Labels
	one.Set(1)
	if n, err := r.e.SetLabels(ctx, odd, one, conntrack.Labels{}, count); n != 150 || err != nil {
		t.Fatalf("labels: %d, %v", n, err)
	}
	labelled := 0
	for _, l := range r.listing() {
		if strings.Contains(l, " mark=5 ") != strings.HasSuffix(l, " labels=one") {
			t.Fatal(l)
		}
		if strings.Contains(l, "labels") {
			labelled++
		}
	}
	if labelled != 150 {
		t.Errorf("%d labelled", labelled)
	}
	if n, err := r.e.Delete(ctx, odd, count); n != 150 || err != nil || r.e.Count() != 150 || seen != 450 {
		t.Fatalf("delete: %d, %v, %d left", n, err, r.e.Count())
	}
}

// TestImportToOtherWorkers hands the connections of three workers over to two: each goes to the worker that its packets
// reach, with the time that it has left.
func TestImportToOtherWorkers(t *testing.T) {
	ctx := context.Background()
	a, b := newRig(t, 3, acceptNew, nil), newRig(t, 2, "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT", nil)
	a.now, b.now = 5, 4_000_000_000
	a.step()
	b.step()
	a.connect(500)
	a.now += 2000
	a.step()
	var records []conntrack.Record
	none := func([]conntrack.ExpectRecord) error { return errors.New("nothing is expected") }
	if err := a.e.Export(ctx, func(r []conntrack.Record) error { records = append(records, r...); return nil }, none); err != nil {
		t.Fatal(err)
	}
	got, err := b.e.Import(ctx, records, nil)
	if err != nil || got.Entered != 500 || got.Known != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if x, y := a.listing(), b.listing(); !slices.Equal(x, y) {
		t.Fatalf("%d and %d lines, %q and %q", len(x), len(y), x[0], y[0])
	}
	if got, err = b.e.Import(ctx, records, nil); err != nil || got.Entered != 0 || got.Known != 500 {
		t.Errorf("again: %+v, %v", got, err)
	}
	for i := range 500 { // answers, which only the owner's table knows
		b.inject(i%2, packet.Outside, pt.NewUDP(pt.AP("10.1.0.1:53"), pt.AP(fmt.Sprintf("10.0.%d.%d:1000", i/200, 1+i%200))))
		if i%50 == 49 {
			b.settle()
			b.out(packet.Inside)
		}
	}
	if n := b.stats(); n.Total().Verdict[Drop] != 0 || n.Total().State[conntrack.StateEstablished] != 500 {
		t.Errorf("answers: %+v", n.Total())
	}

	// What does not fit is refused, and leaves nothing.
	c := newRig(t, 2, acceptNew, func(c *Config) { c.Max = 499 })
	if _, err := c.e.Import(ctx, records, nil); err == nil || !strings.Contains(err.Error(), "499 of 499 entries are free") || c.e.Count() != 0 {
		t.Errorf("%v, %d entered", err, c.e.Count())
	}
	c.e.SetMax(500)
	if got, err := c.e.Import(ctx, records, nil); err != nil || got.Entered != 500 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestEvents: two listeners hear of everything, at every worker, until they end; then nobody pays for it.
func TestEvents(t *testing.T) {
	r := newRig(t, 2, acceptNew, nil)
	type heard struct{ fresh, gone int }
	done := make(chan heard, 2)
	enough := errors.New("enough")
	for range 2 {
		go func() {
			var h heard
			err := r.e.Events(context.Background(), 0, func(events []conntrack.Event, lost uint64) error {
				for i := range events {
					switch events[i].Kind {
					case conntrack.EventNew:
						h.fresh++
					case conntrack.EventDestroy:
						h.gone++
					}
				}
				if lost != 0 {
					return errors.New("lost")
				}
				if h.gone == 200 {
					return enough
				}
				return nil
			})
			if !errors.Is(err, enough) {
				h = heard{-1, -1}
			}
			done <- h
		}()
	}
	for {
		if r.e.listeners.count() == 2 {
			break
		}
	}
	r.connect(200)
	if n, err := r.e.Flush(context.Background()); n != 200 || err != nil {
		t.Fatal(n, err)
	}
	for range 2 {
		if h := <-done; h.fresh != 200 || h.gone != 200 {
			t.Errorf("%+v", h)
		}
	}
	if r.e.listeners.count() != 0 || r.e.workers[0].table.Heard() {
		t.Error("somebody still listens")
	}
}

// TestZoneByVLAN: the same tuple in two VLANs is two connections, in the zones of the VLANs' ids; fragments too.
func TestZoneByVLAN(t *testing.T) {
	for _, zones := range []Zones{ZoneNone, ZoneVLAN} {
		r := newRig(t, 1, acceptNew, func(c *Config) { c.Zones = zones })
		src, dst := pt.AP("10.0.0.1:1000"), pt.AP("10.1.0.1:53")
		r.send(packet.Inside, pt.NewUDP(src, dst, pt.VLAN(7)))
		r.send(packet.Inside, pt.NewUDP(src, dst))
		for _, f := range pt.Fragments(pt.NewUDP(src, dst, pt.VLAN(9), pt.PayloadLen(3000)), 5, 1480) {
			r.inject(0, packet.Inside, f)
		}
		r.settle()
		var got []string
		for _, l := range r.listing() {
			_, zone, _ := strings.Cut(l, "mark=0 ")
			got = append(got, zone)
		}
		want := []string{"use=1"}
		if zones == ZoneVLAN {
			want = []string{"use=1", "zone=7 use=1", "zone=9 use=1"}
		}
		if !slices.Equal(got, want) {
			t.Errorf("zones %d: %q", zones, got)
		}
		answer := r.send(packet.Outside, pt.NewUDP(dst, src, pt.VLAN(8)))
		if known := answer.State == conntrack.StateEstablished; known != (zones == ZoneNone) {
			t.Errorf("zones %d: an answer in another VLAN is %v", zones, answer.State)
		}
	}
}

// TestPopulate: a large maximum has memory made ready beside the workers.
func TestPopulate(t *testing.T) {
	r := newRig(t, 1, acceptNew, nil)
	r.e.SetMax(populateAbove + 1000)
	r.e.beside.Wait()
	r.connect(10)
}

// TestEventsLost: a listener that does not keep up loses events, is told how many, and holds nobody up: while it reads
// nothing at all the workers go on, and what it gets and what it loses are together all that happened.
func TestEventsLost(t *testing.T) {
	r := newRig(t, 2, acceptNew, func(c *Config) { c.Max = 1 << 16 })
	stop := r.start()
	const room, connections = 64, 3000
	type result struct{ got, lost uint64 }
	begun, release, done := make(chan struct{}), make(chan struct{}), make(chan result)
	enough := errors.New("enough")
	slow := func() {
		var x result
		first := true
		err := r.e.Events(context.Background(), room, func(events []conntrack.Event, lost uint64) error {
			if first && len(events) > 0 {
				first = false
				close(begun)
				<-release // the ring fills meanwhile, and overflows
			}
			for i := range events {
				if events[i].Kind != conntrack.EventNew {
					t.Errorf("%+v", events[i])
				}
			}
			x.got += uint64(len(events))
			x.lost = lost
			if lost > 0 && len(events) == 0 { // the call that comes when nothing is left
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Error(err)
		}
		done <- x
	}
	go slow()
	await(t, "the listener", func() bool { return r.e.listeners.count() == 1 && r.e.workers[1].turns.Load() > 0 })
	inserted := func() (n uint64) {
		s, err := r.e.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range s.Workers {
			n += s.Workers[i].Conntrack.Insert
		}
		return n
	}
	send := func(n int) {
		f := pt.NewUDP(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 1000), pt.AP("10.1.0.1:53"))
		await(t, "a free chunk", func() bool {
			for _, w := range r.wires {
				w.Collect(packet.Outside, nil)
			}
			return r.wires[0].Inject(packet.Inside, f)
		})
	}
	send(0)
	<-begun
	for n := 1; n < connections; n++ {
		send(n)
	}
	await(t, "workers that wait for the listener", func() bool {
		for _, w := range r.wires {
			w.Collect(packet.Outside, nil)
		}
		return inserted() == connections
	})
	close(release)
	x := <-done
	if x.got+x.lost != connections || x.got < room || x.lost < connections-4*room {
		t.Errorf("%d told and %d lost of %d", x.got, x.lost, connections)
	}
	s, err := r.e.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c := s.Total(); c.EventsTold != x.got || c.EventsLost != x.lost {
		t.Errorf("counted %d told, %d lost; the listener got %d and was told of %d lost", c.EventsTold, c.EventsLost, x.got, x.lost)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestExpectEventsLost: a listener to what helpers expect that does not keep up holds no helper up, and its losses are exact.
func TestExpectEventsLost(t *testing.T) {
	k := newTalk(t, 1, "ftp")
	from, to := pt.AP("192.0.2.10:40000"), pt.AP("198.51.100.1:21")
	release := make(chan struct{})
	type result struct{ got, lost uint64 }
	done := make(chan result)
	enough := errors.New("enough")
	go func() {
		var x result
		first := true
		err := k.e.ExpectEvents(context.Background(), func(events []conntrack.ExpectEvent, lost uint64) error {
			if first && len(events) > 0 {
				first = false
				<-release
			}
			x.got += uint64(len(events))
			x.lost = lost
			if lost > 0 && len(events) == 0 {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Error(err)
		}
		done <- x
	}()
	await(t, "the listener", func() bool { return k.e.expectListeners.count() == 1 })
	k.say(0, packet.Inside, from, to, syn, "")
	k.say(0, packet.Outside, to, from, syn|ack, "")
	k.say(0, packet.Inside, from, to, ack, "USER x\r\n")
	const announced = expectRing // the first makes one event, each other one two: the one before goes
	for i := range announced {
		if !k.say(0, packet.Inside, from, to, ack, fmt.Sprintf("PORT 192,0,2,10,%d,%d\r\n", 100+i/256, i%256)) {
			t.Fatal("an announcement does not pass")
		}
	}
	close(release)
	x := <-done
	s := k.stats()
	if x.got+x.lost != 2*announced-1 || x.lost == 0 || s.ExpectTold != x.got || s.ExpectLost != x.lost || s.Expect.Create != announced {
		t.Errorf("%+v of %d; %d told and %d lost are counted, %+v", x, 2*announced-1, s.ExpectTold, s.ExpectLost, s.Expect)
	}
}
