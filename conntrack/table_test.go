package conntrack

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// flow makes the nth of many UDP flows, as a packet in the original direction. Its key is made directly: tests with a
// million of them would otherwise mostly build frames.
func flow(n int, p *packet.Packet) {
	*p = packet.Packet{Proto: packet.ProtoUDP, Family: 4, Flags: packet.PortsValid, End: 28}
	src := packet.Addr{Lo: 0xffff_0a000000 + uint64(n>>10)}
	dst := packet.Addr{Lo: 0xffff_c0000201}
	p.Src, p.Dst, p.SrcPort, p.DstPort = src, dst, uint16(1024+n&1023), 53
	p.Flags |= p.Key.Set(src, dst, p.SrcPort, p.DstPort, packet.ProtoUDP, 4)
}

// noChecksum are settings without verification, for packets without frames.
func noChecksum(t testing.TB) *Settings {
	s, err := DefaultSettings().With("nf_conntrack_checksum", 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// enter makes the nth flow's connection and returns the outcome.
func (r *rig) enter(n int) Outcome {
	var ps [1]packet.Packet
	flow(n, &ps[0])
	r.tab.Hash(ps[:])
	c := r.tab.Track(&ps[0], r.now)
	if !c.Fresh {
		r.t.Fatalf("flow %d: %+v", n, c)
	}
	return r.tab.Confirm(&c, r.now)
}

// assure makes the nth flow ASSURED.
func (r *rig) assure(n int) {
	var ps [1]packet.Packet
	flow(n, &ps[0])
	r.tab.Hash(ps[:])
	c := r.tab.Track(&ps[0], r.now)
	r.tab.hot.items[c.Ref].status |= uint16(StatusSeenReply | StatusAssured)
}

func TestBytesPerEntry(t *testing.T) {
	const n = 1 << 20
	r := newRig(t, Config{Capacity: NewCapacity(n, 1), Reserve: n, Settings: noChecksum(t)})
	for i := range n {
		if o := r.enter(i); o != Confirmed {
			t.Fatalf("entry %d: %v", i, o)
		}
	}
	buckets := float64(r.tab.index.count()*bucketSize) / n
	slots := 0.0
	for _, l := range r.tab.slots.level {
		slots += float64(len(l)*8) / n
	}
	total := float64(entryFixed) + buckets + slots
	t.Logf("%.2f bytes an entry: %d for the entry, %.2f for buckets, %.2f for free slots", total, entryFixed, buckets, slots)
	if total > 128 {
		t.Errorf("%.2f bytes an entry, at most 128 were promised", total)
	}
	second := 0
	for b := range r.tab.index.count() {
		x := &r.tab.index.arena.items[b]
		for i, ref := range x.ref {
			if x.tag(i) != 0 && r.tab.index.first(r.tab.hashOf(&r.tab.hot.items[ref].key)) != uint64(b) {
				second++
			}
		}
	}
	if share := float64(second) / n; share > 0.08 {
		t.Errorf("%.1f %% of the entries are in their second bucket", 100*share)
	}
	if err := r.tab.check(); err != nil {
		t.Error(err)
	}
}

func TestGrowAndShrink(t *testing.T) {
	r := newRig(t, Config{Capacity: NewCapacity(1<<17, 1), Reserve: 1 << 18, Settings: noChecksum(t)})
	const n = 100_000
	for i := range n {
		if o := r.enter(i); o != Confirmed {
			t.Fatalf("entry %d: %v", i, o)
		}
		if load := r.tab.live / r.tab.index.count(); load > bucketLoad+1 {
			t.Fatalf("load %d at %d entries", load, i)
		}
	}
	if r.tab.Len() != n {
		t.Fatalf("Len %d", r.tab.Len())
	}
	var ps [1]packet.Packet
	for i := range n {
		flow(i, &ps[0])
		r.tab.Hash(ps[:])
		if c := r.tab.Track(&ps[0], r.now); c.Fresh || c.State != StateNew {
			t.Fatalf("entry %d was lost: %+v", i, c)
		}
	}
	grown := r.tab.Buckets()
	r.tab.SetBuckets(2 * grown)
	for range grown {
		r.tab.Expire(r.now, 64)
	}
	if r.tab.Buckets() != 2*grown {
		t.Errorf("%d buckets, want %d", r.tab.Buckets(), 2*grown)
	}
	r.tab.SetBuckets(0)
	if err := r.tab.check(); err != nil {
		t.Fatal(err)
	}
	// Half of the flows go on; the others expire.
	r.after(20_000)
	for i := 0; i < n; i += 2 {
		flow(i, &ps[0])
		r.tab.Hash(ps[:])
		r.tab.Track(&ps[0], r.now)
	}
	r.after(15_000)
	swept := 0
	for range 200 {
		r.after(10)
		swept += r.tab.Expire(r.now, 1024)
	}
	if swept != n/2 || r.tab.Len() != n/2 {
		t.Errorf("swept %d, left %d, want %d", swept, r.tab.Len(), n/2)
	}
	if err := r.tab.check(); err != nil {
		t.Fatal(err)
	}
	r.after(30_000)
	for range 20_000 {
		r.after(1)
		r.tab.Expire(r.now, 1024)
	}
	if r.tab.Len() != 0 || r.tab.Buckets() != minBuckets {
		t.Errorf("%d entries, %d buckets left", r.tab.Len(), r.tab.Buckets())
	}
	if err := r.tab.check(); err != nil {
		t.Fatal(err)
	}
}

func TestShrinkMaximum(t *testing.T) {
	capacity := NewCapacity(4000, 1)
	r := newRig(t, Config{Capacity: capacity, Reserve: 4096, Settings: noChecksum(t)})
	for i := range 4000 {
		r.enter(i)
	}
	capacity.SetMax(1000)
	if o := r.enter(4001); o != Confirmed {
		t.Fatalf("with evictable entries: %v", o) // as in Linux: one goes, one comes
	}
	if r.tab.Len() != 4000 {
		t.Fatalf("Len %d", r.tab.Len())
	}
	// All but 500, scattered over all indices, expire.
	r.after(20_000)
	var ps [1]packet.Packet
	for i := 7; i < 4000; i += 8 {
		flow(i, &ps[0])
		r.tab.Hash(ps[:])
		c := r.tab.Track(&ps[0], r.now)
		if c.Fresh {
			r.tab.Discard(&c) // the one that was evicted
			continue
		}
		r.tab.SetMark(&c, uint32(i))
	}
	r.after(15_000)
	for range 100 {
		r.tab.Expire(r.now, 1024)
		r.after(100)
	}
	if n := r.tab.Len(); n < 499 || n > 500 || r.tab.slots.top > 1002 {
		t.Fatalf("%d entries, highest index %d", r.tab.Len(), r.tab.slots.top)
	}
	if err := r.tab.check(); err != nil {
		t.Fatal(err)
	}
	for i := 7; i < 4000; i += 8 {
		flow(i, &ps[0])
		r.tab.Hash(ps[:])
		c := r.tab.Track(&ps[0], r.now-9_000)
		if !c.Fresh && r.tab.Mark(&c) != uint32(i) {
			t.Fatalf("entry %d became another one", i)
		}
	}
}

func TestCapacityIsOneForAllShards(t *testing.T) {
	for _, limit := range []int{1, 7, 100, 5000} {
		capacity := NewCapacity(limit, 3)
		var rigs [3]*rig
		for i := range rigs {
			rigs[i] = newRig(t, Config{Capacity: capacity, Reserve: 8192, Settings: noChecksum(t)})
		}
		// One shard has all the traffic: it can have all the room, and no more.
		got := 0
		for i := range limit + 100 {
			if rigs[0].enter(i) == Confirmed {
				got++
				rigs[0].assure(i)
			}
		}
		if got != limit || rigs[0].tab.Len() != limit || capacity.Used() != limit {
			t.Errorf("max %d: %d entered, Len %d, used %d", limit, got, rigs[0].tab.Len(), capacity.Used())
		}
		if o := rigs[1].enter(1); o != Full {
			t.Errorf("max %d: another shard found room: %v", limit, o)
		}
		rigs[0].tab.Flush()
		rigs[0].after(2000)
		rigs[0].tab.Expire(rigs[0].now, 1000)
		// Uneven traffic: the total stays below the maximum at every moment.
		rnd := rand.New(rand.NewPCG(1, 2))
		for i := range 3 * limit {
			s := rigs[rnd.IntN(3)*rnd.IntN(2)]
			s.enter(i)
			s.assure(i)
			if sum := rigs[0].tab.Len() + rigs[1].tab.Len() + rigs[2].tab.Len(); sum > limit {
				t.Fatalf("max %d: %d entries", limit, sum)
			}
		}
		sum := rigs[0].tab.Len() + rigs[1].tab.Len() + rigs[2].tab.Len()
		if sum < limit-2*capacityBatch || limit < 1000 && sum != limit {
			t.Errorf("max %d: only %d entries could be made", limit, sum)
		}
	}
}

func TestCapacityConcurrently(t *testing.T) {
	const limit, shards = 1000, 4
	c := NewCapacity(limit, shards)
	var wg sync.WaitGroup
	for s := range shards {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(s), 1))
			var held int64
			for range 20_000 {
				if r.IntN(2) == 0 {
					held += c.acquire()
				} else if held > 0 {
					n := 1 + r.Int64N(held)
					c.release(n)
					held -= n
				}
				if u := c.Used(); u > limit || u < 0 {
					t.Errorf("%d credits of %d given out", u, limit)
					return
				}
			}
			c.release(held)
		})
	}
	wg.Wait()
	if c.Used() != 0 {
		t.Errorf("%d credits lost", c.Used())
	}
}

