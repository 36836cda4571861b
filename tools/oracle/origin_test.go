package main

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"corewire/dataplane"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// Fragments that come from either port and from several VLANs, cut as small as can be: with fragment-origin=any and the
// bounds on fragments out of the way they make the datagrams that they make on a Linux bridge.
func TestFragmentOrigins(t *testing.T) {
	need(t)
	c := newConfig(t, "stateful.rules")
	c.engine = func(e *dataplane.Config) { e.Fragments, e.DatagramFragments = 4096, 8192 }
	r := rand.New(rand.NewPCG(*seed, 0x77))
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	var shots []shot
	for n := range rounds {
		a, b := pt.AP("10.0.0.1:1000"), pt.AP("10.0.0.2:53")
		if n%2 == 1 {
			a, b = pt.AP("[2001:db8::1]:1000"), pt.AP("[2001:db8::3]:53")
		}
		if n%5 == 4 { // where the interface counts in Linux: it is the bridge
			a, b = pt.AP("[fe80::1]:1000"), pt.AP("[fe80::3]:53")
		}
		b = netip.AddrPortFrom(b.Addr(), uint16(50+r.IntN(5)))
		size, cut := 100+r.IntN(900), 8*(1+r.IntN(20))
		if n%20 < 2 {
			size, cut = 8*1200, 8 // many more than corewire's default
		}
		variants := [3][][]byte{}
		for v, o := range [][]pt.Option{nil, {pt.VLAN(5)}, {pt.VLAN(6)}} {
			variants[v] = pt.Fragments(pt.NewUDP(a, b, append(o, pt.PayloadLen(size))...), uint32(n+1), cut)
		}
		var part []shot
		for i := range variants[0] {
			part = append(part, shot{in: packet.Port(r.IntN(2)), frame: variants[r.IntN(3)][i]})
			if r.IntN(200) == 0 { // twice, from elsewhere
				part = append(part, shot{in: packet.Port(r.IntN(2)), frame: variants[r.IntN(3)][i]})
			}
		}
		if n%3 > 0 {
			r.Shuffle(len(part), func(i, j int) { part[i], part[j] = part[j], part[i] })
		}
		shots = append(shots, part...)
	}
	s, err := newComparison(t, c).run("origins", slices.Values(shots))
	report(t, s, err)
	if s.Tracked < rounds/2 {
		t.Errorf("only %d of %d datagrams were tracked", s.Tracked, rounds)
	}
	// With the default each origin's fragments are for themselves: the oracle sees that.
	c.engine = func(e *dataplane.Config) { e.AnyOrigin = false }
	c.stop = 1
	if s, err = newComparison(t, c).run("origins apart", slices.Values(shots)); err != nil || len(s.Differences) == 0 {
		t.Errorf("no difference by default: %+v, %v", s, err)
	}
}
