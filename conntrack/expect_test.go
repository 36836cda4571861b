package conntrack

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"corewire/internal/packet"
)

// expectTwin is the store as a list, newest first: slow and obvious.
type expectTwin struct {
	list []twinExpect
	max  int
}

type twinExpect struct {
	m     master
	key   packet.Key
	w     wanted
	until uint64
}

// fits is nf_ct_tuple_mask_cmp, field by field.
func (e *twinExpect) fits(t *expectTuple) bool {
	o := &e.w.tuple
	return o.dst == t.dst && o.dport() == t.dport() && o.zone() == t.zone() && o.proto() == t.proto() && o.family() == t.family() &&
		(e.w.flags&expectAnySrc != 0 || o.src == t.src) && (e.w.flags&expectAnyPt != 0 || o.sport() == t.sport())
}

func (x *expectTwin) sweep(now uint64) {
	x.list = slices.DeleteFunc(x.list, func(e twinExpect) bool { return e.until <= now })
}

func (x *expectTwin) expect(m master, w wanted, now uint64) expectResult {
	x.sweep(now)
	for i := range x.list {
		e := &x.list[i]
		same := e.key == *m.key
		if (same || w.scope == anyMaster) && e.w.tuple == w.tuple && (e.w.flags^w.flags)&(expectAnySrc|expectAnyPt) == 0 {
			if !same || e.w.class != w.class {
				return expectAlready
			}
			x.list = slices.Delete(x.list, i, i+1)
			break
		}
		any := e.w.flags | w.flags
		if e.w.tuple.dst == w.tuple.dst && e.w.tuple.ports<<16 == w.tuple.ports<<16 &&
			(any&expectAnySrc != 0 || e.w.tuple.src == w.tuple.src) && (any&expectAnyPt != 0 || e.w.tuple.sport() == w.tuple.sport()) {
			return expectBusy
		}
	}
	n, oldest := 0, -1
	for i := range x.list {
		if e := &x.list[i]; e.key == *m.key && e.w.class == w.class {
			n, oldest = n+1, i
		}
	}
	if n >= int(w.policy.max) {
		x.list = slices.Delete(x.list, oldest, oldest+1)
	}
	if len(x.list) >= x.max {
		return expectFull
	}
	x.list = slices.Insert(x.list, 0, twinExpect{m, *m.key, w, now + uint64(w.policy.timeout)})
	return expectMade
}

func (x *expectTwin) claim(t *expectTuple, now uint64) (twinExpect, bool) {
	x.sweep(now)
	for i, e := range x.list {
		if e.w.flags&ExpectInactive == 0 && e.fits(t) {
			if e.w.flags&ExpectPermanent == 0 {
				x.list = slices.Delete(x.list, i, i+1)
			}
			return e, true
		}
	}
	return twinExpect{}, false
}

func (x *expectTwin) drop(key packet.Key, classes uint8, how expectDrop) {
	done := false
	x.list = slices.DeleteFunc(x.list, func(e twinExpect) bool {
		if e.key != key || classes>>e.w.class&1 == 0 || done {
			return false
		}
		done = how == dropNewest
		return true
	})
}

