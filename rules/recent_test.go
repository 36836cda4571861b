package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"corewire/internal/packet"
)

// recentTwin is a list as a slice in order of use: xt_recent.c read aloud.
type recentTwin struct {
	size, times int
	list        []*recentTwinEntry
}

type recentTwinEntry struct {
	addr   string
	ttl    uint8
	index  int
	stamps []int64
}

func (l *recentTwin) find(addr string) *recentTwinEntry {
	for _, e := range l.list {
		if e.addr == addr {
			return e
		}
	}
	return nil
}

func (l *recentTwin) drop(e *recentTwinEntry) {
	l.list = slices.DeleteFunc(l.list, func(x *recentTwinEntry) bool { return x == e })
}

func (l *recentTwin) update(e *recentTwinEntry, ms int64) {
	if e.index == l.times {
		e.index = 0
	}
	if e.index == len(e.stamps) {
		e.stamps = append(e.stamps, 0)
	}
	e.stamps[e.index] = ms
	e.index++
	l.drop(e)
	l.list = append(l.list, e)
}

func (l *recentTwin) enter(addr string, ttl uint8, ms int64) {
	if len(l.list) >= l.size {
		l.list = l.list[1:]
	}
	l.list = append(l.list, &recentTwinEntry{addr, ttl, 1, []int64{ms}})
}

func (l *recentTwin) match(m *RecentMatch, addr string, ttl uint8, ms int64) bool {
	e := l.find(addr)
	if e != nil && m.TTL && ttl != e.ttl && ttl != 0 && e.ttl != 0 {
		e = nil
	}
	if e == nil {
		if m.Do != RecentSet {
			return m.Not
		}
		l.enter(addr, ttl, ms)
		return !m.Not
	}
	ret := m.Not
	switch m.Do {
	case RecentSet:
		ret = !ret
	case RecentRemove:
		l.drop(e)
		return !ret
	default:
		since := ms - int64(m.Seconds)*1000
		hits := uint32(0)
		for _, at := range e.stamps {
			if m.Seconds != 0 && at < since {
				continue
			}
			if hits++; m.Hits == 0 || hits >= m.Hits {
				ret = !ret
				break
			}
		}
		if old := l.list[0]; m.Reap && !(old == e && m.Do == RecentUpdate && ret) && old.stamps[old.index-1] < since {
			l.drop(old)
		}
	}
	if m.Do == RecentSet || m.Do == RecentUpdate && ret {
		l.update(e, ms)
		e.ttl = ttl
	}
	return ret
}

func (l *recentTwin) String() string {
	s := ""
	for _, e := range l.list {
		s += fmt.Sprintf("%s %d %d %v\n", e.addr, e.ttl, e.index, e.stamps)
	}
	return s
}

func recentString(l *recentList) string {
	s := ""
	l.entries(func(e RecentEntry) { s += fmt.Sprintf("%s %d %d %v\n", e.Addr, e.TTL, e.Index, e.Times) })
	return s
}

// TestRecentTwin: every answer and the whole list after it are those of a simple list, with all options, both IP versions
// and addresses that are pushed out.
func TestRecentTwin(t *testing.T) {
	for seed := range uint64(20) {
		g := rand.New(rand.NewPCG(seed, 5))
		size, times := 1+g.IntN(12), 1<<g.IntN(4)
		mask := allOnes
		l := newRecentList("x", mask, size, uint32(times))
		twin := &recentTwin{size: size, times: times}
		now := int64(0)
		for step := range 600 {
			now += int64(g.IntN(3) * g.IntN(900))
			m := RecentMatch{Do: RecentOp(1 + g.IntN(4)), Not: g.IntN(5) == 0, Dst: g.IntN(4) == 0}
			if m.Do == RecentRemove && g.IntN(3) > 0 {
				m.Do = RecentSet
			}
			if m.Do == RecentCheck || m.Do == RecentUpdate {
				m.Seconds, m.Hits = uint32(g.IntN(4)), uint32(g.IntN(times+2))
				m.Reap, m.TTL = m.Seconds > 0 && g.IntN(2) == 0, g.IntN(3) == 0
			}
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(g.IntN(2 + size*3/2))})
			p := packet.Packet{Family: 4, TTL: uint8(63 + g.IntN(2))}
			if g.IntN(3) == 0 {
				b := netip.MustParseAddr("2001:db8::").As16()
				b[15] = byte(g.IntN(4))
				a, p.Family = netip.AddrFrom16(b), 6
			}
			p.Src, p.Dst = packet.AddrFrom(a), packet.AddrFrom(a)
			before := recentString(l)
			guess := l.match(&m, &p, now, true, true)
			if recentString(l) != before {
				t.Fatal("a look changed the list")
			}
			got, want := l.match(&m, &p, now, true, false), twin.match(&m, a.String(), p.TTL+1, now)
			if got != answer(want) || guess != got || recentString(l) != twin.String() {
				t.Fatalf("seed %d step %d, %+v of %v at %d: %v, looked at %v, want %v\nbefore\n%safter\n%swant\n%s", seed, step, m, a, now, got, guess, want, before, recentString(l), twin)
			}
		}
	}
}

// TestRecentShared: under several workers and far more addresses than there is room for, the list never holds more than it
// may, holds no address twice, and is sound afterwards.
func TestRecentShared(t *testing.T) {
	const size = 20
	l := newRecentList("x", allOnes, size, 8)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			g := rand.New(rand.NewPCG(uint64(w), 6))
			for i := range 3000 {
				m := RecentMatch{Do: RecentOp(1 + g.IntN(4)), Seconds: 1, Hits: 2, Reap: g.IntN(2) == 0}
				p := packet.Packet{Family: 4, Src: packet.Addr{Lo: 0xffff<<32 | uint64(g.IntN(60))}}
				if l.match(&m, &p, int64(i), false, false) == full {
					t.Error("no room")
				}
				if n := l.count.Load(); n > size {
					t.Errorf("%d addresses", n)
				}
			}
		})
	}
	wg.Wait()
	seen := map[netip.Addr]bool{}
	l.entries(func(e RecentEntry) {
		if seen[e.Addr] {
			t.Errorf("%v twice", e.Addr)
		}
		seen[e.Addr] = true
	})
	if int64(len(seen)) != l.count.Load() {
		t.Errorf("%d addresses in order, %d in all", len(seen), l.count.Load())
	}
	for i := range uint64(2 * size) { // all room can be used
		l.match(&RecentMatch{Do: RecentSet}, &packet.Packet{Family: 4, Src: packet.Addr{Lo: 0xffff<<32 | 1000 + i}}, 9999, false, false)
	}
	n := 0
	l.entries(func(e RecentEntry) { n++ })
	if n != size || l.count.Load() != size {
		t.Errorf("%d addresses of %d, want %d", n, l.count.Load(), size)
	}
}

// TestRecency: a list of thousands keeps the order of uses.
func TestRecency(t *testing.T) {
	g := rand.New(rand.NewPCG(1, 7))
	const n = 3000
	r := newRecency(n)
	var order []int
	for range 3000 {
		c := g.IntN(n)
		if i := slices.Index(order, c); i >= 0 {
			order = slices.Delete(order, i, i+1)
		}
		if g.IntN(4) == 0 {
			r.drop(c, r.last(c))
		} else {
			r.use(c)
			order = append(order, c)
		}
		got, _, ok := r.oldest()
		if ok != (len(order) > 0) || ok && got != order[0] {
			t.Fatalf("oldest is %d, want %v", got, order[:min(1, len(order))])
		}
	}
}
