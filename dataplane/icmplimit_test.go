package dataplane

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"corewire/conntrack"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

func linuxLimits() ICMPLimits {
	return ICMPLimits{DefaultICMPInterval, DefaultICMPInterval6, DefaultICMPMask, DefaultICMPPerSecond, DefaultICMPBurst}
}

// limitSecret is the same every time, and as random as a secret must be.
func limitSecret() (s [packet.HasherSecret]uint64) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range s {
		s[i] = r.Uint64()
	}
	return s
}

// slowLimiter is the twin of icmpLimiter: a bucket of tokens for each host, as inet_peer_xrlim_allow has it, and one for all.
type slowLimiter struct {
	tokens, last map[packet.Addr]int64
	credit       int64
	stamp        int64
}

func (s *slowLimiter) allow(l *ICMPLimits, host packet.Addr, family uint8, ms int64) bool {
	if family == 4 && l.Mask&(1<<3) == 0 {
		return true
	}
	if s.credit <= 0 {
		span := min(ms-s.stamp, 1000)
		more := int64(l.PerSecond) * span / 1000
		if span < 20 || more == 0 {
			return false
		}
		s.stamp, s.credit = ms, min(s.credit+more, int64(l.Burst))
	}
	price := int64(l.Interval)
	if family == 6 {
		price = int64(l.Interval6)
	}
	last, known := s.last[host]
	if !known {
		last = ms - 3600_000
	}
	have := min(s.tokens[host]+ms-last, 6*price)
	s.last[host] = ms
	ok := have >= price
	if ok {
		have -= price
		s.credit--
	}
	s.tokens[host] = have
	return ok
}

// Random packets of twenty hosts in random steps of time are limited as by the twin, for several settings.
func TestICMPLimitTwin(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, l := range []ICMPLimits{
		linuxLimits(),
		{Interval: 1000, Interval6: 100, Mask: 0, PerSecond: 1000, Burst: 50},
		{Interval: 0, Interval6: 0, Mask: 8, PerSecond: 100, Burst: 7},
		{Interval: 3, Interval6: 400, Mask: -1, PerSecond: 1 << 30, Burst: 1 << 30},
		{Interval: 1000, Interval6: 100, Mask: 8, PerSecond: 0, Burst: 50},
	} {
		fast := newICMPLimiter(limitSecret(), &l)
		slow := slowLimiter{map[packet.Addr]int64{}, map[packet.Addr]int64{}, int64(l.Burst), 0}
		ms, passed := int64(5000), 0
		for i := range 50_000 {
			if r.IntN(3) == 0 {
				ms += r.Int64N(20)
			}
			family := uint8(4 + 2*r.IntN(2))
			host := packet.Addr{Hi: uint64(family), Lo: r.Uint64N(10)}
			a, b := fast.allow(host, family, icmpUnreachable, conntrack.Tick(ms), ms), slow.allow(&l, host, family, ms)
			if a != b {
				t.Fatalf("%+v, packet %d at %d ms: %v, twin %v", l, i, ms, a, b)
			}
			if a {
				passed++
			}
		}
		if passed == 50_000 || passed < 50 {
			t.Errorf("%+v: %d of 50000 answers", l, passed)
		}
	}
}

// More hosts than there is room for are forgotten one by one, and nobody is refused because of others.
func TestICMPLimitManyHosts(t *testing.T) {
	m := newICMPLimiter(limitSecret(), &ICMPLimits{Interval: 1000, Interval6: 1000, Mask: 8, PerSecond: 1 << 30, Burst: 1 << 30})
	for i := range uint64(8 * icmpSets * icmpWays) {
		if !m.allow(packet.Addr{Lo: i}, 4, icmpUnreachable, 5000, 5000) {
			t.Fatalf("host %d is refused", i)
		}
	}
}

// Several workers together do not give one host more than it may have.
func TestICMPLimitShared(t *testing.T) {
	l := ICMPLimits{Interval: 1000, Interval6: 1000, Mask: 8, PerSecond: 1 << 30, Burst: 1 << 30}
	m := newICMPLimiter(limitSecret(), &l)
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20_000 {
				if m.allow(packet.Addr{Lo: 7}, 4, icmpUnreachable, 5000, 5000) {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if passed.Load() != icmpHostBurst {
		t.Errorf("%d answers", passed.Load())
	}
}

// ICMP errors of REJECT rules are limited and counted, RSTs are not; a live change holds from the next packet on.
func TestRejectLimited(t *testing.T) {
	l := linuxLimits()
	r := newRig(t, 1, rejecting, func(c *Config) { c.ICMP = &l })
	flood := func(frame []byte) int {
		for range 20 {
			r.inject(0, packet.Inside, frame)
		}
		r.step()
		return len(r.out(packet.Inside))
	}
	udp, tcp := pt.NewUDP(client, server), pt.NewTCP(client, pt.AP("10.0.0.2:80"), syn)
	if n := flood(udp); n != icmpHostBurst {
		t.Errorf("%d ICMP errors", n)
	}
	if n := r.stats().Workers[0].Counters.Limited; n != 20-icmpHostBurst {
		t.Errorf("%d counted as limited", n)
	}
	if n := flood(tcp); n != 20 {
		t.Errorf("%d RSTs", n)
	}
	r.e.SetICMPLimits(ICMPLimits{})
	if n := flood(udp); n != 20 {
		t.Errorf("%d ICMP errors without limits", n)
	}
	r.balanced()
}
