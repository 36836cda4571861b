package ipset

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// frameFrom returns the parse of a UDP frame.
func frameFrom(src string) *packet.Packet {
	p := &packet.Packet{Frame: packettest.NewUDP(netip.AddrPortFrom(netip.MustParseAddr(src), 1), packettest.AP("10.9.9.9:53"))}
	packet.Parse(p)
	return p
}

func mustDo(t testing.TB, r *Registry, now Tick, command string) {
	t.Helper()
	if _, err := r.Do(strings.Fields(command), false, now); err != nil {
		t.Fatalf("%s: %v", command, err)
	}
}

// TestConcurrent has frames look up, add and delete while control adds, deletes, grows, collects, flushes and swaps. An
// element that nobody touches must be found at every moment; an element that only one goroutine touches must be what it
// has made of it.
func TestConcurrent(t *testing.T) {
	for _, spec := range []string{"hash:ip timeout 0", "hash:net counters", "hash:ip,port forceadd maxelem 100000"} {
		r := New(Options{})
		mustDo(t, r, 0, "create s "+spec)
		port := ""
		if strings.HasPrefix(spec, "hash:ip,port") {
			port = ",udp:1"
		}
		for i := range 200 {
			mustDo(t, r, 0, fmt.Sprintf("add s 10.1.%d.%d%s", i/100, i%100+1, port))
		}
		h := r.Lookup("s")
		q := &Query{Dims: 2, Src: 3}
		var stop atomic.Bool
		var wg sync.WaitGroup
		for g := range 3 { // workers, each with addresses of its own
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(g), 1))
				var stays, own []*packet.Packet
				for i := range 200 {
					stays = append(stays, frameFrom(fmt.Sprintf("10.1.%d.%d", i/100, i%100+1)))
				}
				for i := range 500 {
					own = append(own, frameFrom(fmt.Sprintf("10.%d.%d.%d", 10+g, i/100, i%100+1)))
				}
				in := make([]bool, len(own))
				for !stop.Load() {
					if p := stays[rnd.IntN(len(stays))]; !h.Match(q, p, 5, 0) {
						t.Errorf("%s: %v is lost", spec, p.Src)
						return
					}
					i := rnd.IntN(len(own))
					given := h.set.Load().given.Load()
					if in[i] {
						h.Remove(q, own[i], 5, 0)
					} else {
						h.Add(q, own[i], 5, 0, Default, false)
					}
					if h.Match(q, own[i], 5, 0) != in[i] {
						in[i] = !in[i]
					} else if h.set.Load().given.Load() == given && !h.Match(q, own[i], 5, 0) == in[i] {
						t.Errorf("%s: %v: neither done nor given up", spec, own[i].Src)
						return
					}
					if p := own[rnd.IntN(len(own))]; p == own[i] && h.Match(q, p, 5, 0) != in[i] {
						t.Errorf("%s: %v is not what it was made", spec, p.Src)
						return
					}
				}
				for i := range own {
					if h.Match(q, own[i], 5, 0) != in[i] {
						t.Errorf("%s: %v is %v at the end", spec, own[i].Src, !in[i])
						return
					}
				}
			})
		}
		for i := range 8 { // control
			for j := range 50 {
				mustDo(t, r, 5, fmt.Sprintf("add s 10.200.%d.%d%s", i, j+1, port))
			}
			r.Maintain(5)
			r.mu.Lock()
			s := h.set.Load()
			r.grow(s, s.count.Load()*int64(1+i%2), 5)
			r.mu.Unlock()
			if _, err := r.AppendSave(nil, "s", false, 5); err != nil {
				t.Fatal(err)
			}
			for j := range 50 {
				if i%3 == 0 {
					mustDo(t, r, 5, fmt.Sprintf("del s 10.200.%d.%d%s", i, j+1, port))
				}
			}
		}
		stop.Store(true)
		wg.Wait()
		// The account is right in the end.
		n := int64(0)
		h.set.Load().each(5, func(*Entry) bool { n++; return true })
		if got := h.set.Load().count.Load(); got != n {
			t.Errorf("%s: %d counted, %d there", spec, got, n)
		}
	}
}

