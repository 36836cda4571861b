package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// flowTable is a table by itself, as a worker uses it.
type flowTable struct {
	*conntrack.Table
	pkts [64]packet.Packet
}

func newFlowTable(b *testing.B, max int) *flowTable {
	b.Helper()
	set, err := conntrack.DefaultSettings().With("nf_conntrack_checksum", 0)
	if err != nil {
		b.Fatal(err)
	}
	t, err := conntrack.New(conntrack.Config{Capacity: conntrack.NewCapacity(max, 1), Settings: set})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { t.Close() })
	t.Populate(max)
	return &flowTable{Table: t}
}

// begin parses the first packet of UDP connections between the ends that end gives, and makes one of them in the table for
// each. It returns the table's time; now is that of all 64.
func (t *flowTable) begin(b *testing.B, frames *[64][]byte, now conntrack.Tick) time.Duration {
	for i := range t.pkts {
		t.pkts[i].Frame = frames[i]
		packet.Parse(&t.pkts[i])
	}
	start := cpuTime(b)
	t.Hash(t.pkts[:])
	t.Touch(t.pkts[:])
	for i := range t.pkts {
		c := t.Track(&t.pkts[i], now)
		if !c.Fresh {
			b.Fatalf("connection %v is known", t.pkts[i].Key)
		}
		if o := t.Confirm(&c, now); o != conntrack.Confirmed {
			b.Fatal(o)
		}
	}
	return cpuTime(b) - start
}

// frames64 is room for a burst of UDP frames whose ends are written into them.
func frames64(family int) (f [64][]byte) {
	c, s := flow(0, family)
	for i := range f {
		f[i] = packettest.NewUDP(c, s)
	}
	return f
}

// setEnds4 writes addresses and ports into an IPv4 UDP frame and mends the header's checksum, which Parse verifies.
func setEnds4(f []byte, src, dst uint32, sport, dport uint16) {
	binary.BigEndian.PutUint32(f[26:], src)
	binary.BigEndian.PutUint32(f[30:], dst)
	binary.BigEndian.PutUint16(f[34:], sport)
	binary.BigEndian.PutUint16(f[36:], dport)
	binary.BigEndian.PutUint16(f[24:], 0)
	binary.BigEndian.PutUint16(f[24:], packet.Checksum(packet.SumBytes(0, f[14:34])))
}

// setEnds6 writes the low halves of the addresses, and ports, into an IPv6 UDP frame.
func setEnds6(f []byte, src, dst uint32, sport, dport uint16) {
	binary.BigEndian.PutUint32(f[34:], src)
	binary.BigEndian.PutUint32(f[50:], dst)
	binary.BigEndian.PutUint16(f[54:], sport)
	binary.BigEndian.PutUint16(f[56:], dport)
}

// BenchmarkFlows makes UDP connections that never see a second packet and expire after 30 s, with a million in the table
// at any time: one new for each that goes. ns are the thread's own time in the table, both the making and the sweep in it,
// and only the sweep; parsing is not. Mflows/s is the reciprocal, for one core. (TestBytesPerEntry of package conntrack
// counts the memory: the key of an entry has room for IPv6 in either case.)
func BenchmarkFlows(b *testing.B) {
	const flows = 1 << 20
	for _, family := range []int{4, 6} {
		b.Run(fmt.Sprintf("ipv%d", family), func(b *testing.B) {
			onThread(b)
			t := newFlowTable(b, 2*flows)
			frames := frames64(family)
			set := setEnds4
			if family == 6 {
				set = setEnds6
			}
			var now conntrack.Tick
			n := uint32(0)
			var made, swept time.Duration
			turn := func() {
				for i := range frames {
					// A bijection of the counter: no connection comes twice.
					x := n * 0x9e3779b1
					set(frames[i], 10<<24|x&0xffffff, 172<<24|x>>24, uint16(1024+n>>20), 53)
					n++
				}
				now += 2 // 2 ms for 64 connections: about a million live for 30 s
				made += t.begin(b, &frames, now)
				start := cpuTime(b)
				t.Expire(now, 64)
				swept += cpuTime(b) - start
			}
			read := clockCost(b)
			for t.Len() < 900_000 {
				turn()
			}
			for range 16 * 1024 { // the first have expired, the sweep is at work
				turn()
			}
			var all, sweep, rate figures
			expired := t.expired()
			const turns = 4096
			for range rounds {
				made, swept = 0, 0
				for range turns {
					turn()
				}
				made, swept = made-turns*read, swept-turns*read
				per := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / (turns * 64) }
				all, sweep, rate = append(all, per(made+swept)), append(sweep, per(swept)), append(rate, 1000/per(made+swept))
			}
			if gone := t.expired() - expired; gone < rounds*turns*64*9/10 {
				b.Fatalf("%d connections expired of %d made", gone, rounds*turns*64)
			}
			all.report(b, "ns/flow")
			sweep.report(b, "ns-expiry/flow")
			rate.report(b, "Mflows/s")
			once(b)
		})
	}
}