// Only the eight buckets from the new connection's own on are looked at.
func TestEarlyDropRange(t *testing.T) {
	r := newRig(t, Config{Capacity: NewCapacity(200, 1), Buckets: 64, Settings: noChecksum(t)})
	for i := range 200 {
		r.enter(i)
		if i != 77 {
			r.assure(i)
		}
	}
	x := &r.tab.index
	hashOf := func(b int) uint64 { // of a key whose first bucket is b
		n := x.count()
		for h := uint64(1); ; h += 0x9e3779b97f4a7c15 {
			if int(x.first(h)) == (b+n)%n {
				return h
			}
		}
	}
	victim := -1
	for b := range x.count() {
		for i, ref := range x.arena.items[b].ref {
			if x.arena.items[b].free()>>i&1 == 0 && uint32(r.tab.hot.items[ref].status)&StatusAssured == 0 {
				victim = b
			}
		}
	}
	if victim < 0 {
		t.Fatal("no entry that may be evicted")
	}
	for _, away := range []int{-1, 8, 20} {
		if r.tab.earlyDrop(hashOf(victim-away), r.now) {
			t.Fatalf("an entry %d buckets away was evicted", away)
		}
	}
	if !r.tab.earlyDrop(hashOf(victim-7), r.now) || r.tab.Len() != 199 {
		t.Errorf("the entry 7 buckets away was not evicted")
	}
	r.tab.giveCredit() // earlyDrop leaves it to its caller
}

