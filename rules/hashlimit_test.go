package rules

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// hashlimitTwin is the arithmetic of net/netfilter/xt_hashlimit.c, revision 3, with HZ 250, and a map for its table.
type hashlimitTwin struct {
	cfg  hashConfig
	ents map[string]*hashlimitTwinEntry
}

type hashlimitTwinEntry struct {
	expires, prev     int64 // jiffies
	credit, cap, cost uint64
	window            bool
	current           uint64
	rate, burst       uint64
}

const (
	twinHZ       = 250
	twinCPJ      = 1 << 39 // the power of two below 2⁶⁴/(HZ × 86400)
	twinCPJBytes = 1 << 24 // the power of two below 2³²/HZ
)

func twinCredits(user uint64) uint64 { return user * (twinHZ * twinCPJ / 1000000) }

// take judges a packet of so many bytes; hot says that it is dropped.
func (t *hashlimitTwin) take(key string, length uint64, jiffies int64) (ok, hot bool) {
	e := t.ents[key]
	if e == nil {
		if len(t.ents) >= int(t.cfg.max) {
			return false, true
		}
		e = &hashlimitTwinEntry{prev: jiffies}
		switch {
		case t.cfg.rateMatch && t.cfg.bytes:
			e.rate = (math.MaxUint32/t.cfg.avg - 1) << 4
			e.burst = e.rate
			if t.cfg.times != 0 {
				e.burst = t.cfg.times * e.rate
			}
		case t.cfg.rateMatch:
			e.rate = 1000000 / t.cfg.avg
			e.burst = t.cfg.times + e.rate
		case t.cfg.bytes:
			e.credit, e.cost, e.cap = twinCPJBytes*twinHZ, t.cfg.avg*twinHZ*twinCPJBytes>>32, t.cfg.times
		default:
			e.credit, e.cost = twinCredits(t.cfg.avg*t.cfg.times), twinCredits(t.cfg.avg)
			e.cap = e.credit
		}
		t.ents[key] = e
	} else if delta := jiffies - e.prev; delta != 0 {
		switch interval := int64(t.cfg.interval) * twinHZ; {
		case t.cfg.rateMatch:
			if delta >= interval {
				e.prev = jiffies
				e.window = e.current*uint64(interval) > uint64(delta)*e.rate
				e.current = 0
			}
		case t.cfg.bytes:
			e.prev = jiffies
			e.credit = min(e.credit+twinCPJBytes*uint64(delta), twinCPJBytes*twinHZ)
		default:
			e.prev = jiffies
			e.credit = min(e.credit+twinCPJ*uint64(delta), e.cap)
		}
	}
	e.expires = jiffies + int64(t.cfg.expire)*twinHZ/1000
	cost := e.cost
	switch {
	case t.cfg.rateMatch:
		cost = 1
		if t.cfg.bytes {
			cost = length
		}
		e.current += cost
		return !e.window && e.current <= e.burst, false
	case t.cfg.bytes:
		cost = min((length>>4+1)*e.cost, twinCPJBytes*twinHZ)
		if e.credit < cost && e.cap > 0 {
			e.cap--
			e.credit = twinCPJBytes * twinHZ
		}
	}
	if e.credit < cost {
		return false, false
	}
	e.credit -= cost
	return true, false
}

// expire is the collection of entries.
func (t *hashlimitTwin) expire(jiffies int64) {
	for k, e := range t.ents {
		if jiffies >= e.expires {
			delete(t.ents, k)
		}
	}
}

// parsed returns the match of a rule.
func parsed(t testing.TB, text string, fam Family) Match {
	t.Helper()
	f, err := Parse("t", []byte("*filter\n-A FORWARD "+text+"\nCOMMIT\n"), fam)
	if err != nil {
		t.Fatal(err)
	}
	return f.Tables[0].Chains[0].Rules[0].Matches[0]
}