// expired returns how many connections have been swept away.
func (t *flowTable) expired() uint64 {
	var s conntrack.Counters
	t.Stats(&s)
	return s.Expired
}

// clockCost is what reading cpuTime costs.
func clockCost(b *testing.B) time.Duration {
	const n = 10_000
	start := cpuTime(b)
	for range n {
		cpuTime(b)
	}
	return (cpuTime(b) - start) / n
}

// BenchmarkFlowsFlood makes a quarter of a million connections, three ways, and visits them in random order: random ends;
// sequential addresses and ports; and ends that all have one value of the Toeplitz hash that NICs and the hand-off between
// workers use, which anybody can compute since its key is public. Reported is the time of making and of visiting one, as
// ratios to the random ones made and visited in turn.
func BenchmarkFlowsFlood(b *testing.B) {
	const flows = 1 << 18
	onThread(b)
	r := rand.New(rand.NewPCG(3, 1))
	frame := frames64(4)[0]
	p := packet.Packet{Frame: frame}
	rss := func(src, dst uint32, sport, dport uint16) uint32 {
		setEnds4(frame, src, dst, sport, dport)
		packet.Parse(&p)
		return packet.SymmetricHash(&p)
	}
	const sum = 1 ^ 2 ^ 3 ^ 4
	want := rss(1, 2, 3, 4)
	type ends struct {
		src, dst     uint32
		sport, dport uint16
	}
	ways := []struct {
		name string
		make func(i uint32) ends
	}{
		{"random", func(uint32) ends { return ends{r.Uint32(), r.Uint32(), uint16(r.Uint32()), uint16(r.Uint32())} }},
		{"sequential", func(i uint32) ends { return ends{10<<24 | i>>4, 172<<24 | i&3, uint16(1024 + i), 53} }},
		// The key repeats every 16 bits, so that the hash depends on the sum modulo 2 of all 16-bit words only: the last port
		// mends whatever the rest is.
		{"chosen", func(uint32) ends {
			e := ends{r.Uint32(), r.Uint32(), uint16(r.Uint32()), 0}
			e.dport = uint16(e.src>>16^e.src^e.dst>>16^e.dst) ^ e.sport ^ sum
			return e
		}},
	}
	var making, visiting [3]figures
	for range rounds {
		for k, way := range ways {
			t := newFlowTable(b, 2*flows)
			frames := frames64(4)
			seen := make(map[ends]bool, flows)
			list := make([]ends, 0, flows)
			for i := uint32(0); len(list) < flows; i++ {
				e := way.make(i)
				if back := (ends{e.dst, e.src, e.dport, e.sport}); !seen[e] && !seen[back] {
					seen[e] = true
					list = append(list, e)
				}
				if k == 2 && rss(e.src, e.dst, e.sport, e.dport) != want {
					b.Fatal("the ends chosen have another hash")
				}
			}
			var made, visited time.Duration
			for at := 0; at < flows; at += 64 {
				for i, e := range list[at : at+64] {
					setEnds4(frames[i], e.src, e.dst, e.sport, e.dport)
				}
				made += t.begin(b, &frames, 1)
				t.Expire(1, 64)
			}
			for range flows / 64 {
				for i := range frames {
					e := list[r.IntN(flows)]
					setEnds4(frames[i], e.src, e.dst, e.sport, e.dport)
					t.pkts[i].Frame = frames[i]
					packet.Parse(&t.pkts[i])
				}
				start := cpuTime(b)
				t.Hash(t.pkts[:])
				t.Touch(t.pkts[:])
				for i := range t.pkts {
					if c := t.Track(&t.pkts[i], 1); c.Fresh {
						b.Fatal("a connection is not there")
					}
				}
				visited += cpuTime(b) - start
			}
			making[k] = append(making[k], float64(made.Nanoseconds())/flows)
			visiting[k] = append(visiting[k], float64(visited.Nanoseconds())/flows)
			if err := t.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	for k, way := range ways[1:] {
		making[k+1].over(making[0]).report(b, way.name+"-make-ratio")
		visiting[k+1].over(visiting[0]).report(b, way.name+"-visit-ratio")
	}
	b.ReportMetric(making[0].median(), "random-make-ns")
	b.ReportMetric(visiting[0].median(), "random-visit-ns")
	once(b)
}