func TestEarlyDropSparesAssured(t *testing.T) {
	r := newRig(t, Config{Capacity: NewCapacity(200, 1), Settings: noChecksum(t)})
	for i := range 200 {
		r.enter(i)
		if i%2 == 0 {
			r.assure(i)
		} else { // replied to, but not yet ASSURED: spared as little
			var ps [1]packet.Packet
			flow(i, &ps[0])
			r.tab.Hash(ps[:])
			c := r.tab.Track(&ps[0], r.now)
			r.tab.hot.items[c.Ref].status |= uint16(StatusSeenReply)
		}
	}
	dropped := 0
	for i := 1000; i < 1400; i++ {
		switch o := r.enter(i); o {
		case Confirmed:
			r.assure(i)
			dropped++
		case Full:
		default:
			t.Fatal(o)
		}
		if r.tab.Len() != 200 {
			t.Fatalf("Len %d", r.tab.Len())
		}
	}
	var c Counters
	r.tab.Stats(&c)
	if dropped == 0 || dropped > 100 || c.EarlyDrop != uint64(dropped) || c.Full != uint64(400-dropped) || c.Drop != c.Full {
		t.Errorf("%d evicted, counters %+v", dropped, c)
	}
	var ps [1]packet.Packet
	for i := 0; i < 200; i += 2 {
		flow(i, &ps[0])
		r.tab.Hash(ps[:])
		if c := r.tab.Track(&ps[0], r.now); c.Fresh {
			t.Fatalf("the ASSURED entry %d was evicted", i)
		}
	}
}