// check compares the store with the twin, and its chains with each other.
func (x *Expectations) check(twin *expectTwin, now uint64) error {
	var got, want []string
	var out [7]ExpectInfo
	for cursor := uint32(0); ; {
		n, next := x.List(cursor, out[:], Tick(now))
		for i := range out[:n] {
			got = append(got, string(out[i].AppendLine(nil, FormatConntrack)))
		}
		if cursor = next; next == 0 {
			break
		}
	}
	for i := range twin.list {
		e := &twin.list[i]
		o := &e.w.tuple
		info := ExpectInfo{
			Src: o.src, Dst: o.dst, SrcPort: o.sport(), DstPort: o.dport(), AnySrc: e.w.flags&expectAnySrc != 0, AnyPort: e.w.flags&expectAnyPt != 0,
			Zone: o.zone(), Proto: o.proto(), Family: o.family(), Flags: e.w.flags & (ExpectPermanent | ExpectInactive),
			Class: e.w.class, Helper: e.m.helper, Left: uint32(e.until - now), Master: e.key,
		}
		want = append(want, string(info.AppendLine(nil, FormatConntrack)))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		return fmt.Errorf("listing\n%q, want\n%q", got, want)
	}
	seen := make(map[uint32]int)
	for h := range x.heads {
		prev := uint32(0)
		for i := x.heads[h].first.Load(); i != 0; prev, i = i, x.slots[i].next.Load() {
			t := x.slots[i].tuple()
			if seen[i]++; x.slots[i].prev != prev || x.chain(&t) != &x.heads[h] {
				return fmt.Errorf("slot %d is wrong in chain %d", i, h)
			}
		}
		if v := x.heads[h].version.Load(); v&1 != 0 {
			return fmt.Errorf("chain %d is left changing", h)
		}
	}
	for h := range x.masters {
		newer := uint32(0)
		for i := x.masters[h]; i != 0; newer, i = i, x.slots[i].older {
			if seen[i] += 2; x.slots[i].newer != newer || x.hash(&x.slots[i].master) != uint64(h) {
				return fmt.Errorf("slot %d is wrong in the chain of masters %d", i, h)
			}
		}
	}
	n := 0
	for i, s := range seen {
		if s != 3 {
			return fmt.Errorf("slot %d is in %d chains", i, s)
		}
		if expectFlags(x.slots[i].when.Load())&expectCall == 0 {
			n++
		}
	}
	free := 0
	for i := x.free; i != 0; i = x.slots[i].next.Load() {
		free++
	}
	if n != x.Len() || len(seen)-n != int(x.calls.Load()) || free+len(seen) != int(x.top)-1 {
		return fmt.Errorf("%d expectations, %d slots in chains, %d free of %d, Len %d", n, len(seen), free, x.top-1, x.Len())
	}
	return nil
}

// newStore makes a store that is closed with the test.
func newStore(t testing.TB, max int) *Expectations {
	x, err := NewExpectations(max)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return x
}

// Random changes of few masters and destinations, so that they meet: the store and the twin agree at every step.
func TestExpectationsAgainstTwin(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 77))
		x := newStore(t, 12)
		twin := &expectTwin{max: 12}
		masters := make([]packet.Key, 5)
		for i := range masters {
			masters[i].Set(addr4(10<<24+uint32(i)), addr4(99), 1000, 21, packet.ProtoTCP, 4)
		}
		now := uint64(1<<32 - 300_000) // the tick wraps during the test
		tuple := func() expectTuple {
			return expectTuple{addr4(uint32(r.IntN(3))), addr4(100 + uint32(r.IntN(2))), makePorts(uint16(r.IntN(2)), uint16(r.IntN(3)), uint16(r.IntN(8)/7), packet.ProtoTCP, 4)}
		}
		for step := range 3000 {
			i := r.IntN(len(masters))
			m := master{key: &masters[i], helper: HelperSIP, mark: uint32(step)}
			switch r.IntN(12) {
			case 0, 1, 2, 3, 4:
				w := wanted{tuple: tuple(), class: uint8(r.IntN(3)), policy: policy{uint8(1 + r.IntN(3)), uint32(1 + r.IntN(20_000))}, scope: expectScope(r.IntN(2))}
				if r.IntN(2) == 0 {
					w.flags |= expectAnySrc
					w.tuple.src = packet.Addr{}
				}
				if r.IntN(3) > 0 {
					w.flags |= expectAnyPt
					w.tuple.ports &= anyPort
				}
				w.flags |= [...]uint8{0, 0, 0, ExpectPermanent, ExpectInactive, ExpectPermanent | ExpectInactive}[r.IntN(6)]
				if got, want := x.expect(&m, &w, Tick(now)), twin.expect(m, w, now); got != want {
					t.Fatalf("seed %d, step %d: %+v: result %d, want %d", seed, step, w, got, want)
				}
			case 5, 6, 7, 8:
				tu := tuple()
				var e expected
				got := x.Len() > 0 && x.claim(&tu, Tick(now), &e)
				want, ok := twin.claim(&tu, now)
				if got != ok || ok && (e.master != want.key || e.mark != want.m.mark) {
					t.Fatalf("seed %d, step %d: claim %v %+v, want %v %+v", seed, step, got, e, ok, want)
				}
			case 9:
				classes, how := uint8(r.IntN(8)), expectDrop(r.IntN(2))
				twin.sweep(now)
				x.mu.Lock() // the twin has no expired ones left: drop must not spend its one removal on them
				for i := uint32(1); i < x.top; i++ {
					if when := x.slots[i].when.Load(); expectFlags(when)&expectUsed != 0 && expectExpired(when, Tick(now)) {
						x.unlink(i)
					}
				}
				x.mu.Unlock()
				x.drop(&m, classes, how)
				twin.drop(masters[i], classes, how)
			case 10:
				x.forget(&m)
				twin.drop(masters[i], 0xff, dropAll)
			case 11:
				now += uint64(r.IntN(4000))
				x.sweep(Tick(now))
			}
			twin.sweep(now)
			if step%50 == 0 {
				if err := x.check(twin, now); err != nil {
					t.Fatalf("seed %d, step %d: %v", seed, step, err)
				}
			}
		}
	}
}

