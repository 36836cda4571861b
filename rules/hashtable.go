package rules

import (
	"encoding/binary"
	"math"

	"corewire/internal/packet"
)

// hashTable is the entries of one name, shared by all workers.
//
// An entry's state is one word that a compare-and-swap changes, and beside it when the entry expires. For packets the
// word is the time, in µs, at which the bucket would be full again (the generic cell rate algorithm, as in bucket): that says
// the same as Linux' credit and time of the last change. For bytes it is the time of the last change in ms and the credit,
// 32 bits each, and a word of its own counts how often the credit may still be filled up. For --hashlimit-rate-match it is the
// interval, see rate.
//
// # What differs from Linux
//
//   - Time: ours goes by milliseconds where Linux' goes by jiffies, of 4 ms with HZ 250.
//   - Linux rounds the credits of a µs down, by 3.4 in 10⁹, and gives so much more packets. Ours are exact: one packet in
//     300 million is judged differently.
//   - Linux' credit overflows when a low rate's entry is left alone for more than 37 hours, and shuts the rule; ours does not.
//     That credit's overflow in a large burst, however, which makes it smaller, is the same here.
//   - An entry that has expired goes with the next pass over the table. Both look at all entries once in GCInterval, but at
//     other times; ours at no more than 256,000 entries a second and table.
//   - Two packets of an address that two workers judge in the same 100 ns may both see the last filling up of the credit
//     of bytes in the other's hand, which then gives it back: the second is above the rate a moment early.
type hashTable struct {
	*store
	name string
	hashConfig
	cost  int64  // µs of a packet; credits of 16 bytes
	slack int64  // µs that the time of being full may be ahead
	rate  uint64 // of an interval's second, with RateMatch
	burst uint64 // of an interval, with RateMatch
}

// hashConfig is what makes two tables of one name equal.
type hashConfig struct {
	bytes, rateMatch bool
	mode             uint8
	v6               bool
	avg, times       uint64
	max              uint32
	gc, expire       uint32
	interval         uint32
	src, dst         packet.Addr // masks
}

// Words of an entry's state.
const (
	hashState  = iota
	hashRefill // bytes: fillings left; rate-match: the interval's count
	hashExpire // ms
	hashWords
)

// configOf returns what a rule wants of its table.
func (m *HashlimitMatch) configOf(v6 bool) hashConfig {
	c := hashConfig{bytes: m.Bytes, rateMatch: m.RateMatch, mode: m.Mode, v6: v6, avg: m.Avg, times: m.Burst, gc: m.GCInterval, expire: m.Expire, interval: m.Interval}
	size := min(m.Size, hashlimitMost)
	if size == 0 {
		size = hashlimitSize
	}
	c.max = min(m.Max, hashlimitMost)
	switch {
	case c.max == 0:
		c.max = 8 * size
	case c.max < size:
		c.max = size
	}
	c.src, c.dst = maskOf(m.SrcMask, v6), maskOf(m.DstMask, v6)
	return c
}

// maskOf returns a mask of so many bits, all for -1, where addresses of IPv4 are in the last four bytes.
func maskOf(length int16, v6 bool) packet.Addr {
	if length < 0 {
		length = 128
	} else if !v6 {
		length += 96
	}
	a := packet.Addr{}
	if length < 64 {
		a.Hi = ^uint64(0) << (64 - length)
	} else {
		a.Hi, a.Lo = ^uint64(0), ^uint64(0)<<(128-length)
	}
	return a
}

// newHashTable makes the table of a name.
func newHashTable(name string, c hashConfig) *hashTable {
	keys, words := 2, hashWords+1 // a cell of 64 bytes
	if c.v6 {
		keys, words = maxKeyWords, hashWords
	}
	t := &hashTable{name: name, hashConfig: c, store: newStore(int(c.max), keys, words)}
	switch {
	case c.rateMatch && c.bytes:
		t.rate = costToBytes(uint64(uint32(c.avg)))
		t.burst = t.rate
		if c.times != 0 {
			t.burst *= c.times
		}
	case c.rateMatch:
		t.rate = hashlimitScale / c.avg
		t.burst = c.times + t.rate
	case c.bytes:
		t.cost = int64(uint64(uint32(c.avg)) * creditsByteFull >> 32)
	default:
		t.cost = int64(c.avg)
		t.slack = int64(c.avg * c.times * creditsMicro / creditsMicro) // as far as 64 bits hold Linux' credits
	}
	return t
}