func TestCollectionAbove95Percent(t *testing.T) {
	r := newRig(t, Config{Capacity: NewCapacity(1000, 1), Settings: noChecksum(t)})
	for i := range 1000 {
		r.enter(i)
		r.assure(i)
	}
	// Ten closing TCP connections, ASSURED; the rest must stay.
	for i := range 10 {
		e := &r.tab.hot.items[100+i]
		e.key.Proto = packet.ProtoTCP
		e.state = tcpTimeWait
	}
	rekey(r.tab)
	for range 3 {
		r.after(1100)
		r.tab.Expire(r.now, 1<<20)
	}
	if r.tab.Len() != 1000 {
		t.Fatalf("collected without need: %d left", r.tab.Len())
	}
	if o := r.enter(5000); o != Full {
		t.Fatal(o)
	}
	for range 3 {
		r.after(1100)
		r.tab.Expire(r.now, 1<<20)
	}
	var c Counters
	r.tab.Stats(&c)
	if r.tab.Len() != 990 || c.Collected != 10 {
		t.Errorf("%d left, %d collected", r.tab.Len(), c.Collected)
	}
	// Below 95 % nothing more is collected, even if not ASSURED.
	if err := r.tab.check(); err != nil {
		t.Fatal(err)
	}
	r.tab.Delete(0, 1<<20, func(i *Info) bool { return i.Key.A.Lo&1 == 0 && i.Key.APort&7 == 0 || i.Key.BPort&7 == 0 }, r.now)
	left := r.tab.Len()
	r.enter(6000)
	r.tab.requestCollection()
	for range 3 {
		r.after(1100)
		r.tab.Expire(r.now, 1<<20)
	}
	if r.tab.Len() != left+1 {
		t.Errorf("%d left of %d although below 95 %%", r.tab.Len(), left+1)
	}
}

// rekey puts every entry into the bucket of its key, which a test has changed.
func rekey(t *Table) {
	for b := range t.index.count() {
		t.index.arena.items[b] = bucket{}
	}
	for w := range (t.slots.top + 63) / 64 {
		for i := range uint32(64) {
			if t.slots.word(w)>>i&1 != 0 {
				ref := w*64 + i
				t.insert(ref, t.hashOf(&t.hot.items[ref].key))
			}
		}
	}
}

func TestSweepIsBounded(t *testing.T) {
	r := newRig(t, Config{Capacity: NewCapacity(1<<14, 1), Reserve: 1 << 14, Settings: noChecksum(t)})
	for i := range 1 << 14 {
		r.enter(i)
	}
	r.after(31_000)
	total, calls := 0, 0
	for r.tab.Len() > 0 {
		n := r.tab.Expire(r.now, 10)
		if n > 10+sweepBlock {
			t.Fatalf("%d entries removed by one call", n)
		}
		total += n
		r.after(1)
		if calls++; calls > 10_000 {
			t.Fatalf("still %d entries", r.tab.Len())
		}
	}
	if total != 1<<14 {
		t.Errorf("%d swept", total)
	}
}