// Many goroutines look for, claim and make expectations: each one made is claimed once at most, and none is lost.
func TestExpectationsConcurrently(t *testing.T) {
	x := newStore(t, 4096)
	const makers, claimers, rounds = 2, 3, 3000
	var claimed [makers * rounds]atomic.Int32
	var made, lost atomic.Int32
	var all, done sync.WaitGroup
	var stop atomic.Bool
	dst := addr4(7)
	for c := range claimers {
		all.Add(1)
		go func() {
			defer all.Done()
			r := rand.New(rand.NewPCG(uint64(c), 1))
			for !stop.Load() {
				// A flood of connections to the same ports that are expected, from the right and from wrong sources.
				n := r.IntN(makers * rounds)
				tu := expectTuple{addr4(uint32(n) + uint32(r.IntN(2))<<31), dst, makePorts(uint16(c), uint16(n%64), 0, packet.ProtoTCP, 4)}
				var e expected
				if x.count.Load() != 0 && x.claim(&tu, 1, &e) {
					claimed[n].Add(1)
				}
			}
		}()
	}
	for k := range makers {
		done.Add(1)
		go func() {
			defer done.Done()
			for i := range rounds {
				n := k*rounds + i
				var key packet.Key
				key.Set(addr4(uint32(n)), dst, 4000, 21, packet.ProtoTCP, 4)
				m := master{key: &key, helper: HelperFTP}
				w := wanted{tuple: expectTuple{addr4(uint32(n)), dst, makePorts(0, uint16(n%64), 0, packet.ProtoTCP, 4)}, flags: expectAnyPt, policy: policy{1, 1000}}
				if x.expect(&m, &w, 1) != expectMade {
					t.Error("not made")
					return
				}
				made.Add(1)
				if i%3 == 0 {
					// Whoever made it finds it, unless another has.
					var e expected
					tu := w.tuple
					tu.ports |= 5 << 48
					if x.claim(&tu, 1, &e) {
						claimed[n].Add(1)
						if e.master != key {
							t.Error("wrong master")
						}
					} else if claimed[n].Load() == 0 {
						lost.Add(1) // perhaps its claimer has not counted yet; checked below
					}
				}
				if i%5 == 0 {
					x.forget(&m)
				}
			}
		}()
	}
	done.Wait()
	stop.Store(true)
	all.Wait()
	for n := range claimed {
		if c := claimed[n].Load(); c > 1 {
			t.Errorf("expectation %d was claimed %d times", n, c)
		} else if n%rounds%3 == 0 && c != 1 {
			t.Errorf("expectation %d was looked for by its maker and not found", n)
		}
	}
	s := x.Stats()
	if int(s.Create) != int(made.Load()) || s.Create-s.Delete != uint64(x.Len()) {
		t.Errorf("%+v, made %d, left %d", s, made.Load(), x.Len())
	}
}

