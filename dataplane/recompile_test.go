package dataplane

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/rules"
)

// insert puts a rule in FORWARD, and returns whether nothing was compiled anew for it.
func (r *rig) insert(number int, rule string) (patched bool, err error) {
	_, list, err := rules.ParseRule("change", "filter", rules.Both, "-A FORWARD "+rule)
	if err != nil {
		return false, err
	}
	defer r.e.KeepRuleset()()
	from := r.e.Ruleset()
	to, m, err := from.Insert(rules.Place{Table: "filter", Chain: "FORWARD", Family: rules.Both, Number: number}, list[0])
	if err != nil {
		return false, err
	}
	return to.Follows(from), r.e.SwapRuleset(context.Background(), Swap{Ruleset: to, From: from, Mapping: m})
}

// grow inserts rules that match nothing, until a share of the room for changes is taken.
func (r *rig) grow(share int) {
	r.t.Helper()
	for i := 0; r.e.Ruleset().Filled() < share; i++ {
		if patched, err := r.insert(1, fmt.Sprintf("-s 172.20.0.1 -p udp -m udp --dport %d -j DROP", 1+i)); err != nil || !patched {
			r.t.Fatal(patched, err)
		}
	}
}

// clocked gives the control goroutine the test's time: turn lets it look at once and when d has passed.
func (r *rig) clocked() (turn func(d time.Duration)) {
	ticks, now := make(chan time.Time), time.Unix(1e9, 0)
	r.e.ticks = func() (<-chan time.Time, func()) { return ticks, func() {} }
	return func(d time.Duration) {
		ticks <- now
		now = now.Add(d)
		ticks <- now
	}
}

const endRules = "-A FORWARD -s 10.9.0.0/16 -j DROP\n-A FORWARD -p udp -m udp --dport 53 -j ACCEPT\n-A FORWARD -j ACCEPT"