func TestDumpWhileTheTableChanges(t *testing.T) {
	r := newRig(t, Config{Capacity: NewCapacity(3000, 1), Reserve: 4096, Settings: noChecksum(t)})
	const stay = 1000
	for i := range stay {
		r.enter(i)
		r.assure(i)
	}
	rnd := rand.New(rand.NewPCG(5, 5))
	seen := map[packet.Key]int{}
	buf := make([]Info, 17)
	n, next := r.tab.Dump(0, buf, r.now)
	for other := stay; ; other++ {
		for _, i := range buf[:n] {
			seen[i.Key]++
		}
		if next == 0 {
			break
		}
		r.enter(other)
		if rnd.IntN(3) == 0 {
			r.tab.Delete(0, 1<<20, func(i *Info) bool { return i.Status&StatusAssured == 0 }, r.now)
		}
		r.tab.Expire(r.now, 100)
		r.after(3)
		n, next = r.tab.Dump(next, buf, r.now)
	}
	var p packet.Packet
	for i := range stay {
		flow(i, &p)
		if seen[p.Key] != 1 {
			t.Errorf("entry %d listed %d times", i, seen[p.Key])
		}
	}
}

func TestSetMarks(t *testing.T) {
	r := newRig(t, Config{Settings: noChecksum(t)})
	for i := range 300 {
		r.enter(i)
	}
	f := Filter{SrcPort: 1024 + 7}
	changed := 0
	for cursor, n := uint64(0), 0; ; {
		n, cursor = r.tab.SetMarks(cursor, 50, f.Match, 0x50, 0xf0, r.now)
		if changed += n; cursor == 0 {
			break
		}
	}
	if changed != 1 {
		t.Errorf("%d changed", changed)
	}
	for cursor := uint64(0); ; {
		if _, cursor = r.tab.SetMarks(cursor, 50, nil, 0x03, 0x0f, r.now); cursor == 0 {
			break
		}
	}
	marks := map[uint32]int{}
	out := make([]Info, 1024)
	n, _ := r.tab.Dump(0, out, r.now)
	for _, i := range out[:n] {
		marks[i.Mark]++
	}
	if len(marks) != 2 || marks[0x53] != 1 || marks[0x03] != 299 {
		t.Errorf("%v", marks)
	}
}

func TestFlush(t *testing.T) {
	r := newRig(t, Config{Settings: noChecksum(t)})
	for i := range 1000 {
		r.enter(i)
	}
	r.tab.Delete(0, 1<<20, func(i *Info) bool { return i.Key.APort&1 == 1 || i.Key.BPort&1 == 1 && i.Key.APort != 53 }, r.now)
	for i := 1000; r.tab.Len() < 1000; i++ {
		r.enter(i)
	}
	if n := r.tab.Flush(); n != 1000 || r.tab.Len() != 0 || len(r.lines(FormatConntrack)) != 0 {
		t.Errorf("flushed %d, left %d", n, r.tab.Len())
	}
	if err := r.tab.check(); err != nil {
		t.Error(err)
	}
	if o := r.enter(1); o != Confirmed {
		t.Error(o)
	}
}

func TestNoRoomForAnIndex(t *testing.T) {
	r := newRig(t, Config{Capacity: NewCapacity(0, 1), Reserve: 62, Settings: noChecksum(t)})
	full := 0
	for i := range 100 {
		switch o := r.enter(i); o {
		case Confirmed:
		case Full:
			full++
		default:
			t.Fatal(o)
		}
	}
	if r.tab.Len() != 63 || full != 37 {
		t.Errorf("%d entries, %d refused", r.tab.Len(), full)
	}
	if err := r.tab.check(); err != nil {
		t.Error(err)
	}
}

