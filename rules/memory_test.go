package rules

import (
	"fmt"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

const memoryRules = `*filter
:FORWARD DROP [0:0]
-A FORWARD -p udp -m udp --dport 1 -m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 3 --hashlimit-mode srcip --hashlimit-name a -j ACCEPT
-A FORWARD -p udp -m udp --dport 2 -m recent --set --name b -j ACCEPT
-A FORWARD -p udp -m udp --dport 3 -m recent --rcheck --hitcount 2 --name b -j ACCEPT
-A FORWARD -p udp -m udp --dport 4 -m connlimit --connlimit-upto 2 -j ACCEPT
-A FORWARD -p udp -m udp --dport 5 -m limit --limit 1/hour --limit-burst 2 -j ACCEPT
COMMIT
`

// memoryRig judges datagrams by rule sets one after the other, and keeps tickets as a worker would.
type memoryRig struct {
	t       *testing.T
	rs      *Ruleset
	m       *Matcher
	tickets []Ticket
	now     int64
}

func (r *memoryRig) compile(text string) *Ruleset {
	r.t.Helper()
	f, err := Parse("t", []byte(text), IPv4)
	if err != nil {
		r.t.Fatal(err)
	}
	rs, err := Compile([]*File{f}, Options{Clock: true, Wall: true, Counts: true})
	if err != nil {
		r.t.Fatal(err)
	}
	return rs
}

// load puts rules in force, as the dataplane does.
func (r *memoryRig) load(text string) {
	r.t.Helper()
	rs := r.compile(text)
	m := rs.NewMatcher()
	if r.rs != nil {
		rs.Adopt(r.rs, Unchanged(r.rs, rs))
	}
	r.rs, r.m = rs, m
}

// pass reports whether a datagram to a port is accepted. What it is counted by is kept if it is.
func (r *memoryRig) pass(port string) bool {
	p := packet.Packet{Frame: packettest.NewUDP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:"+port))}
	packet.Parse(&p)
	c := Context{State: New, Now: r.now, Taken: make([]Ticket, 0, MaxTickets)}
	ok := r.m.Match(&p, &c).Verdict == Accept
	for _, t := range c.Taken {
		if ok {
			r.tickets = append(r.tickets, t)
		} else {
			r.rs.Release(t)
		}
	}
	return ok
}

// passed counts how many of n datagrams to a port are accepted.
func (r *memoryRig) passed(port string, n int) (k int) {
	for range n {
		if r.pass(port) {
			k++
		}
	}
	return k
}

func (r *memoryRig) want(what, port string, n, want int) {
	r.t.Helper()
	if got := r.passed(port, n); got != want {
		r.t.Errorf("%s: %d of %d to port %s passed, want %d", what, got, n, port, want)
	}
}

// TestMemoryReload: what rules remember goes on over a reload where the new rules have the same, whatever else has changed,
// and begins anew where they have not.
func TestMemoryReload(t *testing.T) {
	r := &memoryRig{t: t}
	r.load(memoryRules)
	r.want("first", "1", 2, 2)
	r.want("first", "2", 1, 1)
	r.want("first", "3", 1, 0)
	r.want("first", "4", 1, 1)
	r.want("first", "5", 1, 1)

	other := strings.Replace(memoryRules, "-A FORWARD", "-A FORWARD -s 1.2.3.4 -j DROP\n-A FORWARD", 1)
	other = strings.Replace(other, "COMMIT", "-A FORWARD -m connlimit --connlimit-above 9 -j DROP\nCOMMIT", 1)
	r.load(other)
	r.want("with more rules", "1", 5, 1)
	r.want("with more rules", "2", 1, 1)
	r.want("with more rules", "3", 1, 1)
	r.want("with more rules", "4", 5, 1)
	r.want("with more rules", "5", 5, 1)
	if len(r.tickets) != 2 {
		t.Fatalf("tickets %x", r.tickets)
	}

	r.rs.Release(r.tickets[0]) // taken under the rules before
	r.tickets = r.tickets[1:]
	r.want("after a connection went", "4", 3, 1)

	changed := strings.Replace(memoryRules, "1/hour --hashlimit-burst 3", "1/hour --hashlimit-burst 5", 1)
	changed = strings.Replace(changed, "connlimit-upto 2", "connlimit-upto 1", 1)
	r.load(changed)
	r.want("with another burst", "1", 9, 5)
	r.want("with another limit", "4", 3, 1)
	old := r.tickets
	r.tickets = nil
	for _, k := range old[:2] { // of a rule that has gone
		r.rs.Release(k)
	}
	r.want("after tickets of rules that went", "4", 3, 0)
	r.want("the list", "3", 1, 1)

	r.load("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n")
	r.load(memoryRules)
	r.want("after rules without memory", "1", 9, 3)
	r.want("after rules without memory", "3", 1, 0)
	r.want("after rules without memory", "4", 5, 2)
	for _, k := range old {
		r.rs.Release(k)
	}
	r.want("after old tickets", "4", 5, 0)
}

// TestMemoryChange: a change of one rule leaves the memory of the others.
func TestMemoryChange(t *testing.T) {
	r := &memoryRig{t: t}
	r.load(memoryRules)
	r.want("first", "1", 2, 2)
	r.want("first", "4", 1, 1)
	next, _, err := r.rs.Delete(Place{Table: "filter", Chain: "FORWARD", Family: IPv4, Number: 2})
	if err != nil {
		t.Fatal(err)
	}
	r.rs, r.m = next, next.NewMatcher()
	r.want("without the second", "2", 1, 0)
	r.want("without the second", "1", 5, 1)
	r.want("without the second", "4", 5, 1)
	if next, _, err = r.rs.Delete(Place{Table: "filter", Chain: "FORWARD", Family: IPv4, Number: 1}); err != nil {
		t.Fatal(err)
	}
	r.rs, r.m = next, next.NewMatcher()
	r.want("without the first", "1", 5, 0)
	r.rs.Release(r.tickets[0])
	r.want("without the first", "4", 5, 1)
}

// TestMemoryRecent: lists are read and changed from outside as /proc/net/xt_recent is.
func TestMemoryRecent(t *testing.T) {
	r := &memoryRig{t: t, now: 5e9}
	r.load(memoryRules)
	r.want("first", "2", 1, 1)
	r.now = 7e9
	text := func() string {
		var b []byte
		if !r.rs.RecentEntries("b", func(e RecentEntry) { b = append(e.AppendLine(b), '\n') }) {
			t.Error("there is no list")
		}
		return string(b)
	}
	if got, want := text(), "src=10.0.0.1 ttl: 65 last_seen: 5000 oldest_pkt: 1 5000\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	a6, a4 := packet.AddrFrom(packettest.AP("[2001:db8::1]:1").Addr()), packet.AddrFrom(packettest.AP("10.0.0.1:1").Addr())
	r.rs.RecentAdd("b", a6, true, r.now)
	r.rs.RecentAdd("b", a4, false, r.now)
	want := "src=2001:0db8:0000:0000:0000:0000:0000:0001 ttl: 0 last_seen: 7000 oldest_pkt: 1 7000\n" +
		"src=10.0.0.1 ttl: 65 last_seen: 7000 oldest_pkt: 2 5000, 7000\n"
	if got := text(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	r.want("with two times", "3", 1, 1)
	if removed, ok := r.rs.RecentRemove("b", a4, false); !removed || !ok {
		t.Error("not removed")
	}
	if removed, ok := r.rs.RecentRemove("b", a4, false); removed || !ok {
		t.Error("removed twice")
	}
	r.want("removed", "3", 1, 0)
	if n, ok := r.rs.RecentFlush("b"); n != 1 || !ok || text() != "" {
		t.Errorf("%d flushed", n)
	}
	if r.rs.RecentAdd("c", a4, false, 0) || len(r.rs.RecentLists()) != 1 {
		t.Error("there is another list")
	}
}

// TestMemoryAllocates nothing, whether an address is new, known, or pushes another one out.
func TestMemoryAllocates(t *testing.T) {
	r := &memoryRig{t: t}
	r.load(memoryRules)
	frames := make([][]byte, 5)
	for i := range frames {
		frames[i] = packettest.NewUDP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:"+string(rune('1'+i))))
	}
	room := make([]Ticket, 0, MaxTickets)
	n := uint64(0)
	if got := testing.AllocsPerRun(300, func() {
		n++
		for _, f := range frames {
			p := packet.Packet{Frame: f}
			packet.Parse(&p)
			p.Src.Lo += n / 2
			r.now += 1e6
			c := Context{State: New, Now: r.now, Taken: room[:0]}
			r.m.Match(&p, &c)
			for _, x := range c.Taken {
				r.rs.Release(x)
			}
			r.rs.Tend(r.now)
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// hashlimits returns rules with tables of the largest size.
func hashlimits(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "-A FORWARD -m hashlimit --hashlimit-upto 1/sec --hashlimit-name t%d --hashlimit-htable-max 1048576\n", i)
	}
	return b.String()
}

// TestMemoryBounds: rules that would remember more than there is room for are refused.
func TestMemoryBounds(t *testing.T) {
	for _, lines := range []string{
		strings.Repeat("-A FORWARD -m connlimit --connlimit-above 1\n", 5000),
		hashlimits(100),
	} {
		f, err := Parse("t", []byte("*filter\n"+lines+"COMMIT\n"), IPv4)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = Compile([]*File{f}, Options{Clock: true, Wall: true, Counts: true}); err == nil || !strings.Contains(err.Error(), "in all") {
			t.Errorf("%v", err)
		}
	}
	f, err := Parse("t", []byte("*filter\n-A FORWARD -m recent --rcheck --hitcount 65535 --name x\nCOMMIT\n"), IPv4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Compile([]*File{f}, Options{Clock: true, Wall: true, Counts: true, RecentList: 1 << 20}); err == nil || !strings.Contains(err.Error(), "a list of at most") {
		t.Errorf("%v", err)
	}
}

// BenchmarkMemory is what a packet costs that one rule of a kind judges, of 1024 addresses in turn; beside a rule that asks
// for the protocol alone.
func BenchmarkMemory(b *testing.B) {
	for _, tc := range []struct{ name, match string }{
		{"none", ""},
		{"limit", "-m limit --limit 1/sec --limit-burst 5"},
		{"hashlimit", "-m hashlimit --hashlimit-upto 1/sec --hashlimit-mode srcip --hashlimit-name x"},
		{"hashlimit-bytes", "-m hashlimit --hashlimit-upto 512kb/s --hashlimit-mode srcip --hashlimit-name x"},
		{"recent-rcheck", "-m recent --rcheck --seconds 60 --hitcount 4 --name x"},
		{"recent-set", "-m recent --set --name x"},
		{"connlimit", "-m connlimit --connlimit-upto 10"},
	} {
		b.Run(tc.name, func(b *testing.B) {
			f, err := Parse("t", []byte("*filter\n-A FORWARD -p udp "+tc.match+" -j ACCEPT\nCOMMIT\n"), IPv4)
			if err != nil {
				b.Fatal(err)
			}
			rs, err := Compile([]*File{f}, Options{Clock: true, Wall: true, Counts: true})
			if err != nil {
				b.Fatal(err)
			}
			m := rs.NewMatcher()
			p := packet.Packet{Frame: packettest.NewUDP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:53"))}
			packet.Parse(&p)
			base := p.Src.Lo
			room := make([]Ticket, 0, MaxTickets)
			c := Context{State: New}
			b.ReportAllocs()
			for i := range uint64(b.N) {
				p.Src.Lo = base + i&1023
				c.Now += 1000
				c.Taken = room[:0]
				m.Match(&p, &c)
				for _, t := range c.Taken {
					rs.Release(t)
				}
			}
		})
	}
}

// FuzzMemory: any sequence of operations on a list, a table and counts has the answers of the slow twins.
func FuzzMemory(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\x04\x05\x10\x21\x32\x43\x54\x65\x76\x87\x98\xa9"))
	f.Add([]byte(strings.Repeat("\x01\x09\x11\x1a\x23", 20)))
	f.Fuzz(func(t *testing.T, ops []byte) {
		list, slow := newRecentList("x", allOnes, 3, 4), &recentTwin{size: 3, times: 4}
		cfg := hashConfig{mode: HashSrcIP, avg: 200000, times: 3, max: 4, gc: 1000, expire: 2000, src: allOnes, dst: allOnes}
		table, twin := newHashTable("x", cfg), &hashlimitTwin{cfg, map[string]*hashlimitTwinEntry{}}
		counts, open := newConnCounts(&ConnlimitMatch{Mask: -1}, 1, 64, false), map[uint64][]Ticket{}
		jiffies := int64(500)
		for i, x := range ops {
			who := uint64(x>>3) % 6
			p := packet.Packet{Family: 4, TTL: 60 + x>>6, Src: packet.Addr{Lo: 0xffff<<32 | who}, L3: 14, End: 114}
			addr := p.Src.Netip().String()
			switch x & 7 {
			case 0, 1, 2, 3:
				m := RecentMatch{Do: RecentOp(1 + x&3), Not: x&128 != 0}
				if m.Do == RecentCheck || m.Do == RecentUpdate {
					m.Seconds, m.Hits, m.TTL = uint32(i&1), uint32(x>>5&3), x&64 != 0
					m.Reap = m.Seconds != 0 && x&32 != 0
				}
				if got, want := list.match(&m, &p, jiffies*4, false, false), slow.match(&m, addr, p.TTL, jiffies*4); got != answer(want) || recentString(list) != slow.String() {
					t.Fatalf("operation %d, %+v of %s: %v, want %v\n%swant\n%s", i, m, addr, got, want, recentString(list), slow)
				}
			case 4:
				for range 8 {
					table.swept.Store(0)
					table.sweep(jiffies * 4)
				}
				twin.expire(jiffies)
				ok, hot := twin.take(addr, 100, jiffies)
				want := answer(ok)
				if hot {
					want = full
				}
				if got := table.take(&p, jiffies*4e6, false); got != want {
					t.Fatalf("operation %d, rate of %s: %v, want %v", i, addr, got, want)
				}
			case 5:
				c := Context{State: New, Taken: make([]Ticket, 0, 1)}
				if n := counts.count(&p, &c, false); int(n) != len(open[who])+1 || len(c.Taken) != 1 {
					t.Fatalf("operation %d: %s has %d connections, want %d", i, addr, n, len(open[who])+1)
				}
				open[who] = append(open[who], c.Taken...)
			case 6:
				if k := len(open[who]); k > 0 {
					counts.release(uint32(open[who][k-1]))
					open[who] = open[who][:k-1]
				}
			case 7:
				jiffies += int64(x>>3) * 20
			}
		}
	})
}