// TestFrames tests what packets do to a set: additions with timeouts, counters, the longest network's length, and nothing
// allocated.
func TestFrames(t *testing.T) {
	r := New(Options{})
	for _, c := range []string{
		"create knock hash:ip timeout 10 counters", "create nets hash:net", "add nets 10.0.0.0/8", "add nets 10.1.0.0/16", "add nets 10.1.2.3 nomatch",
		"create empty hash:net", "create full hash:ip maxelem 2", "create force hash:ip maxelem 2 forceadd",
		"create six hash:ip family inet6", "create l list:set", "add l six", "add l knock", "create ports bitmap:port range 50-60", "create m hash:mac", "create marks hash:ip,mark markmask 0xf",
	} {
		mustDo(t, r, 0, c)
	}
	q := &Query{Dims: 2, Src: 1}
	p := frameFrom("10.1.2.3")
	save := func(name string, now Tick) string {
		b, err := r.AppendSave(nil, name, true, now)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), "\n")
		return rest
	}
	want := func(name string, now Tick, text string) {
		t.Helper()
		if got := save(name, now); got != text {
			t.Errorf("%s at %d:\n%swant\n%s", name, now, got, text)
		}
	}
	h := r.Lookup("knock")
	h.Add(q, p, 0, 0, Default, false)
	want("knock", 0, "add knock 10.1.2.3 timeout 10 packets 1 bytes 28\n")
	if !h.Match(q, p, 5000, 0) || h.Match(q, p, 10001, 0) || !h.Match(q, p, 10000, 0) {
		t.Error("the time is wrong")
	}
	want("knock", 5000, "add knock 10.1.2.3 timeout 5 packets 3 bytes 84\n")
	h.Add(q, p, 6000, 0, Default, false) // there already
	want("knock", 6000, "add knock 10.1.2.3 timeout 4 packets 3 bytes 84\n")
	h.Add(q, p, 6000, 0, 60, true)
	want("knock", 6000, "add knock 10.1.2.3 timeout 60 packets 1 bytes 28\n")
	h.Add(q, p, 70000, 0, 0, false) // expired meanwhile
	want("knock", 70000, "add knock 10.1.2.3 timeout 0 packets 1 bytes 28\n")
	for _, c := range []struct {
		q    Query
		want bool
	}{
		{Query{Dims: 1, Src: 1, Packets: 2, PacketsIs: Equal}, true}, {Query{Dims: 1, Src: 1, Packets: 3, PacketsIs: NotEqual}, false},
		{Query{Dims: 1, Src: 1, Packets: 4, PacketsIs: LessThan, KeepCounters: true}, true}, {Query{Dims: 1, Src: 1, Bytes: 83, ByteIs: MoreThan, KeepCounters: true}, true},
		{Query{Dims: 1, Src: 1, Bytes: 84, ByteIs: MoreThan, KeepCounters: true}, false},
	} {
		if got := h.Match(&c.q, p, 70000, 0); got != c.want {
			t.Errorf("%+v: %v", c.q, got)
		}
	}
	h.Remove(q, p, 70000, 0)
	want("knock", 70000, "")

	n := r.Lookup("nets")
	if n.Match(q, p, 0, 0) || !n.Match(q, frameFrom("10.1.2.4"), 0, 0) || !n.Match(&Query{Dims: 1, Src: 1, ReturnNoMatch: true}, p, 0, 0) || n.Match(&Query{Dims: 1, Src: 1, ReturnNoMatch: true}, frameFrom("10.1.2.4"), 0, 0) {
		t.Error("exceptions are wrong")
	}
	mustDo(t, r, 0, "del nets 10.1.2.3")
	n.Add(q, frameFrom("10.7.7.7"), 0, 0, Default, false)
	want("nets", 0, "add nets 10.0.0.0/8\nadd nets 10.1.0.0/16\nadd nets 10.7.0.0/16\n")
	r.Lookup("empty").Add(q, p, 0, 0, Default, false)
	want("empty", 0, "add empty 10.1.2.3\n")

	for i := range 5 {
		r.Lookup("full").Add(q, frameFrom(fmt.Sprintf("10.0.0.%d", i+1)), 0, 0, Default, false)
		r.Lookup("force").Add(q, frameFrom(fmt.Sprintf("10.0.0.%d", i+1)), 0, 0, Default, false)
	}
	want("full", 0, "add full 10.0.0.1\nadd full 10.0.0.2\n")
	if got := save("force", 0); strings.Count(got, "add") != 2 || !strings.Contains(got, "10.0.0.5") {
		t.Errorf("forceadd:\n%s", got)
	}
	// The list's first set is for IPv6, so that the second gets what a packet adds.
	l := r.Lookup("l")
	l.Add(q, p, 80000, 0, 7, false)
	want("knock", 80000, "add knock 10.1.2.3 timeout 7 packets 1 bytes 28\n")
	if !l.Match(&Query{Dims: 1, Src: 1, KeepSubCounters: true}, p, 80000, 0) {
		t.Error("the list has it not")
	}
	want("knock", 80000, "add knock 10.1.2.3 timeout 7 packets 1 bytes 28\n")
	l.Remove(q, p, 80000, 0)
	want("knock", 80000, "")

	r.Lookup("ports").Add(&Query{Dims: 1}, p, 0, 0, Default, false)
	want("ports", 0, "add ports 53\n")
	r.Lookup("m").Add(q, p, 0, 0, Default, false)
	if !r.Lookup("m").Match(q, p, 0, 0) || r.Lookup("m").Match(&Query{Dims: 1}, p, 0, 0) {
		t.Error("MAC addresses are wrong")
	}
	r.Lookup("marks").Add(q, p, 0, 0x1f, Default, false)
	want("marks", 0, "add marks 10.1.2.3,0x0000000f\n")

	for _, name := range []string{"knock", "nets", "l", "ports", "m", "force"} {
		h := r.Lookup(name)
		if got := testing.AllocsPerRun(100, func() {
			h.Add(q, p, 90000, 0, Default, true)
			h.Match(q, p, 90000, 0)
			h.Remove(q, p, 90000, 0)
		}); got != 0 {
			t.Errorf("%s: %v allocations a packet", name, got)
		}
	}
}