// TestRecompileUnderTraffic: of 300 changes on some thousand rules none compiles everything anew, for that is done in between, at
// quiet times or, when no time is quiet, as the room for changes gets scarce. No packet is lost or judged wrongly, and all are
// counted, each once.
func TestRecompileUnderTraffic(t *testing.T) {
	for _, tc := range []struct {
		name  string
		pause time.Duration // between changes
		every int           // changes until the rules are compiled anew: what the share is of an overlay's room
	}{
		{"quiet", quietTime, 32},
		{"no quiet", quietTime - 1, 64},
	} {
		t.Run(tc.name, func(t *testing.T) {
			const n, changes, workers = 3000, 300, 2
			rng := rand.New(rand.NewPCG(7, 8))
			var many strings.Builder
			for i := range n {
				fmt.Fprintf(&many, "-A FORWARD -s 192.168.%d.%d/32 -d 172.16.%d.0/24 -p tcp -m tcp --dport %d -j ACCEPT\n", i/256%256, i%256, rng.IntN(256), rng.IntN(2000))
			}
			r := newRig(t, workers, many.String()+endRules, func(c *Config) { c.Max = 1 << 16 })
			turn := r.clocked()
			stop := r.start()
			sent, passed, bytes := r.trafficWhile(workers, func() error {
				for i := range changes {
					patched, err := r.insert(1+n/3, fmt.Sprintf("-s 10.1.0.1 -p udp -m udp --sport %d --dport 80 -j DROP", 1000+2*i))
					if err != nil {
						return fmt.Errorf("change %d: %w", i, err)
					}
					if !patched {
						return fmt.Errorf("change %d compiled everything anew", i)
					}
					turn(tc.pause)
					want := (i + 1) / tc.every
					for end := time.Now().Add(20 * time.Second); r.e.Recompiled() != want; time.Sleep(100 * time.Microsecond) {
						if time.Now().After(end) {
							return fmt.Errorf("after %d changes the rules were compiled anew %d times, want %d", i+1, r.e.Recompiled(), want)
						}
					}
				}
				return nil
			})
			t.Logf("compiled anew %d times, sent %v, passed %v", r.e.Recompiled(), sent, passed)
			r.judgedByOne(sent, passed)
			for rule, want := range map[int]int{
				n + changes + 1: sent["both drop"],
				n + changes + 2: sent["both accept"],
				n + changes + 3: passed["either"],
			} {
				if got := r.counted(fmt.Sprintf("FORWARD %d", rule)); got.Packets != uint64(want) || got.Bytes != got.Packets*uint64(bytes) {
					t.Errorf("FORWARD %d counted %+v of %d packets of %d bytes", rule, got, want, bytes)
				}
			}
			dropped := uint64(0)
			for i := range changes {
				dropped += r.counted(fmt.Sprintf("FORWARD %d", 1+n/3+i)).Packets
			}
			if want := uint64(sent["either"] - passed["either"]); dropped != want {
				t.Errorf("the rules that came counted %d of %d packets", dropped, want)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			r.balanced()
		})
	}
}

// TestRecompileKeepsChanges: changes that come while rules are compiled anew are made on these too. Compiling is not begun twice.
// Limits and counters go on through all of it, also of rules that came or went meanwhile.
func TestRecompileKeepsChanges(t *testing.T) {
	f, err := rules.Parse("t", []byte(filter("-A FORWARD -s 10.9.9.9 -j DROP\n-A FORWARD -p udp -m udp --dport 53 -m limit --limit 1/hour --limit-burst 3 -j ACCEPT")), rules.Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rules.Compile([]*rules.File{f}, rules.Options{Clock: true})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, 1, "", func(c *Config) { c.Ruleset = rs })
	query := func(n int) { r.send(packet.Inside, pt.NewUDP(addrPort(client, n), pt.AP("10.0.0.2:53"))) }
	query(0)
	r.grow(quietShare)
	on := make(chan struct{})
	r.e.recompile = func(rs *rules.Ruleset) (*rules.Ruleset, rules.Mapping, error) {
		<-on
		return rs.Recompile()
	}
	c, now := newRecompiler(r.e), time.Unix(1e9, 0)
	look := func(after time.Duration) (busy bool) {
		now = now.Add(after)
		c.look(t.Context(), now)
		return c.tried != nil
	}
	if look(0) || look(quietTime-1) {
		t.Error("begun at a time that is not quiet")
	}
	if !look(1) {
		t.Fatal("not begun at a quiet time")
	}
	change := func(op rules.EditOp, number int, words string) {
		t.Helper()
		defer r.e.KeepRuleset()()
		from := r.e.Ruleset()
		to, m, err := from.Edit(rules.Edit{Op: op, Chain: "FORWARD", Number: number, Rule: strings.Fields(words), Source: "change"}, rules.Options{})
		if err == nil {
			err = r.e.SwapRuleset(t.Context(), Swap{Ruleset: to, From: from, Mapping: m})
		}
		if err != nil || !to.Follows(from) {
			t.Fatal(err)
		}
	}
	const port = "-p udp -m udp --dport 80 -j ACCEPT"
	change(rules.EditInsert, 1, "-s 172.21.0.1 -j DROP")
	change(rules.EditInsert, 1, port)
	r.send(packet.Inside, pt.NewUDP(addrPort(client, 7), pt.AP("10.0.0.2:80")))
	change(rules.EditDelete, 2, "")                       // one that came meanwhile
	change(rules.EditDelete, 0, "-s 10.9.9.9/32 -j DROP") // one that was there
	change(rules.EditReplace, 2, "-s 172.21.0.3 -j DROP") // one that came before
	query(1)
	changed := r.e.Ruleset()
	if before := c.tried; !look(0) || !look(time.Hour) || c.tried != before {
		t.Error("begun a second time while the first one is under way")
	}
	want := string(changed.AppendSave(nil, rules.Both, nil))
	on <- struct{}{}
	if err = <-c.ended; err != nil {
		t.Fatal(err)
	}
	c.end(err)
	fresh := r.e.Ruleset()
	if got := string(fresh.AppendSave(nil, rules.Both, nil)); got != want {
		t.Errorf("compiled anew while rules changed, they are\n%s\nwant\n%s", got, want)
	}
	if r.e.Recompiled() != 1 || fresh.Follows(changed) || fresh.Patches() != 5 {
		t.Errorf("compiled anew %d times; in force are %d rules with %d changes, want 5", r.e.Recompiled(), fresh.Len(), fresh.Patches())
	}
	if look(time.Hour) {
		t.Error("begun for few changes")
	}
	query(2)
	query(0) // its verdict was another rule set's
	query(3)
	if a, p := r.counted(fmt.Sprintf("FORWARD %d", fresh.Len())), r.counted("FORWARD policy"); a.Packets != 3 || p.Packets != 2 {
		t.Errorf("the limit let %d packets pass, the policy counted %d, want 3 and 2", a.Packets, p.Packets)
	}
	if n := r.counted("FORWARD 1"); n.Packets != 1 {
		t.Errorf("the rule that came while all were compiled anew counted %d packets before, want 1", n.Packets)
	}
}

// TestRecompileIsOvertaken: rules compiled anew while others were put in force, not by changes of one rule, are discarded.
func TestRecompileIsOvertaken(t *testing.T) {
	r := newRig(t, 1, endRules, nil)
	r.grow(nearShare)
	other := r.e.Ruleset()
	r.e.recompile = func(rs *rules.Ruleset) (*rules.Ruleset, rules.Mapping, error) {
		to, m, err := rs.Recompile()
		if err == nil {
			other, _, err = rs.Recompile()
		}
		if err == nil {
			err = r.e.SetRuleset(t.Context(), other)
		}
		return to, m, err
	}
	c := newRecompiler(r.e)
	c.look(t.Context(), time.Unix(1e9, 0))
	err := <-c.ended
	if c.end(err); !errors.Is(err, ErrSuperseded) || r.e.Ruleset() != other || r.e.Recompiled() != 0 {
		t.Errorf("rules compiled anew came into force in the place of others (%v)", err)
	}
}

// TestRecompileFails: the operator is told, the rules stay in force, and the same ones are not tried again.
func TestRecompileFails(t *testing.T) {
	var told []Event
	r := newRig(t, 1, endRules, func(c *Config) { c.Notify = func(e Event) { told = append(told, e) } })
	broken := errors.New("broken")
	r.e.recompile = func(*rules.Ruleset) (*rules.Ruleset, rules.Mapping, error) { return nil, rules.Mapping{}, broken }
	c, now := newRecompiler(r.e), time.Unix(1e9, 0)
	for round, share := range []int{quietShare, nearShare, nearShare + 1} {
		r.grow(share)
		rs := r.e.Ruleset()
		if c.look(t.Context(), now); c.tried != nil && share != nearShare {
			t.Error("begun at a time that is not quiet, behind one that failed")
		}
		now = now.Add(quietTime)
		if c.look(t.Context(), now); c.tried != rs {
			t.Fatal("not begun")
		}
		c.end(<-c.ended)
		now = now.Add(time.Hour)
		if c.look(t.Context(), now); c.tried != nil || r.e.Ruleset() != rs || r.e.Recompiled() != 0 {
			t.Error("tried again")
		}
		if len(told) != round+1 || !errors.Is(told[round].Err, broken) || !strings.Contains(told[round].String(), "broken") {
			t.Errorf("told %v", told)
		}
	}
}

// TestKeepRuleset: while somebody makes other rules of those in force, these stay.
func TestKeepRuleset(t *testing.T) {
	r := newRig(t, 1, endRules, nil)
	r.grow(nearShare)
	rs, compiled := r.e.Ruleset(), make(chan struct{})
	r.e.recompile = func(rs *rules.Ruleset) (*rules.Ruleset, rules.Mapping, error) {
		defer close(compiled)
		return rs.Recompile()
	}
	release := r.e.KeepRuleset()
	c := newRecompiler(r.e)
	c.look(t.Context(), time.Unix(1e9, 0))
	<-compiled
	for range 1000 {
		runtime.Gosched()
		if r.e.Ruleset() != rs {
			t.Fatal("other rules are in force")
		}
	}
	release()
	if c.end(<-c.ended); r.e.Ruleset() == rs || r.e.Recompiled() != 1 {
		t.Error("not put in force afterwards")
	}
}

// TestRecompileStops: rules that are being compiled as the engine stops do not come into force, nobody is told, and Close
// leaves no goroutine.
func TestRecompileStops(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("engine", func(t *testing.T) {
		r := newRig(t, 2, endRules, func(c *Config) { c.Notify = func(e Event) { t.Errorf("told %v", e) } })
		begun, on := make(chan struct{}), make(chan struct{})
		r.e.recompile = func(rs *rules.Ruleset) (*rules.Ruleset, rules.Mapping, error) {
			close(begun)
			<-on
			return rs.Recompile()
		}
		turn := r.clocked()
		stop := r.start()
		r.grow(nearShare)
		rs := r.e.Ruleset()
		turn(0)
		<-begun
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		close(on)
		r.e.beside.Wait()
		if r.e.Ruleset() != rs || r.e.Recompiled() != 0 {
			t.Error("rules came into force after the engine had stopped")
		}
	})
	await(t, "the end of all goroutines", func() bool { return runtime.NumGoroutine() <= before })
}
