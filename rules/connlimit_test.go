package rules

import (
	"math/rand/v2"
	"sync"
	"testing"

	"corewire/internal/packet"
)

// TestConnCounts: the counts are those of a map of sets of connections.
func TestConnCounts(t *testing.T) {
	for seed := range uint64(20) {
		g := rand.New(rand.NewPCG(seed, 8))
		m := &ConnlimitMatch{Mask: []int16{-1, 31, 24}[g.IntN(3)], Dst: g.IntN(2) == 0}
		s := newConnCounts(m, 3, 64, false)
		type conn struct {
			p    packet.Packet
			held []Ticket
		}
		var conns []*conn
		twin := map[storeKey]map[*conn]bool{}
		for range 3000 {
			switch g.IntN(3) {
			case 0:
				p := packet.Packet{Family: 4, Src: packet.Addr{Lo: 0xffff<<32 | uint64(g.IntN(5))}, Dst: packet.Addr{Lo: 0xffff<<32 | uint64(g.IntN(3))}}
				p.Key.Zone = uint16(g.IntN(2))
				conns = append(conns, &conn{p: p})
			case 1:
				if len(conns) == 0 {
					continue
				}
				i := g.IntN(len(conns))
				x := conns[i]
				for _, k := range x.held {
					s.release(uint32(k))
				}
				delete(twin[s.key(&x.p)], x)
				conns = append(conns[:i], conns[i+1:]...)
			}
			if len(conns) == 0 {
				continue
			}
			x := conns[g.IntN(len(conns))]
			if twin[s.key(&x.p)] == nil {
				twin[s.key(&x.p)] = map[*conn]bool{}
			}
			twin[s.key(&x.p)][x] = true
			c := Context{State: New, Held: x.held, Taken: make([]Ticket, 0, MaxTickets)}
			if n := s.count(&x.p, &c, true); int(n) != len(twin[s.key(&x.p)]) {
				t.Fatalf("looked at as %d", n)
			}
			if n := s.count(&x.p, &c, false); int(n) != len(twin[s.key(&x.p)]) {
				t.Fatalf("%d connections, want %d", n, len(twin[s.key(&x.p)]))
			}
			x.held = append(x.held, c.Taken...)
			if len(x.held) > 1 {
				t.Fatalf("counted twice: %v", x.held)
			}
		}
		for _, x := range conns {
			for _, k := range x.held {
				s.release(uint32(k))
			}
		}
		if n := s.store.count.Load(); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	}
}

// TestConnCountsShared: several workers that open and close connections of few addresses lose none and leave nothing.
func TestConnCountsShared(t *testing.T) {
	s := newConnCounts(&ConnlimitMatch{Mask: -1}, 1, 64, true)
	packetOf := func(i int) *packet.Packet { return &packet.Packet{Family: 6, Src: packet.Addr{Hi: 1, Lo: uint64(i)}} }
	var wg sync.WaitGroup
	left := make([][]Ticket, 4)
	for w := range 4 {
		wg.Go(func() {
			g := rand.New(rand.NewPCG(uint64(w), 9))
			for range 5000 {
				if len(left[w]) > 0 && g.IntN(2) == 0 {
					s.release(uint32(left[w][0]))
					left[w] = left[w][1:]
					continue
				}
				c := Context{State: New, Taken: make([]Ticket, 0, 1)}
				if s.count(packetOf(g.IntN(3)), &c, false) == 0 {
					t.Error("no room")
				}
				left[w] = append(left[w], c.Taken...)
			}
		})
	}
	wg.Wait()
	total, all := 0, 0
	for i := range 3 {
		c := Context{State: New}
		total += int(s.count(packetOf(i), &c, true)) - 1
	}
	for _, l := range left {
		all += len(l)
		for _, k := range l {
			s.release(uint32(k))
		}
	}
	if total != all || s.store.count.Load() != 0 {
		t.Errorf("%d connections counted, want %d; %d entries are left", total, all, s.store.count.Load())
	}
}
