package dataplane

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/rules"
)

// total returns what a rule has counted, by its name.
func (r *rig) counted(name string) rules.Counter {
	r.t.Helper()
	rs, counters, err := r.e.RuleCounters(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	var n rules.Counter
	for id, c := range counters {
		if rs.RuleName(rules.RuleID(id)) == name {
			n.Packets += c.Packets
			n.Bytes += c.Bytes
		}
	}
	return n
}

// TestReloadUnderTraffic puts hundreds of rule sets in force while frames pass: none that both sets accept is lost, none that
// both drop gets through, rules that stay count every packet once, and every chunk has its owner. A packet judged by parts of
// both would show: to drop 10.9.0.0/16 one set needs its first rule and the other its last.
func TestReloadUnderTraffic(t *testing.T) {
	sets := []string{
		"-A FORWARD -s 10.9.0.0/16 -j DROP\n-A FORWARD -p udp -m udp --dport 53 -j ACCEPT\n-A FORWARD -j ACCEPT",
		"-A FORWARD -p udp -m udp --dport 80 -j DROP\n-A FORWARD ! -s 10.9.0.0/16 -p udp -m udp --dport 54 -j ACCEPT\n" +
			":c - [0:0]\n-A FORWARD ! -s 10.9.0.0/16 -j c\n-A c -j RETURN\n-A FORWARD -s 10.8.0.0/15 -j DROP\n-A FORWARD -p udp -m udp --dport 53 -j ACCEPT",
	}
	const workers, rounds = 2, 300
	r := newRig(t, workers, sets[0], func(c *Config) { c.Max = 1 << 16 })
	stop := r.start()
	ctx := context.Background()
	sent, passed, bytes := r.trafficWhile(workers, func() (err error) {
		for i := 0; i < rounds && err == nil; i++ {
			err = r.e.SetRuleset(ctx, compile(t, filter(sets[(i+1)%2])))
		}
		return err
	})
	t.Logf("%d reloads, sent %v, passed %v", rounds, sent, passed)
	r.judgedByOne(sent, passed)
	// Both have this rule: FORWARD 2 of the first, which is in force now, FORWARD 5 of the other.
	if n := r.counted("FORWARD 2"); n.Packets != uint64(sent["both accept"]) || n.Bytes != n.Packets*uint64(bytes) {
		t.Errorf("the rule of both sets counted %+v of %d packets of %d bytes", n, sent["both accept"], bytes)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.balanced()
}

// TestManyRulesUnderTraffic does the same with 100,000 rules: they are read again, and one of them is changed, while frames
// pass. The matchers of the workers go on through changes of one rule.
func TestManyRulesUnderTraffic(t *testing.T) {
	n, changes := 100_000, 120
	if testing.Short() {
		n = 10_000
	}
	rng := rand.New(rand.NewPCG(5, 6))
	var many strings.Builder
	for i := range n {
		fmt.Fprintf(&many, "-A FORWARD -s 192.%d.%d.%d/32 -d 172.16.%d.0/24 -p tcp -m tcp --dport %d -j ACCEPT\n", rng.IntN(8), i/256%256, i%256, rng.IntN(256), rng.IntN(2000))
	}
	const ends = "-A FORWARD -s 10.9.0.0/16 -j DROP\n-A FORWARD -p udp -m udp --dport 53 -j ACCEPT\n-A FORWARD -j ACCEPT"
	const workers = 2
	text := filter(many.String() + ends)
	r := newRig(t, workers, "", func(c *Config) { c.Max, c.Ruleset = 1<<16, compile(t, text) })
	stop := r.start()
	ctx := context.Background()
	_, list, err := rules.ParseRule("change", "filter", rules.Both, "-A FORWARD -p udp -m udp --dport 80 -j DROP")
	if err != nil {
		t.Fatal(err)
	}
	sent, passed, bytes := r.trafficWhile(workers, func() error {
		for i := range changes {
			if i == changes/2 {
				if err := r.e.SetRuleset(ctx, compile(t, text)); err != nil {
					return err
				}
			}
			from := r.e.Ruleset()
			at := rules.Place{Table: "filter", Chain: "FORWARD", Family: rules.Both, Number: 1 + n/3}
			var to *rules.Ruleset
			var m rules.Mapping
			var err error
			if i%2 == 0 {
				to, m, err = from.Insert(at, list[0])
			} else {
				to, m, err = from.Delete(at)
			}
			if err == nil {
				err = r.e.SwapRuleset(ctx, Swap{Ruleset: to, From: from, Mapping: m})
			}
			if err != nil {
				return err
			}
			if !to.Follows(from) {
				return fmt.Errorf("change %d: everything was compiled anew, after %d changes", i, from.Patches())
			}
		}
		return nil
	})
	t.Logf("%d changes, sent %v, passed %v", changes, sent, passed)
	r.judgedByOne(sent, passed)
	name := fmt.Sprintf("FORWARD %d", n+2)
	if c := r.counted(name); c.Packets != uint64(sent["both accept"]) || c.Bytes != c.Packets*uint64(bytes) {
		t.Errorf("%s counted %+v of %d packets of %d bytes", name, c, sent["both accept"], bytes)
	}
	if c := r.counted(fmt.Sprintf("FORWARD %d", n+1)); c.Packets != uint64(sent["both drop"]) {
		t.Errorf("the rule that drops counted %+v of %d packets", c, sent["both drop"])
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	r.balanced()
}

// trafficWhile sends frames that every rule set accepts, that every one drops, and that one accepts and another drops, while
// f runs and until all are judged; bytes is the size of the datagrams.
func (r *rig) trafficWhile(workers int, f func() error) (sent, passed map[string]int, bytes int) {
	r.t.Helper()
	ended := make(chan error, 1)
	var done atomic.Bool
	go func() {
		err := f()
		done.Store(true)
		ended <- err
	}()
	sent, passed = map[string]int{}, map[string]int{}
	kinds := map[string]netip.AddrPort{"both accept": pt.AP("10.1.0.1:1000"), "both drop": pt.AP("10.9.0.1:1000"), "either": pt.AP("10.1.0.1:1000")}
	ports := map[string]uint16{"both accept": 53, "both drop": 53, "either": 80}
	collect := func() {
		for _, f := range r.out(packet.Outside) {
			p := packet.Packet{Frame: []byte(f)}
			packet.Parse(&p)
			for kind, port := range ports {
				if p.DstPort == port && p.Src == packet.AddrFrom(kinds[kind].Addr()) {
					passed[kind]++
				}
			}
		}
	}
	total := uint64(0)
	judged := func() {
		await(r.t, "all frames judged", func() bool {
			collect()
			n := uint64(0)
			for _, w := range r.stats().Workers {
				n += w.Counters.Verdict[Accept] + w.Counters.Verdict[Drop]
			}
			return n == total
		})
		collect()
	}
	for i := 0; !done.Load() || i < 1000; i++ {
		for kind, from := range kinds {
			// Known flows with cached verdicts as well as new ones.
			frame := pt.NewUDP(netip.AddrPortFrom(from.Addr(), uint16(1000+i%700)), netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), ports[kind]))
			for !r.wires[i%workers].Inject(packet.Inside, frame) {
				collect()
				time.Sleep(50 * time.Microsecond)
			}
			total++
			sent[kind]++
			bytes = len(frame) - 14
		}
		if i%32 == 0 { // no more under way than a TX ring holds
			judged()
		}
	}
	if err := <-ended; err != nil {
		r.t.Fatal(err)
	}
	judged()
	return sent, passed, bytes
}

// judgedByOne checks that each frame of trafficWhile was judged by one of the rule sets, and that each of these judged some.
func (r *rig) judgedByOne(sent, passed map[string]int) {
	r.t.Helper()
	if passed["both accept"] != sent["both accept"] || passed["both drop"] != 0 {
		for i, w := range r.stats().Workers {
			r.t.Logf("worker %d: verdicts %v, drops %v", i, w.Counters.Verdict, w.Counters.Drop)
		}
		r.t.Error("a packet was judged by neither rule set, or lost")
	}
	if passed["either"] == 0 || passed["either"] == sent["either"] {
		r.t.Error("one of the rule sets judged nothing: the test proves nothing")
	}
}

// What both rule sets have goes on: counters, policies, the tokens of a limit. What the file says is put in its place only
// when asked; zeroing gives back what was there.
func TestCountersCarryOver(t *testing.T) {
	compileTimed := func(text string) *rules.Ruleset {
		f, err := rules.Parse("t", []byte(filter(text)), rules.Both)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := rules.Compile([]*rules.File{f}, rules.Options{Clock: true})
		if err != nil {
			t.Fatal(err)
		}
		return rs
	}
	const limited = "-A FORWARD -p tcp -m limit --limit 1/hour --limit-burst 2 -j ACCEPT"
	r := newRig(t, 1, "", func(c *Config) { c.Ruleset = compileTimed(limited + "\n-A FORWARD -p udp -j ACCEPT") })
	ctx := context.Background()
	dns := pt.AP("10.0.0.2:53")
	for i := range 3 {
		r.send(packet.Inside, pt.NewUDP(addrPort(client, i), dns))
		r.send(packet.Inside, pt.NewTCP(addrPort(client, i), dns, syn))
	}
	if err := r.e.SetRuleset(ctx, compileTimed("[100:200] -A FORWARD -p udp -j ACCEPT\n-A FORWARD -p icmp -j ACCEPT\n"+limited)); err != nil {
		t.Fatal(err)
	}
	if a, b, p := r.counted("FORWARD 1"), r.counted("FORWARD 3"), r.counted("FORWARD policy"); a.Packets != 3 || b.Packets != 2 || p.Packets != 1 {
		t.Errorf("carried over %v, %v, policy %v", a, b, p)
	}
	if got := r.send(packet.Inside, pt.NewTCP(addrPort(client, 9), dns, syn)); got.Verdict != Drop {
		t.Error("the limit began anew")
	}
	// The counters of the file.
	rs := compileTimed("[100:200] -A FORWARD -p udp -j ACCEPT\n" + limited)
	counters, set := rs.FileCounters()
	if err := r.e.SwapRuleset(ctx, Swap{Ruleset: rs, Counters: counters, Set: set}); err != nil {
		t.Fatal(err)
	}
	r.send(packet.Inside, pt.NewUDP(client, dns))
	if n := r.counted("FORWARD 1"); n.Packets != 101 {
		t.Errorf("%d packets, want the 100 of the file and one", n.Packets)
	}
	if n, p := r.counted("FORWARD 2"), r.counted("FORWARD policy"); n.Packets != 2 || p.Packets != 0 {
		t.Errorf("%d packets and policy %d, want 2, since the file says nothing of it, and 0, which it says", n.Packets, p.Packets)
	}
	// Zero: one, then all.
	was, err := r.e.ZeroRules(ctx, rs, []rules.RuleID{0})
	if err != nil || was[0].Packets != 101 || was[1].Packets != 0 || r.counted("FORWARD 1").Packets != 0 || r.counted("FORWARD 2").Packets != 2 {
		t.Errorf("%v %v", was, err)
	}
	if was, err = r.e.ZeroRules(ctx, rs, nil); err != nil || was[1].Packets != 2 || r.counted("FORWARD 2").Packets != 0 {
		t.Errorf("%v %v", was, err)
	}
	if err := r.e.SwapRuleset(ctx, Swap{Ruleset: rs, From: compileTimed("")}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("a change of another rule set: %v", err)
	}
	if _, err := r.e.ZeroRules(ctx, compileTimed(""), nil); !errors.Is(err, ErrSuperseded) {
		t.Errorf("zeroing another rule set: %v", err)
	}
}
