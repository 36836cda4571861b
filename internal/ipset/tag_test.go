package ipset

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"corewire/internal/packet"
)

// TestTags takes, leaves and looks for keys in a table with tags and in a map, with so few hashes that keys meet in runs
// that go around the end of the table.
func TestTags(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 11))
		l := layoutOf(HashNet, seed%2 == 1)
		tab := newTable(64, &l, 0)
		if tab.tags == nil {
			t.Fatal("a table of networks has no tags")
		}
		type at struct{ i, s uint64 }
		twin := make(map[uint64]at)
		hash := func(x uint64) uint64 { return (x*0x9e3779b97f4a7c15>>54&3)<<50 | (40 + x*7%30) }
		for step := range 3000 {
			x := uint64(rnd.IntN(60))
			k := key{x, x + 1, x + 2}
			i, s, ok := tab.find(&k, hash(x))
			want, there := twin[x]
			if ok != there || ok && (i != want.i || s != want.s) {
				t.Fatalf("seed %d step %d: key %d is at %d %v, the twin says %v %v", seed, step, x, i, ok, want, there)
			}
			switch {
			case there && rnd.IntN(2) == 0:
				if !tab.leave(i, s) {
					t.Fatal("a slot cannot be left")
				}
				delete(twin, x)
			case !there:
				if i, ok := tab.take(&k, hash(x)); ok {
					tab.publish(i, stateForever)
					twin[x] = at{i, *tab.state(i)}
				} else if len(twin) < 40 && tab.used.Load() < tab.limit {
					t.Fatalf("no room beside %d", len(twin))
				}
			}
		}
	}
}

// TestLengths asks sets with one network of every length for the first and the last of its addresses and for those beside.
func TestLengths(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		family, base := "inet", netip.MustParseAddr("203.127.255.255")
		if v6 {
			family, base = "inet6", netip.MustParseAddr("2f0f:7fff:ffff:ffff:f7ff:ffff:ffff:ffff")
		}
		for kind, element := range map[string]string{"hash:net": "%s", "hash:net,port": "%s,udp:53", "hash:ip,port,net": base.String() + ",udp:53,%[1]s", "hash:net,net": "%[1]s,%[1]s", "hash:net,port,net": "%[1]s,udp:53,%[1]s"} {
			for n := 1; n <= base.BitLen(); n++ {
				r := New(Options{})
				mustDo(t, r, 0, "create s "+kind+" family "+family)
				net := netip.PrefixFrom(base, n).Masked()
				first := addressFrom(net.Addr())
				m := prefix(n, v6)
				host := addressFrom(base).and(m)
				last := address{host.hi | ^m.hi, host.lo | ^m.lo}
				if !v6 {
					last.hi, last.lo = 0, last.lo&0xffffffff
				}
				s := r.Lookup("s").set.Load()
				mustDo(t, r, 0, "add s "+fmt.Sprintf(element, net))
				q := &Query{Dims: uint8(s.kind.Dimensions()), Src: 1}
				ask := func(a address) bool {
					p := probePacket(addressFrom(base), v6)
					x := packet.Addr{Hi: a.hi, Lo: a.lo}
					if !v6 {
						x.Lo |= 0xffff << 32
					}
					if kind != "hash:ip,port,net" {
						p.Src = x
					}
					p.Dst = x
					return r.Lookup("s").Match(q, p, 0, 0)
				}
				if !ask(first) || !ask(last) {
					t.Errorf("%s: %s does not have its own addresses: %v %v", kind, net, ask(first), ask(last))
				}
				before, after := address{first.hi, first.lo - 1}, address{last.hi, last.lo + 1}
				if first.lo == 0 {
					before.hi--
				}
				if after.lo == 0 {
					after.hi++
				}
				if !v6 {
					before.lo, after.lo = before.lo&0xffffffff, after.lo&0xffffffff
				}
				if n > 1 && (ask(before) || ask(after)) {
					t.Errorf("%s: %s has addresses beside: %v %v", kind, net, ask(before), ask(after))
				}
			}
		}
	}
}