// take judges a packet: yes says that it is within the rate, short and full that xtables drops
// it, because it has no ports, or the table no room. now is in ns. peek says what take would, and changes nothing.
func (t *hashTable) take(p *packet.Packet, now int64, peek bool) outcome {
	var k storeKey
	if !t.key(p, &k) {
		return short
	}
	ms := now / 1e6
	if peek {
		h, _, _ := t.find(&k)
		if h.cell == 0 {
			return yes // as most first packets would be
		}
		return t.peek(h, p, now)
	}
	var first [hashWords]uint64
	first[hashExpire] = uint64(ms + int64(t.expire))
	switch {
	case t.rateMatch:
		first[hashState] = uint64(uint32(ms)) << 32
	case t.bytes:
		first[hashState] = uint64(uint32(ms))<<32 | creditsByteFull
		first[hashRefill] = t.times
	default:
		first[hashState] = uint64(now / 1e3)
	}
	h, fresh, ok := t.get(&k, first[:]...)
	if !ok {
		return full
	}
	if !fresh {
		if e := t.state(h, hashExpire); e.Load() != first[hashExpire] {
			e.Store(first[hashExpire])
		}
	}
	switch {
	case t.rateMatch:
		return t.countRate(h, p, ms)
	case t.bytes:
		return t.takeBytes(h, p, ms)
	}
	return t.takePacket(h, now/1e3)
}

// takePacket takes a packet's credit. now is in µs.
func (t *hashTable) takePacket(h held, now int64) outcome {
	w := t.state(h, hashState)
	for {
		full := w.Load()
		next, ok := t.packet(int64(full), now)
		if !ok {
			return no
		}
		if w.CompareAndSwap(full, uint64(next)) {
			return yes
		}
	}
}

// packet returns when the bucket would be full after a packet; false when there is no credit for it.
func (t *hashTable) packet(full, now int64) (int64, bool) {
	at := max(full, now)
	ahead := at - now
	if ahead > t.slack {
		at, ahead = now, 0 // the clock began again
	}
	return at + t.cost, ahead+t.cost <= t.slack
}

// takeBytes takes the credit of a packet's bytes (hashlimit_byte_cost). ms is the time.
func (t *hashTable) takeBytes(h held, p *packet.Packet, ms int64) outcome {
	w, left := t.state(h, hashState), t.state(h, hashRefill)
	cost := t.byteCost(p)
	spare := false // a filling up is in hand
	for {
		old := w.Load()
		credit := refilled(old, ms)
		used := false
		if credit < cost {
			if !spare {
				if n := left.Load(); n > 0 {
					if !left.CompareAndSwap(n, n-1) {
						continue
					}
					spare = true
				}
			}
			if spare {
				credit, used = creditsByteFull, true
			}
		}
		o := no
		if credit >= cost {
			credit -= cost
			o = yes
		}
		if w.CompareAndSwap(old, uint64(uint32(ms))<<32|credit) {
			if spare && !used {
				left.Add(1)
			}
			return o
		}
	}
}

func (t *hashTable) byteCost(p *packet.Packet) uint64 {
	return min((uint64(p.End-p.L3)>>hashlimitShift+1)*uint64(t.cost), creditsByteFull)
}

// refilled returns the credit of bytes at a time, of a word with the credit at another.
func refilled(word uint64, ms int64) uint64 {
	gone := uint64(uint32(ms) - uint32(word>>32))
	return min(word&math.MaxUint32+gone*creditsByteMS, creditsByteFull)
}

// Parts of the words of --hashlimit-rate-match. The first is when the interval began (ms, 32 bits), whether the one before
// was above the rate, and the number of the interval. The second is what has been counted, 48 bits, and above it the number
// of the interval that it was counted in: a count of another interval is none.
const (
	rateAbove  = 1 << 31
	rateNumber = 1<<16 - 1
	rateCount  = 1<<48 - 1
)

// countRate counts a packet, and begins the next interval when it is time to.
func (t *hashTable) countRate(h held, p *packet.Packet, ms int64) outcome {
	head, count := t.state(h, hashState), t.state(h, hashRefill)
	cost := uint64(1)
	if t.bytes {
		cost = uint64(p.End - p.L3)
	}
	for {
		w := head.Load()
		if next, due := t.roll(w, count.Load(), ms); due {
			head.CompareAndSwap(w, next)
			continue
		}
		old := count.Load()
		sum := cost
		if old>>48 == w&rateNumber {
			sum += old & rateCount
		}
		if !count.CompareAndSwap(old, w&rateNumber<<48|min(sum, rateCount)) {
			continue
		}
		return answer(w&rateAbove == 0 && sum <= t.burst)
	}
}