func TestClash(t *testing.T) {
	r := newRig(t, Config{})
	// Two Fresh connections with one key cannot come from the calls in their order; an import between them can.
	p := r.parse(udp(client, server))
	c := r.tab.Track(p, r.now)
	e := r.tab.hot.items[c.Ref]
	other := e
	if !r.tab.takeCredit() {
		t.Fatal("no credit")
	}
	r.tab.hot.items[77] = other
	r.tab.hot.items[77].deadline = r.now + 1000
	r.tab.due.items[77] = r.now + 1000
	r.tab.hot.items[77].status = uint16(StatusConfirmed)
	r.tab.insert(77, p.Hash)
	r.tab.slots.add(77)
	r.tab.live++
	r.tab.stats.Insert++
	if o := r.tab.Confirm(&c, r.now); o != Confirmed || c.Ref != 77 || r.tab.Len() != 1 {
		t.Errorf("udp: %v, %+v", o, c)
	}
	if err := r.tab.check(); err != nil {
		t.Error(err)
	}
	var s Counters
	if r.tab.Stats(&s); s.ClashResolve != 1 {
		t.Errorf("%+v", s)
	}
}

func TestAccountingAndTimestamps(t *testing.T) {
	r := newRig(t, Config{})
	r.pass(udp("10.0.0.1:1", "10.0.0.2:2"), StateNew)
	for _, name := range []string{"nf_conntrack_acct", "nf_conntrack_timestamp"} {
		s, err := r.tab.set.With(name, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.tab.SetSettings(s); err != nil {
			t.Fatal(err)
		}
	}
	r.pass(udp("10.0.0.1:1", "10.0.0.2:3"), StateNew)
	r.after(3500) // ticks wrap here
	r.pass(udp("10.0.0.2:3", "10.0.0.1:1"), StateEstablished)
	r.pass(udp("10.0.0.2:3", "10.0.0.1:1"), StateEstablished)
	got := r.lines(FormatConntrack)
	want := []string{
		"udp      17 26 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=2 dport=1 mark=0 use=1",
		"udp      17 120 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=3 packets=1 bytes=38 src=10.0.0.2 dst=10.0.0.1 sport=3 dport=1 packets=2 bytes=76 [ASSURED] mark=0 delta-time=3 use=1",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
}

func TestVerdictMarkStatus(t *testing.T) {
	r := newRig(t, Config{})
	c := r.pass(udp(client, server), StateNew)
	if r.tab.Verdict(&c) != 0 || r.tab.Mark(&c) != 0 {
		t.Error("a new entry has a verdict or a mark")
	}
	r.tab.SetVerdict(&c, 6)
	if r.tab.SetMark(&c, 9); r.tab.Verdict(&c) != 0 {
		t.Error("a verdict is cached though the mark has changed")
	}
	r.tab.SetVerdict(&c, 7)
	back := r.pass(udp(server, client), StateEstablished)
	if r.tab.Verdict(&back) != 0 || r.tab.Mark(&back) != 9 || r.tab.Status(&back) != StatusConfirmed|StatusSeenReply {
		t.Errorf("reply: verdict %d, mark %d, status %#x", r.tab.Verdict(&back), r.tab.Mark(&back), r.tab.Status(&back))
	}
	r.tab.SetVerdict(&back, 8)
	c = r.pass(udp(client, server), StateEstablished)
	if r.tab.Verdict(&c) != 7 {
		t.Error("the directions' verdicts mix")
	}
	none := Conn{State: StateInvalid}
	r.tab.SetVerdict(&none, 1)
	r.tab.SetMark(&none, 1)
	if r.tab.Verdict(&none) != 0 || r.tab.Mark(&none) != 0 || r.tab.Status(&none) != 0 {
		t.Error("a packet without an entry has something")
	}
}

func TestNoAllocation(t *testing.T) {
	r := newRig(t, Config{Capacity: NewCapacity(1000, 1)})
	frames := contestFrames()
	pkts := make([]packet.Packet, len(frames))
	for i := range pkts {
		pkts[i].Frame = frames[i]
		packet.Parse(&pkts[i])
	}
	out := make([]Info, 16)
	line := make([]byte, 0, 512)
	if n := testing.AllocsPerRun(50, func() {
		r.tab.Hash(pkts)
		r.tab.Touch(pkts)
		for i := range pkts {
			c := r.tab.Track(&pkts[i], r.now)
			if c.Fresh {
				r.tab.Confirm(&c, r.now)
			}
			r.tab.SetVerdict(&c, 1)
		}
		r.now += 700
		r.tab.Expire(r.now, 64)
		n, _ := r.tab.Dump(0, out, r.now)
		for i := range out[:n] {
			line = out[i].AppendLine(line[:0], FormatProc)
		}
	}); n != 0 {
		t.Errorf("%v allocations a burst", n)
	}
}

// TestErrorsBelongToTheirConnection: ICMP errors are RELATED to the connection of the packet that they quote, in the
// other direction, and change nothing.
func TestErrorsBelongToTheirConnection(t *testing.T) {
	r := newRig(t, Config{})
	router := netip.MustParseAddr("203.0.113.1")
	frame := udp(client, server)
	ask := packettest.NewICMPError(router, packettest.AP(client).Addr(), 3, 1, 0, frame, 28)
	c := r.track(ask)
	if c.State != StateInvalid || r.tab.Why() != ReasonNotRelated {
		t.Fatalf("without a connection: %+v", c)
	}
	r.pass(frame, StateNew)
	r.after(10_000)
	if c := r.pass(ask, StateRelated); c.Dir != Reply || c.Fresh {
		t.Errorf("%+v", c)
	}
	r.one("udp      17 20 src=192.168.1.6 dst=192.168.1.9 sport=32775 dport=53 [UNREPLIED] src=192.168.1.9 dst=192.168.1.6 sport=53 dport=32775 mark=0 use=1")
	r.pass(frame, StateNew) // still no reply seen
	// About an answer, towards the server.
	r.pass(udp(server, client), StateEstablished)
	if c := r.pass(packettest.NewICMPError(router, packettest.AP(server).Addr(), 3, 3, 0, udp(server, client), 28), StateRelated); c.Dir != Original {
		t.Errorf("%+v", c)
	}
	// Addressed to someone else than the sender of the quoted packet.
	if c := r.track(packettest.NewICMPError(router, netip.MustParseAddr("192.168.1.7"), 3, 1, 0, frame, 28)); c.State != StateInvalid {
		t.Errorf("%+v", c)
	}
	r.after(31_000)
	if c := r.track(ask); c.State != StateInvalid {
		t.Errorf("about an expired connection: %+v", c)
	}
	var s Counters
	if r.tab.Stats(&s); s.Error != 3 || s.Invalid != 0 {
		t.Errorf("%+v", s)
	}
}

func TestQueries(t *testing.T) {
	r := newRig(t, Config{})
	a, b := packettest.IP("10.0.0.1"), packettest.IP("10.0.0.2")
	if c := r.track(packettest.NewICMP(b, a, 0, 0, 9, 1)); c.State != StateInvalid || r.tab.Why() != ReasonNotNew {
		t.Errorf("answer without request: %+v", c)
	}
	r.pass(packettest.NewICMP(a, b, 8, 0, 9, 1), StateNew)
	r.pass(packettest.NewICMP(b, a, 0, 0, 9, 1), StateEstablished)
	r.pass(packettest.NewICMP(b, a, 0, 0, 9, 1), StateEstablished) // a duplicate
	r.pass(packettest.NewICMP(b, a, 8, 0, 9, 1), StateNew)         // the other side asks with the same id
	if n := r.tab.Len(); n != 2 {
		t.Errorf("%d entries", n)
	}
	r.pass(packettest.NewICMPMessage(packettest.IP("fe80::1"), packettest.IP("ff02::1"), 135, 0, 0, packettest.PayloadLen(16)), StateUntracked)
}

// TestAsSeenOnLinux holds what Linux 6.18 was seen to do with the same frames on a bridge with br_netfilter.
func TestAsSeenOnLinux(t *testing.T) {
	a, b := packettest.IP("10.0.0.1"), packettest.IP("10.0.0.2")
	self := udp("10.0.0.1:1", "10.0.0.1:1")
	lite := func(src, dst string) []byte {
		return packettest.NewUDPLite(packettest.AP(src), packettest.AP(dst), packettest.PayloadLen(4))
	}
	type step struct {
		frame []byte
		state State
	}
	for _, c := range []struct {
		name           string
		steps          []step
		listing        string
		invalid, error uint64
	}{
		{"an end that talks to itself", []step{{self, StateNew}, {self, StateEstablished}, {self, StateEstablished}},
			"udp      17 30 src=10.0.0.1 dst=10.0.0.1 sport=1 dport=1 src=10.0.0.1 dst=10.0.0.1 sport=1 dport=1 mark=0 use=1", 0, 0},
		{"an error about it", []step{{self, StateNew}, {packettest.NewICMPError(b, a, 3, 3, 0, self, 28), StateRelated}},
			"udp      17 30 src=10.0.0.1 dst=10.0.0.1 sport=1 dport=1 [UNREPLIED] src=10.0.0.1 dst=10.0.0.1 sport=1 dport=1 mark=0 use=1", 0, 0},
		{"a ping to itself", []step{{packettest.NewICMP(a, a, 8, 0, 7, 1), StateNew}, {packettest.NewICMP(a, a, 0, 0, 7, 1), StateEstablished}},
			"icmp     1 30 src=10.0.0.1 dst=10.0.0.1 type=8 code=0 id=7 src=10.0.0.1 dst=10.0.0.1 type=0 code=0 id=7 mark=0 use=1", 0, 0},
		{"an unknown protocol", []step{{packettest.NewIP(a, a, 89), StateNew}, {packettest.NewIP(a, a, 89), StateEstablished}},
			"unknown  89 600 src=10.0.0.1 dst=10.0.0.1 src=10.0.0.1 dst=10.0.0.1 mark=0 use=1", 0, 0},
		{"udplite is a stream at once", []step{{lite("10.0.0.1:5", "10.0.0.2:6"), StateNew}, {lite("10.0.0.2:6", "10.0.0.1:5"), StateEstablished}, {lite("10.0.0.1:5", "10.0.0.2:6"), StateEstablished}},
			"udplite  136 120 src=10.0.0.1 dst=10.0.0.2 sport=5 dport=6 src=10.0.0.2 dst=10.0.0.1 sport=6 dport=5 [ASSURED] mark=0 use=1", 0, 0},
		{"dccp has no ports", []step{{packettest.NewDCCP(packettest.AP("10.0.0.1:1"), packettest.AP("10.0.0.2:2"), 0), StateNew}},
			"dccp     33 600 src=10.0.0.1 dst=10.0.0.2 sport=0 dport=0 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=0 dport=0 mark=0 use=1", 0, 0},
		{"an answer without request", []step{{packettest.NewICMP(a, b, 0, 0, 7, 1), StateInvalid}}, "", 1, 0},
		{"icmp type 9", []step{{packettest.NewICMPMessage(a, b, 9, 0, 7), StateInvalid}}, "", 1, 0},
		{"icmp type 40", []step{{packettest.NewICMPMessage(a, b, 40, 0, 7), StateInvalid}}, "", 0, 1},
		{"an error about nothing", []step{{packettest.NewICMPError(b, a, 3, 3, 0, self, 28), StateInvalid}}, "", 0, 1},
		{"icmpv6 in ipv4", []step{{packettest.NewIP(a, b, 58, packettest.Payload([]byte{128, 0, 0, 0, 0, 0, 0, 0})), StateInvalid}}, "", 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Config{})
			for _, s := range c.steps {
				r.pass(s.frame, s.state)
			}
			if c.listing == "" {
				if n := r.tab.Len(); n != 0 {
					t.Errorf("%d entries", n)
				}
			} else {
				r.one(c.listing)
			}
			var n Counters
			if r.tab.Stats(&n); n.Invalid != c.invalid || n.Error != c.error {
				t.Errorf("invalid=%d error=%d, want %d and %d", n.Invalid, n.Error, c.invalid, c.error)
			}
		})
	}
}
