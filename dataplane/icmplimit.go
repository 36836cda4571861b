package dataplane

import (
	"sync/atomic"

	"corewire/conntrack"
	"corewire/internal/packet"
)

// ICMPLimits bound the ICMP errors that REJECT rules answer with, as Linux bounds those that it sends (icmpv4_global_allow
// and icmpv4_xrlim_allow in net/ipv4/icmp.c, icmpv6_xrlim_allow in net/ipv6/icmp.c). RSTs have no bound there, and none here.
type ICMPLimits struct {
	// Interval is the time in ms between two errors to one IPv4 host, on average: six at once, if there were none for six
	// times as long. 0: no bound for a host (net.ipv4.icmp_ratelimit).
	Interval int
	// Interval6 is the same for IPv6 hosts (net.ipv6.icmp.ratelimit). Linux 6.12 divides it by up to 16 for hosts to which a
	// short route leads, 6.18.44 no longer does; a wire has no routes.
	Interval6 int
	// Mask has a bit for each type of ICMP errors that is bounded at all: type 3 is what REJECT sends
	// (net.ipv4.icmp_ratemask). Every ICMPv6 error is bounded.
	Mask int
	// PerSecond is how many errors are sent in a second to all hosts together, Burst how many of them at once
	// (net.ipv4.icmp_msgs_per_sec and icmp_msgs_burst). They hold for both families.
	PerSecond, Burst int
}

// Linux's values (icmp_sk_init in net/ipv4/icmp.c and inet6_net_init), of 6.18.
const (
	DefaultICMPInterval  = 1000
	DefaultICMPInterval6 = 100
	DefaultICMPMask      = 1<<3 | 1<<4 | 1<<11 | 1<<12
	DefaultICMPPerSecond = 1000
	DefaultICMPBurst     = 50
)

const (
	icmpHostBurst = 6    // XRLIM_BURST_FACTOR, net/ipv4/inetpeer.c
	icmpRefill    = 20   // ms between two refills of the credit: HZ/50 in icmp_global_allow
	icmpMostSpan  = 1000 // ms that a refill covers at most: HZ

	// A host is remembered while its bucket is not full. With Linux's values of the settings these are no more than some
	// thousands; where there are more than fit, the one whose bucket is full first is forgotten, and has it full at once.
	icmpSets     = 1024
	icmpWays     = 8  // a cache line
	icmpTimeBits = 40 // ms: 34 years
)

// icmpLimiter is what all workers share of it. Only packets that are answered by an ICMP error touch it; there is no lock.
type icmpLimiter struct {
	limits atomic.Pointer[ICMPLimits] // nil: no bound
	credit atomic.Int64               // errors that may be sent
	stamp  atomic.Uint32              // conntrack.Tick of the last refill
	hasher packet.Hasher
	// hosts are sets of icmpWays words: 24 bits of the address's hash, above the time in ms when the host's bucket is
	// full. A word whose time has passed is free.
	hosts []atomic.Uint64
}

func newICMPLimiter(secret [packet.HasherSecret]uint64, l *ICMPLimits) *icmpLimiter {
	m := &icmpLimiter{hasher: packet.NewHasher(secret), hosts: make([]atomic.Uint64, icmpSets*icmpWays)}
	m.set(l)
	return m
}

// set puts limits in force, from the next answer on. Where there were none there is credit at once.
func (m *icmpLimiter) set(l *ICMPLimits) {
	if m.limits.Swap(l) == nil && l != nil {
		m.credit.Store(int64(l.Burst))
	}
}

// SetICMPLimits puts other limits in force, from the next answer on.
func (e *Engine) SetICMPLimits(l ICMPLimits) { e.icmp.set(&l) }

// allow says whether an ICMP error of a type may be sent to a host, and counts it if so. ms is the time of now in ms, which
// does not begin again.
func (m *icmpLimiter) allow(host packet.Addr, family, icmpType uint8, now conntrack.Tick, ms int64) bool {
	l := m.limits.Load()
	if l == nil || family == 4 && l.Mask>>(icmpType&31)&1 == 0 {
		return true
	}
	if m.credit.Load() <= 0 && !m.refill(l, now) {
		return false
	}
	interval := l.Interval
	if family == 6 {
		interval = l.Interval6
	}
	if interval > 0 && !m.allowHost(host, family, int64(interval), ms) {
		return false
	}
	m.credit.Add(-1) // Linux takes 0 to 2 by chance, which is as many (icmp_global_consume)
	return true
}

// refill adds to the credit what has become due since the last time. Of workers that find no credit at once one does it, and
// what the others send meanwhile is taken from what comes (icmp_global_allow).
func (m *icmpLimiter) refill(l *ICMPLimits, now conntrack.Tick) bool {
	last := m.stamp.Load()
	span := min(uint32(now)-last, icmpMostSpan)
	if span < icmpRefill {
		return false
	}
	more := int64(l.PerSecond) * int64(span) / 1000
	if more == 0 {
		return false
	}
	if m.stamp.CompareAndSwap(last, uint32(now)) {
		for {
			old := m.credit.Load()
			if m.credit.CompareAndSwap(old, min(old+more, int64(l.Burst))) {
				break
			}
		}
	}
	return true
}

// allowHost takes the price of an error, interval, from the bucket of a host, which holds icmpHostBurst times as much
// (inet_peer_xrlim_allow). A bucket is the time when it is full.
func (m *icmpLimiter) allowHost(host packet.Addr, family uint8, interval, ms int64) bool {
	h := m.hasher.Sum(&packet.Key{A: host, Family: family})
	set := m.hosts[h%icmpSets*icmpWays:][:icmpWays]
	tag := h >> icmpTimeBits
	for {
		at, word, first, full := 0, uint64(0), int64(1<<icmpTimeBits), ms
		for i := range set {
			v := set[i].Load()
			t := int64(v & (1<<icmpTimeBits - 1))
			if v>>icmpTimeBits == tag && t > ms {
				at, word, full = i, v, t
				break
			}
			if t < first {
				at, word, first = i, v, t
			}
		}
		if full-ms > (icmpHostBurst-1)*interval {
			return false
		}
		if set[at].CompareAndSwap(word, tag<<icmpTimeBits|uint64(full+interval)&(1<<icmpTimeBits-1)) {
			return true
		}
	}
}