// roll returns the first word of the interval that follows, if the one of w is over (rateinfo_recalc).
func (t *hashTable) roll(w, count uint64, ms int64) (uint64, bool) {
	length := uint64(t.interval) * 1000
	gone := uint64(uint32(ms) - uint32(w>>32))
	if gone < length {
		return 0, false
	}
	next := uint64(uint32(ms))<<32 | (w+1)&rateNumber
	if count>>48 == w&rateNumber && count&rateCount*length > gone*t.rate {
		next |= rateAbove
	}
	return next, true
}

// peek is take without taking.
func (t *hashTable) peek(h held, p *packet.Packet, now int64) outcome {
	w, second, ms := t.state(h, hashState).Load(), t.state(h, hashRefill).Load(), now/1e6
	switch {
	case t.rateMatch:
		if next, due := t.roll(w, second, ms); due {
			w, second = next, 0
		}
		if second>>48 != w&rateNumber {
			second = 0
		}
		return answer(w&rateAbove == 0 && second&rateCount < t.burst)
	case t.bytes:
		return answer(refilled(w, ms) >= t.byteCost(p) || second > 0)
	}
	_, ok := t.packet(int64(w), now/1e3)
	return answer(ok)
}

// key writes what a packet is told apart by; false when its ports are asked for and cannot be found (hashlimit_init_dst).
func (t *hashTable) key(p *packet.Packet, k *storeKey) bool {
	var src, dst packet.Addr
	if t.mode&HashSrcIP != 0 {
		src = packet.Addr{Hi: p.Src.Hi & t.src.Hi, Lo: p.Src.Lo & t.src.Lo}
	}
	if t.mode&HashDstIP != 0 {
		dst = packet.Addr{Hi: p.Dst.Hi & t.dst.Hi, Lo: p.Dst.Lo & t.dst.Lo}
	}
	ports := uint64(0)
	if t.mode&(HashSrcPort|HashDstPort) != 0 {
		if endless(p) {
			return false
		}
		if at := portsOffset(p.Proto); at >= 0 && p.Flags&packet.LaterFragment == 0 {
			l4 := int(p.L4) + at
			if int(p.End)-l4 < 4 {
				return false
			}
			if t.mode&HashSrcPort != 0 {
				ports = uint64(binary.BigEndian.Uint16(p.Frame[l4:])) << 16
			}
			if t.mode&HashDstPort != 0 {
				ports |= uint64(binary.BigEndian.Uint16(p.Frame[l4+2:]))
			}
		}
	}
	if t.v6 {
		*k = storeKey{src.Hi, src.Lo, dst.Hi, dst.Lo, ports}
	} else {
		*k = storeKey{src.Lo<<32 | dst.Lo&math.MaxUint32, ports}
	}
	return true
}

// endless says that the extension headers of an IPv6 packet end in none, or beyond it (ipv6_skip_exthdr fails,
// net/ipv6/exthdrs_core.c). It ends at a fragment header with an offset as well.
func endless(p *packet.Packet) bool {
	return p.Problem == packet.ProblemExtHeader && p.Flags&packet.LaterFragment == 0 && (p.Proto != headerFragment || p.L4+4 > p.End)
}

// portsOffset returns where in the transport header Linux looks for two ports (proto_ports_offset,
// include/net/ip.h), or what stands in their place; -1 for protocols without.
func portsOffset(proto uint8) int {
	switch proto {
	case protoTCP, protoUDP, protoUDPLite, protoSCTP, protoDCCP, packet.ProtoESP:
		return 0
	case packet.ProtoAH:
		return 4
	}
	return -1
}

// sweep removes the entries that have expired, of those whose turn it is. ms is the time.
func (t *hashTable) sweep(ms int64) {
	first, n := t.sweepDue(ms, int64(t.gc))
	for i := range n {
		cell := first + i
		if used := t.used.Load(); cell > used {
			cell -= used
		}
		if h, ok := t.at(cell); ok && int64(t.state(h, hashExpire).Load()) <= ms {
			t.remove(h)
		}
	}
}