// TestHashlimitTwin: every answer is that of Linux' arithmetic, for rates of packets and bytes, bursts that are used up, and
// by intervals; when time goes by whole jiffies.
func TestHashlimitTwin(t *testing.T) {
	for seed := range uint64(300) {
		g := rand.New(rand.NewPCG(seed, 10))
		pick := func(s ...string) string { return s[g.IntN(len(s))] }
		text := "-m hashlimit --hashlimit-name x --hashlimit-mode " + pick("srcip", "srcip,dstport") + " --hashlimit-upto "
		switch g.IntN(3) {
		case 0:
			text += fmt.Sprintf("%d/%s --hashlimit-burst %d", 1+g.IntN(100), pick("sec", "sec", "min", "hour"), 1+g.IntN(20))
		case 1:
			text += fmt.Sprintf("%d%sb/s", 16+g.IntN(5000), pick("", "", "k")) + pick("", " --hashlimit-burst 90mb")
		case 2:
			text += pick(fmt.Sprintf("%d/%s --hashlimit-burst %d", 1+g.IntN(100), pick("sec", "min"), 1+g.IntN(20)), fmt.Sprintf("%db/s", 16+g.IntN(5000))) +
				" --hashlimit-rate-match" + pick("", " --hashlimit-rate-interval 3")
		}
		text += pick("", " --hashlimit-htable-expire 500") + pick("", " --hashlimit-htable-size 2 --hashlimit-htable-max 3")
		m := parsed(t, text, IPv4).(*HashlimitMatch)
		cfg := m.configOf(false)
		table, twin := newHashTable("x", cfg), &hashlimitTwin{cfg, map[string]*hashlimitTwinEntry{}}
		jiffies := int64(1000)
		for step := range 3000 {
			switch g.IntN(12) {
			case 0:
				jiffies += int64(g.IntN(500))
			case 1, 2, 3:
				jiffies += int64(g.IntN(4))
			}
			for range 20 { // all entries are looked at
				table.swept.Store(0)
				table.sweep(jiffies * 4)
			}
			twin.expire(jiffies)
			src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(g.IntN(5))}), 9)
			p := packet.Packet{Frame: packettest.NewUDP(src, packettest.AP(pick("10.1.0.1:53", "10.1.0.1:54")), packettest.PayloadLen(g.IntN(1400)))}
			packet.Parse(&p)
			key := src.Addr().String()
			if cfg.mode&HashDstPort != 0 {
				key += fmt.Sprint(p.DstPort)
			}
			guess := table.take(&p, jiffies*4e6, true)
			got := table.take(&p, jiffies*4e6, false)
			ok, hot := twin.take(key, uint64(p.End-p.L3), jiffies)
			want := answer(ok)
			if hot {
				want = full
			}
			if got != want || guess != got && !hot && step > 0 && twin.ents[key] == nil || table.count.Load() != int64(len(twin.ents)) {
				t.Fatalf("seed %d step %d: %s: packet of %d bytes from %s at jiffy %d: %v (looked at: %v) with %d entries, want %v with %d", seed, step, text, p.End-p.L3, key, jiffies, got, guess,
					table.count.Load(), want, len(twin.ents))
			}
		}
	}
}

// TestHashlimitShared: two workers together let exactly the burst through, of packets and of bytes, and an interval's count.
func TestHashlimitShared(t *testing.T) {
	for _, tc := range []struct {
		text string
		want int64
	}{
		{"--hashlimit-upto 1/day --hashlimit-burst 1", 1},
		{"--hashlimit-upto 1/min --hashlimit-burst 500", 500},
		{"--hashlimit-upto 16b/s --hashlimit-burst 480b", 31}, // the second's credit, and thirty fillings up: one packet each
		{"--hashlimit-upto 100/min --hashlimit-burst 400 --hashlimit-rate-match", 500},
	} {
		m := parsed(t, "-m hashlimit --hashlimit-name x --hashlimit-mode srcip "+tc.text, IPv4).(*HashlimitMatch)
		table := newHashTable("x", m.configOf(false))
		p := packet.Packet{Frame: packettest.NewUDP(packettest.AP("10.0.0.1:1"), packettest.AP("10.0.0.2:2"), packettest.PayloadLen(100))}
		packet.Parse(&p)
		var wg sync.WaitGroup
		passed := make([]int64, 4)
		for w := range passed {
			wg.Go(func() {
				for range 1000 {
					if table.take(&p, 5e9, false) == yes {
						passed[w]++
					}
				}
			})
		}
		wg.Wait()
		if sum := passed[0] + passed[1] + passed[2] + passed[3]; sum != tc.want {
			t.Errorf("%s: %d packets of 4000 passed, want %d", tc.text, sum, tc.want)
		}
	}
}

// TestHashlimitFlood: any number of sources takes the room of the table and no more; those that were there before are judged
// as if nothing were; and once the flood is over the table is as it was.
func TestHashlimitFlood(t *testing.T) {
	m := parsed(t, "-m hashlimit --hashlimit-name x --hashlimit-mode srcip --hashlimit-upto 1/sec --hashlimit-burst 3 --hashlimit-htable-size 1000 --hashlimit-htable-max 1000", IPv4).(*HashlimitMatch)
	table := newHashTable("x", m.configOf(false))
	size := table.size()
	from := func(n uint64) *packet.Packet {
		return &packet.Packet{Family: 4, Proto: 17, Src: packet.Addr{Lo: 0xffff<<32 | n}}
	}
	now := int64(0)
	longest, refused := 0, 0
	for n := range uint64(200_000) {
		now += 20e3 // 50,000 packets a second
		if n%50 == 0 {
			table.sweep(now / 1e6)
			if got := table.take(from(1), now, false); got == full {
				t.Fatal("a source that was there is refused")
			}
		}
		if table.take(from(1<<20+n), now, false) == full {
			refused++
		}
		if n%1000 == 0 {
			for i := range table.heads {
				chain := 0
				for h := heldOf(table.heads[i].Load()); h.cell != 0; h = heldOf(table.words[int(h.cell)*table.stride].Load()) {
					chain++
				}
				longest = max(longest, chain)
			}
		}
	}
	if n := table.count.Load(); n > 1000 || table.size() != size || refused < 190_000 {
		t.Errorf("%d entries, %d packets refused, %d bytes, before %d", n, refused, table.size(), size)
	}
	if longest > 12 {
		t.Errorf("a chain of %d entries", longest)
	}
	for range 20 {
		now += 1e9
		table.sweep(now / 1e6)
	}
	if n := table.count.Load(); n != 0 {
		t.Errorf("%d entries are left", n)
	}
	t.Logf("%d bytes for 1000 entries, %d a cell; chains of at most %d", size, 8*table.stride, longest)
}