// PPTP calls: found by either direction, one per control connection, gone with it, and their connections condemned once.
func TestExpectationsCalls(t *testing.T) {
	x := newStore(t, 16)
	var k1, k2 packet.Key
	k1.Set(addr4(1), addr4(2), 1025, 1723, packet.ProtoTCP, 4)
	k2.Set(addr4(1), addr4(2), 1026, 1723, packet.ProtoTCP, 4)
	m1, m2 := master{key: &k1, helper: HelperPPTP}, master{key: &k2, helper: HelperPPTP}
	call := func(pns, pac uint16) *expectTuple {
		return &expectTuple{addr4(1), addr4(2), makePorts(pns, pac, 0, packet.ProtoGRE, 4)}
	}
	look := func(src, dst uint32, id uint16) uint16 {
		return x.call(&expectTuple{addr4(src), addr4(dst), makePorts(0, id, 0, packet.ProtoGRE, 4)})
	}
	x.connectCall(&m1, call(10, 20), 0)
	x.connectCall(&m1, call(10, 20), 0) // a retransmission
	x.connectCall(&m2, call(11, 21), 0)
	if x.Len() != 4 || x.calls.Load() != 4 || look(1, 2, 20) != 10 || look(2, 1, 10) != 20 || look(1, 2, 21) != 11 || look(1, 2, 10) != 0 {
		t.Errorf("%d expectations, %d ids", x.Len(), x.calls.Load())
	}
	x.connectCall(&m1, call(30, 40), 0) // a second call on one control connection is not followed, and its expectations go
	if look(1, 2, 40) != 0 || x.Len() != 2 {
		t.Errorf("a second call is followed; %d expectations", x.Len())
	}
	var e expected
	if !x.claim(call(11, 21), 1, &e) || e.master != k2 || x.Len() != 0 {
		t.Errorf("%+v, %d left: the other direction is the same connection", e, x.Len())
	}
	x.endCall(&m1, call(10, 20), callExpected)
	x.endCall(&m2, call(11, 21), callExpected)
	x.endCall(&m2, call(11, 21), callExpected)
	var keys [8]packet.Key
	n, seen := x.condemned(0, keys[:])
	if n != 2 || seen != 2 || keys[0] != call(10, 20).key() || keys[1] != call(11, 21).key() || look(1, 2, 20) != 0 || x.calls.Load() != 0 {
		t.Errorf("condemned %v", keys[:n])
	}
	if err := x.check(&expectTwin{}, 1); err != nil {
		t.Error(err)
	}
	// Who was away for too long misses the oldest.
	for i := range uint16(condemnedKeys + 5) {
		x.connectCall(&m1, call(1+i, 1), 0)
		x.endCall(&m1, call(1+i, 1), callExpected)
	}
	var all [condemnedKeys]packet.Key
	if n, seen := x.condemned(2, all[:]); n != condemnedKeys || seen != condemnedKeys+7 || all[0] != call(6, 1).key() {
		t.Errorf("%d of %d", n, seen)
	}
	// What leaves with its shard leaves its call behind as well.
	x.connectCall(&m1, call(10, 20), 0)
	x.forgetShard(0)
	if x.Len() != 0 || x.calls.Load() != 0 {
		t.Error("a shard's expectations survived it")
	}
}

func TestExpectationsBounds(t *testing.T) {
	for _, n := range []int{0, -1, MaxExpectations + 1} {
		if _, err := NewExpectations(n); err == nil {
			t.Errorf("%d is accepted", n)
		}
	}
	x := newStore(t, 3)
	for i := range uint32(5) {
		var k packet.Key
		k.Set(addr4(i), addr4(9), 1, 21, packet.ProtoTCP, 4)
		m := master{key: &k, helper: HelperFTP}
		w := wanted{tuple: expectTuple{addr4(i), addr4(9), makePorts(0, 5, 0, packet.ProtoTCP, 4)}, flags: expectAnyPt, policy: policy{1, 1000}}
		want := expectMade
		if i >= 3 {
			want = expectFull
		}
		if got := x.expect(&m, &w, 0); got != want {
			t.Errorf("%d: %v", i, got)
		}
	}
	if s := x.Stats(); s.Full != 2 || s.Create != 3 {
		t.Errorf("%+v", s)
	}
	x.SetMax(4)
	if x.Max() != 4 || x.Flush() != 3 || x.Len() != 0 {
		t.Error("flush")
	}
}

// Looking for what is not expected allocates nothing, and neither does making and taking an expectation.
func TestExpectationsAllocations(t *testing.T) {
	x := newStore(t, 16)
	var k packet.Key
	k.Set(addr4(1), addr4(9), 1, 21, packet.ProtoTCP, 4)
	m := master{key: &k, helper: HelperFTP}
	w := wanted{tuple: expectTuple{addr4(1), addr4(9), makePorts(0, 5, 0, packet.ProtoTCP, 4)}, flags: expectAnyPt, policy: policy{1, 1000}}
	other := w.tuple
	other.src.Lo++
	if n := testing.AllocsPerRun(100, func() {
		var e expected
		x.expect(&m, &w, 0)
		x.claim(&other, 1, &e)
		x.claim(&w.tuple, 1, &e)
		x.sweep(1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
