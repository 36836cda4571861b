package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"corewire/conntrack"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/rules"
)

// clocked compiles rules that need the time.
func clocked(t *testing.T, text string) *rules.Ruleset {
	t.Helper()
	f, err := rules.Parse("test.rules", []byte(filter(text)), rules.Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rules.Compile([]*rules.File{f}, rules.Options{Clock: true})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// TestConnlimit: a connection counts from its first packet to its end, whichever it is; dropped ones do not.
func TestConnlimit(t *testing.T) {
	r := newRig(t, 1, "-A FORWARD -p tcp --syn -m connlimit --connlimit-above 2 -j DROP\n-A FORWARD -p udp -m connlimit --connlimit-upto 1 -j ACCEPT\n-A FORWARD -p tcp --dport 81 -j DROP\n-A FORWARD -p tcp -j ACCEPT", nil)
	a := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port) }
	b := pt.AP("10.0.0.2:80")
	open := func(what string, port uint16, want Verdict) {
		t.Helper()
		if got := r.send(packet.Inside, pt.NewTCP(a(port), b, syn, pt.Seq(1))).Verdict; got != want {
			t.Errorf("%s: connection from port %d: %v, want %v", what, port, got, want)
		}
	}
	answer := func(port uint16, flags uint8) {
		t.Helper()
		if got := r.send(packet.Outside, pt.NewTCP(b, a(port), flags, pt.Seq(7), pt.Ack(2))).Verdict; got != Accept {
			t.Errorf("answer to port %d: %v", port, got)
		}
	}
	open("first", 1, Accept)
	open("second", 2, Accept)
	open("third", 3, Drop)
	open("third again", 3, Drop)
	open("the second's SYN again", 2, Accept)
	answer(1, rst|ack) // refused: the entry goes at once, or closes
	open("after a reset", 3, Accept)
	open("and one more", 4, Drop)
	r.send(packet.Inside, pt.NewTCP(a(5), pt.AP("10.0.0.2:81"), syn, pt.Seq(1))) // above, and dropped by a later rule anyhow
	r.now += 121_000
	r.step()
	r.step()
	r.send(packet.Inside, pt.NewTCP(a(5), pt.AP("10.0.0.2:81"), syn, pt.Seq(1))) // dropped by a later rule: it must not count
	open("after all have expired", 6, Accept)
	open("after all have expired", 7, Accept)
	open("after all have expired", 8, Drop)
	if _, err := r.e.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	open("after a flush", 8, Accept)
	open("after a flush", 9, Accept)
	open("after a flush", 10, Drop)

	udp := func(port uint16) Verdict {
		return r.send(packet.Inside, pt.NewUDP(a(port), pt.AP("10.0.0.2:53"))).Verdict
	}
	if udp(1) != Accept || udp(2) != Drop || udp(1) != Accept {
		t.Error("datagrams")
	}
}

// TestSharedMemory: two workers that judge the packets of one address together keep exactly to its rate and its number of
// connections, and put every one of many addresses into a list; while rule sets that have the same rules are put in force.
func TestSharedMemory(t *testing.T) {
	const text = "-A FORWARD -p udp --dport 1 -m hashlimit --hashlimit-upto 1/day --hashlimit-burst 1 --hashlimit-mode dstport --hashlimit-name one -j ACCEPT\n" +
		"-A FORWARD -p udp --dport 2 -m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 37 --hashlimit-mode dstport --hashlimit-name many -j ACCEPT\n" +
		"-A FORWARD -p udp --dport 3 -m connlimit --connlimit-upto 41 --connlimit-mask 0 -j ACCEPT\n" +
		"-A FORWARD -p udp --dport 4 -m recent --set --name all -j ACCEPT"
	const more = "-A FORWARD -s 192.0.2.1 -j DROP\n"
	r := newRig(t, 2, "-A FORWARD -j ACCEPT", func(c *Config) { c.Max, c.Ruleset = 1<<16, clocked(t, text) })
	stop := r.start()
	reloaded := make(chan error, 1)
	quit := make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			rs := clocked(t, text)
			if i%2 == 0 {
				rs = clocked(t, more+text)
			}
			if err := r.e.SetRuleset(context.Background(), rs); err != nil {
				reloaded <- err
				return
			}
			select {
			case <-quit:
				reloaded <- nil
				return
			default:
			}
		}
	}()
	const rounds = 80
	passed := map[uint16]int{}
	total := uint64(0)
	collect := func() {
		for _, f := range r.out(packet.Outside) {
			p := packet.Packet{Frame: []byte(f)}
			packet.Parse(&p)
			passed[p.DstPort]++
		}
	}
	for i := range rounds { // each pair of addresses has its own worker; half of the frames come in on the other's queue
		for port := range uint16(4) {
			f := pt.NewUDP(netip.MustParseAddrPort(fmt.Sprintf("10.0.%d.%d:%d", i/9, i%9, 1000+i)), netip.AddrPortFrom(netip.MustParseAddr("10.9.0.1"), port+1))
			w := i % 2
			for until := time.Now().Add(10 * time.Second); !r.wires[w].Inject(packet.Inside, f); collect() {
				if time.Now().After(until) {
					t.Fatal("no room for a frame")
				}
			}
			r.wires[w].Wake()
			total++
		}
	}
	await(t, "all frames judged", func() bool {
		collect()
		n := uint64(0)
		for _, w := range r.stats().Workers {
			n += w.Counters.Verdict[Accept] + w.Counters.Verdict[Drop]
		}
		return n == total
	})
	close(quit)
	if err := <-reloaded; err != nil {
		t.Error(err)
	}
	collect()
	if want := (map[uint16]int{1: 1, 2: 37, 3: 41, 4: rounds}); fmt.Sprint(passed) != fmt.Sprint(want) {
		t.Errorf("passed by port %v, want %v", passed, want)
	}
	seen := 0
	if err := r.e.Recall(context.Background(), func(rs *rules.Ruleset, _ int64) error {
		rs.RecentEntries("all", func(rules.RecentEntry) { seen++ })
		return nil
	}); err != nil || seen != rounds {
		t.Errorf("%d addresses in the list, %v", seen, err)
	}
	both := 0
	for _, w := range r.stats().Workers {
		if w.Counters.State[1] > 0 {
			both++
		}
	}
	if both != 2 {
		t.Errorf("%d workers judged", both)
	}
	stop()
	r.balanced()
}

// TestRulesTime: the time of the rules goes on where the tick begins again.
func TestRulesTime(t *testing.T) {
	w := &Worker{}
	last := int64(-1)
	for _, now := range []uint32{5, 1 << 30, 1 << 31, 3 << 30, 1<<32 - 1, 3, 2, 1 << 31, 1<<32 - 2, 0} {
		got := w.since(conntrack.Tick(now))
		if now == 2 { // a little back
			if got != (1<<32+2)*1e6 {
				t.Errorf("%d", got)
			}
			continue
		}
		if got <= last {
			t.Errorf("tick %d is %d, after %d", now, got, last)
		}
		last = got
	}
	if last != 2<<32*1e6 {
		t.Errorf("%d", last)
	}
}
