package conntrack

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// TestTickets: a ticket comes back once: when its connection closes, expires, is deleted, dropped for another or flushed;
// and stays with it when the entry is moved.
func TestTickets(t *testing.T) {
	r := newRig(t, Config{Settings: noChecksum(t)})
	out := map[uint64]bool{}
	if err := r.tab.KeepTickets(func(k uint64) {
		if !out[k] {
			t.Fatalf("ticket %d came back and was not out", k)
		}
		delete(out, k)
	}); err != nil {
		t.Fatal(err)
	}
	g := rand.New(rand.NewPCG(1, 1))
	last := uint64(0)
	held := map[int][]uint64{}
	conn := func(n int) (src, dst string) { return fmt.Sprintf("10.0.%d.%d:1000", n/200, n%200), "10.9.0.1:80" }
	for range 6000 {
		n := g.IntN(500)
		a, b := conn(n)
		var frame []byte
		switch g.IntN(8) {
		case 0:
			frame = packettest.NewTCP(packettest.AP(a), packettest.AP(b), packet.RST, packettest.Seq(2))
		case 1:
			frame = packettest.NewTCP(packettest.AP(b), packettest.AP(a), packet.SYN|packet.ACK, packettest.Seq(7), packettest.Ack(2))
		case 2:
			r.after(Tick(g.IntN(2000)))
			r.tab.Expire(r.now, 64)
			continue
		case 3:
			if g.IntN(20) == 0 {
				r.tab.Delete(0, 1<<20, func(*Info) bool { return g.IntN(10) == 0 }, r.now)
			}
			continue
		case 4:
			if g.IntN(100) == 0 {
				r.tab.Flush()
				if len(out) != 0 {
					t.Fatalf("%d tickets after a flush", len(out))
				}
			}
			continue
		default:
			frame = packettest.NewTCP(packettest.AP(a), packettest.AP(b), packet.SYN, packettest.Seq(1))
		}
		c := r.track(frame)
		if c.Fresh {
			held[n] = nil
			if g.IntN(4) == 0 {
				r.tab.Discard(&c)
			} else if r.tab.Confirm(&c, r.now) != Confirmed {
				t.Fatal("no room")
			}
		}
		if g.IntN(2) == 0 {
			last++
			out[last] = true
			if r.tab.AddTicket(&c, last) {
				held[n] = append(held[n], last)
			} else {
				delete(out, last)
			}
		}
		got := r.tab.Tickets(&c, make([]uint64, 0, 100))
		want := 0
		for _, k := range held[n] {
			if out[k] {
				want++
			}
		}
		if c.Ref != 0 && uint32(r.tab.hot.items[c.Ref].status)&StatusConfirmed != 0 && len(got) != want {
			t.Fatalf("connection %d has tickets %v, want %d of %v", n, got, want, held[n])
		}
		for _, k := range got {
			if !out[k] {
				t.Fatalf("connection %d has ticket %d, which came back", n, k)
			}
		}
	}
	if last < 1000 {
		t.Errorf("%d tickets", last)
	}
	r.after(1 << 30)
	for range 64 {
		r.after(1000)
		r.tab.Expire(r.now, 1<<20)
	}
	if len(out) != 0 || r.tab.Len() != 0 {
		t.Errorf("%d tickets are left with %d entries", len(out), r.tab.Len())
	}
	if int(r.tab.tickets.used) > 1000 {
		t.Errorf("%d nodes for at most 500 connections", r.tab.tickets.used)
	}
}

// TestTicketsMove: entries that move down when the maximum falls take their tickets along.
func TestTicketsMove(t *testing.T) {
	r := newRig(t, Config{Reserve: 2048, Settings: noChecksum(t)})
	back := map[uint64]int{}
	if err := r.tab.KeepTickets(func(k uint64) { back[k]++ }); err != nil {
		t.Fatal(err)
	}
	for n := range 1000 {
		c := r.track(packettest.NewUDP(packettest.AP(fmt.Sprintf("10.0.%d.%d:5", n/250, n%250)), packettest.AP("10.9.0.1:53")))
		r.tab.Confirm(&c, r.now)
		r.tab.AddTicket(&c, uint64(n+1))
	}
	r.tab.Delete(0, 1<<20, func(i *Info) bool { return i.Key.A.Lo&1 == 0 }, r.now)
	gone := len(back)
	r.tab.cap.SetMax(600)
	for range 40 {
		r.after(1000)
		r.tab.Expire(r.now, 1<<20)
		for n := range 1000 { // keep those that are left alive
			c := r.track(packettest.NewUDP(packettest.AP(fmt.Sprintf("10.0.%d.%d:5", n/250, n%250)), packettest.AP("10.9.0.1:53")))
			if c.Fresh {
				r.tab.Discard(&c)
			} else if got := r.tab.Tickets(&c, make([]uint64, 0, 2)); len(got) != 1 || got[0] != uint64(n+1) {
				t.Fatalf("connection %d has %v", n, got)
			}
		}
	}
	if r.tab.slots.top > 602 || gone != 500 || len(back) != 500 {
		t.Errorf("entries up to %d, %d tickets came back, %d at once", r.tab.slots.top, len(back), gone)
	}
}
