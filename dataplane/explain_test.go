package dataplane

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"corewire/conntrack"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/rules"
)

// TestExplain: what is explained is what then happens, to random packets of some connections, under rules with a raw table,
// marks, limits and states; and explaining changes nothing.
func TestExplain(t *testing.T) {
	const text = `*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp --dport 5 -j DROP
-A PREROUTING -p udp --dport 6 -j CT --notrack
-A PREROUTING -p udp --dport 7 -j MARK --set-mark 7
COMMIT
*mangle
:FORWARD ACCEPT [0:0]
-A FORWARD -p tcp --dport 3 -j MARK --set-mark 3
-A FORWARD -p tcp --dport 4 -j CONNMARK --set-mark 4
COMMIT
*filter
:FORWARD DROP [0:0]
:a - [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m mark --mark 3 -j DROP
-A FORWARD -m connmark --mark 4 -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -m mark --mark 7 -j ACCEPT
-A FORWARD -m conntrack --ctstate UNTRACKED -i inside -j ACCEPT
-A FORWARD -i inside -p tcp --syn -j a
-A FORWARD -i inside -p udp -m ttl ! --ttl-eq 9 -j ACCEPT
-A a -m limit --limit 1/hour --limit-burst 20 -j ACCEPT
-A a -p tcp --dport 1 -j RETURN
-A a -p tcp --dport 2 -j ACCEPT
COMMIT
`
	f, err := rules.Parse("t", []byte(text), rules.Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rules.Compile([]*rules.File{f}, rules.Options{Clock: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, workers := range []int{1, 2} {
		r := newRig(t, workers, "", func(c *Config) { c.Ruleset = rs })
		ctx := context.Background()
		rng := rand.New(rand.NewPCG(4, uint64(workers)))
		seen := map[string]int{}
		for i := range 1500 {
			r.now += conntrack.Tick(rng.IntN(200))
			r.settle()
			a, b := pt.AP(fmt.Sprintf("10.0.0.1:%d", 1000+rng.IntN(3))), pt.AP(fmt.Sprintf("10.0.0.2:%d", 1+rng.IntN(8)))
			in := packet.Port(rng.IntN(2))
			if in == packet.Outside {
				a, b = b, a
			}
			frame := pt.NewUDP(a, b)
			if rng.IntN(2) == 0 {
				frame = pt.NewTCP(a, b, []uint8{syn, syn | ack, ack, rst, 0}[rng.IntN(5)], pt.Seq(uint32(rng.IntN(3))*50000), pt.Ack(uint32(rng.IntN(3))*50000))
			}
			before := r.everything()
			x, err := r.e.Explain(ctx, frame, in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if now := r.everything(); !reflect.DeepEqual(before, now) {
				t.Fatalf("frame %d: explaining changed\n%+v\nto\n%+v", i, before, now)
			}
			counters := func() []rules.Counter {
				_, n, err := r.e.RuleCounters(ctx)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			old := counters()
			drops := r.dropped()
			r.inject(i%workers, in, frame)
			r.settle()
			r.out(packet.Inside)
			r.out(packet.Outside)
			if got := r.dropped() - drops; got != uint64(map[Verdict]int{Accept: 0, Drop: 1}[x.Verdict]) {
				// The tokens of the limit are not taken by explaining, so that it speaks of the packet at hand all the same.
				t.Fatalf("frame %d: explained as %v by %s, dropped %d", i, x.Verdict, rs.RuleName(x.Rule), got)
			}
			now := counters()
			for _, steps := range [][]rules.Step{x.RawSteps, x.Steps} {
				for _, s := range steps {
					if n := now[s.Rule].Packets - old[s.Rule].Packets; s.Matched != (n == 1) {
						t.Fatalf("frame %d: rule %s explained as matched %v, counted %d", i, rs.RuleName(s.Rule), s.Matched, n)
					}
				}
			}
			if int(x.Rule) < len(old) && now[x.Rule].Packets != old[x.Rule].Packets+1 {
				t.Fatalf("frame %d: %s did not decide", i, rs.RuleName(x.Rule))
			}
			seen[fmt.Sprint(x.State, x.Verdict)]++
			if x.Cached {
				seen["cached"]++
				if x.CachedRule != x.Rule {
					t.Fatalf("frame %d: cached %s, explained %s", i, rs.RuleName(x.CachedRule), rs.RuleName(x.Rule))
				}
			}
			if x.Invalid != conntrack.ReasonNone {
				seen["reason"]++
			}
			for _, s := range x.Steps {
				if s.Did != "" {
					seen["did"]++
				}
			}
		}
		t.Log(seen)
		for _, what := range []string{"NEW accept", "NEW drop", "ESTABLISHED accept", "INVALID drop", "UNTRACKED accept", "cached", "reason", "did"} {
			if seen[what] == 0 {
				t.Errorf("nothing was %s", what)
			}
		}
		r.balanced()
	}
}

// TestExplainExpected: the first packet of a connection that a helper expects is explained as RELATED, as often as one asks,
// and as what it then is; -m helper, -m connlabel and -m connlimit are asked of the connection as it is.
func TestExplainExpected(t *testing.T) {
	f, err := rules.Parse("t", []byte(`*filter
:FORWARD DROP [0:0]
-A FORWARD -p tcp --dport 21 -m connlimit --connlimit-above 1 -j DROP
-A FORWARD -p tcp --dport 21 -m connlabel --label 3 --set -j ACCEPT
-A FORWARD -p tcp --sport 21 -m connlabel --label 3 -j ACCEPT
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED --ctstatus EXPECTED -m helper --helper ftp -j ACCEPT
COMMIT
`), rules.Both)
	if err != nil {
		t.Fatal(err)
	}
	set, err := conntrack.DefaultSettings().WithHelpers("ftp")
	if err != nil {
		t.Fatal(err)
	}
	for _, workers := range []int{1, 2} {
		rs, err := rules.Compile([]*rules.File{f}, rules.Options{Clock: true, Connections: 100})
		if err != nil {
			t.Fatal(err)
		}
		k := talk{newRig(t, workers, "", func(c *Config) { c.Ruleset, c.Settings = rs, set }), map[string]uint32{}}
		client, server := "192.0.2.10:", "198.51.100.1:"
		for i, s := range []struct {
			in       packet.Port
			from, to string
			flags    uint8
			text     string
			state    conntrack.State
			by       conntrack.Helper
			pass     bool
		}{
			{packet.Inside, client + "40000", server + "21", syn, "", conntrack.StateNew, conntrack.HelperNone, true},
			{packet.Outside, server + "21", client + "40000", syn | ack, "", conntrack.StateEstablished, conntrack.HelperNone, true},
			{packet.Inside, client + "40000", server + "21", ack, "USER x\r\n", conntrack.StateEstablished, conntrack.HelperNone, true},
			{packet.Outside, server + "20", client + "51210", syn, "", conntrack.StateNew, conntrack.HelperNone, false},
			{packet.Inside, client + "40001", server + "21", syn, "", conntrack.StateNew, conntrack.HelperNone, false},
			{packet.Inside, client + "40000", server + "21", ack, "PORT 192,0,2,10,200,10\r\n", conntrack.StateEstablished, conntrack.HelperNone, true},
			{packet.Outside, server + "20", client + "51210", syn, "", conntrack.StateRelated, conntrack.HelperFTP, true},
			{packet.Inside, client + "51210", server + "20", syn | ack, "", conntrack.StateEstablished, conntrack.HelperNone, true},
			{packet.Outside, server + "20", client + "51211", syn, "", conntrack.StateNew, conntrack.HelperNone, false},
		} {
			from, to := pt.AP(s.from), pt.AP(s.to)
			frame := pt.NewTCP(from, to, s.flags, pt.Seq(k.seq[from.String()+to.String()]), pt.Ack(k.seq[to.String()+from.String()]), pt.Payload([]byte(s.text)))
			for range 2 {
				x, err := k.e.Explain(context.Background(), frame, s.in, nil)
				if err != nil {
					t.Fatal(err)
				}
				if x.State != s.state || x.Expected != s.by || (x.Verdict == Accept) != s.pass {
					t.Fatalf("packet %d: explained as %v, expected by %v, %v by %s: %+v", i, x.State, x.Expected, x.Verdict, rs.RuleName(x.Rule), x.Steps)
				}
			}
			if k.say(i%workers, s.in, from, to, s.flags, s.text) != s.pass {
				t.Fatalf("packet %d: want passed %v", i, s.pass)
			}
		}
		k.balanced()
	}
}

// dropped is how many frames were dropped.
func (r *rig) dropped() (n uint64) {
	for _, w := range r.stats().Workers {
		n += w.Counters.Verdict[Drop]
	}
	return n
}

// everything is what explaining must not change.
func (r *rig) everything() any {
	r.t.Helper()
	_, counters, err := r.e.RuleCounters(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	var list []conntrack.Info
	if err := r.e.Connections(context.Background(), func(infos []conntrack.Info) error { list = append(list, infos...); return nil }); err != nil {
		r.t.Fatal(err)
	}
	s := r.stats()
	var trackers []any
	for i := range s.Workers {
		trackers = append(trackers, s.Workers[i].Conntrack, s.Workers[i].Counters.Verdict, s.Workers[i].Counters.State)
	}
	return []any{counters, list, trackers}
}