// TestBatch tests that commands which fail leave nothing, and that sets in use stay.
func TestBatch(t *testing.T) {
	r := New(Options{})
	text := "create a hash:ip timeout 5 counters comment\nadd a 10.0.0.1 timeout 3 packets 2 bytes 3 comment \"x y\"\ncreate b hash:ip\nadd b 10.0.0.2\ncreate l list:set\nadd l a\n"
	if err := r.Restore("f", []byte(text), false, 0); err != nil {
		t.Fatal(err)
	}
	before, _ := r.AppendSave(nil, "", true, 0)
	for _, tail := range []string{
		"add b 10.0.0.1-10.0.0.9\n", "add b 10.0.0.9 timeout 3\n", "destroy b\n", "add nope 1.1.1.1\n", "swap a l\n", "bogus\n", "add b 1.1.1.1 \"\n",
	} {
		err := r.Restore("f", []byte("del a 10.0.0.1\nadd a 10.0.0.7\nswap b b\nflush l\nadd l b\nflush b\nadd b 10.0.0.2\ncreate c hash:net\nadd c 1.0.0.0/8\nrename c d\n-exist add a 10.0.0.7 timeout 2\n"+tail), false, 0)
		if err == nil {
			t.Fatalf("%q is taken", tail)
		}
		if !strings.HasPrefix(err.Error(), "f:12:") {
			t.Errorf("%q: %v", tail, err)
		}
		after, _ := r.AppendSave(nil, "", true, 0)
		if string(before) != string(after) {
			t.Fatalf("%q left\n%swas\n%s", tail, after, before)
		}
	}
	h := r.Lookup("b")
	if err := r.Hold([]*Handle{h}, []*Handle{h}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Do([]string{"destroy", "b"}, false, 0); err == nil {
		t.Error("a set in use was destroyed")
	}
	g := r.Generation()
	mustDo(t, r, 0, "create c hash:ip")
	mustDo(t, r, 0, "add c 10.0.0.3")
	if r.Generation() != g {
		t.Error("a set that nobody uses changes what rules say")
	}
	mustDo(t, r, 0, "swap b c")
	if r.Generation() == g || !h.Match(&Query{Dims: 1, Src: 1}, frameFrom("10.0.0.3"), 0, 0) {
		t.Error("the swapped set is not seen")
	}
	r.Release([]*Handle{h})
	mustDo(t, r, 0, "destroy b")
}

// TestStage tests what reading the files again means.
func TestStage(t *testing.T) {
	r := New(Options{})
	load := func(now Tick, text string) {
		t.Helper()
		st, err := r.Stage([]Source{{"f", []byte(text)}}, now)
		if err != nil {
			t.Fatal(err)
		}
		st.Commit(now)
		st.Finish()
	}
	load(0, "create a hash:ip timeout 100 counters\nadd a 10.0.0.1 packets 5 bytes 6\nadd a 10.0.0.2\ncreate old hash:ip\ncreate l list:set\nadd l a\nadd l old\n")
	h := r.Lookup("a")
	h.Add(&Query{Dims: 1, Src: 1}, frameFrom("10.0.0.9"), 0, 0, 50, false)
	mustDo(t, r, 0, "create mine hash:ip")
	mustDo(t, r, 0, "del a 10.0.0.2")
	if _, err := r.Stage([]Source{{"f", []byte("create a hash:ip\nadd a x\n")}}, 0); err == nil || !strings.HasPrefix(err.Error(), "f:2:7:") {
		t.Errorf("error %v", err)
	}
	load(20000, "create a hash:ip timeout 100 counters\nadd a 10.0.0.1 packets 0 bytes 0\nadd a 10.0.0.2\nadd a 10.0.0.3 timeout 7\ncreate l list:set\nadd l a\n")
	got, _ := r.AppendSave(nil, "a", true, 20000)
	_, rest, _ := strings.Cut(string(got), "\n")
	if want := "add a 10.0.0.1 timeout 80 packets 5 bytes 6\nadd a 10.0.0.2 timeout 100 packets 0 bytes 0\nadd a 10.0.0.3 timeout 7 packets 0 bytes 0\nadd a 10.0.0.9 timeout 30 packets 1 bytes 28\n"; rest != want {
		t.Errorf("after reading again:\n%swant\n%s", rest, want)
	}
	if names := strings.Join(r.Names(), " "); names != "a l mine" {
		t.Errorf("sets are %s", names)
	}
	if r.Lookup("a") != h {
		t.Error("rules would know another set")
	}
	load(20000, "create a hash:net\nadd a 10.0.0.0/8\n")
	if !h.Match(&Query{Dims: 1, Src: 1}, frameFrom("10.200.0.1"), 0, 0) {
		t.Error("the new kind is not in force")
	}
}
