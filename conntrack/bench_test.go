package conntrack

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"

	"golang.org/x/sys/unix"
)

// cpuTime is the time that this thread has run: on a busy machine the only one that means anything. A system call.
func cpuTime(b *testing.B) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// steady locks the goroutine to its thread and returns what reading cpuTime costs.
func steady(b *testing.B) (read time.Duration) {
	runtime.LockOSThread()
	b.Cleanup(runtime.UnlockOSThread)
	const n = 10_000
	t0 := cpuTime(b)
	for range n {
		read = cpuTime(b) - t0
	}
	return read / n
}

// benchFlows makes a table of n established UDP connections and bursts that visit them in random order.
func benchFlows(b *testing.B, n int) (*Table, []packet.Packet) {
	b.Helper()
	set, err := DefaultSettings().With("nf_conntrack_checksum", 0)
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var secret [packet.HasherSecret]uint64
	for i := range secret {
		secret[i] = r.Uint64()
	}
	tab, err := New(Config{Capacity: NewCapacity(2*n+64, 1), Settings: set, Secret: secret})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { tab.Close() })
	tab.Populate(n)
	flows := make([]packet.Packet, n)
	for i := range flows {
		p := &flows[i]
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), uint16(1024+i%50000))
		p.Frame = packettest.NewUDP(src, packettest.AP("192.0.2.1:53"), packettest.PayloadLen(18))
		packet.Parse(p)
		tab.Hash(flows[i : i+1])
		c := tab.Track(p, 0)
		if o := tab.Confirm(&c, 0); o != Confirmed {
			b.Fatal(o)
		}
		p.Flags ^= packet.Flipped
		tab.Track(p, 0)
		p.Flags ^= packet.Flipped
	}
	return tab, flows
}

func BenchmarkTrack(b *testing.B) {
	for _, n := range []int{1, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("flows=%d", n), func(b *testing.B) {
			tab, flows := benchFlows(b, n)
			r := rand.New(rand.NewPCG(3, 4))
			pkts := make([]packet.Packet, 64)
			order := make([]int32, 1<<20)
			for i := range order {
				order[i] = int32(r.IntN(n))
			}
			read := steady(b)
			var hash, touch, track time.Duration
			b.ReportAllocs()
			for i := 0; i < b.N; i += len(pkts) {
				for j := range pkts {
					pkts[j] = flows[order[(i+j)&(len(order)-1)]]
				}
				t0 := cpuTime(b)
				tab.Hash(pkts)
				t1 := cpuTime(b)
				tab.Touch(pkts)
				t2 := cpuTime(b)
				for j := range pkts {
					c := tab.Track(&pkts[j], 5000)
					if c.State != StateEstablished {
						b.Fatal(c)
					}
				}
				t3 := cpuTime(b)
				hash, touch, track = hash+t1-t0-read, touch+t2-t1-read, track+t3-t2-read
			}
			// The packets of a real burst were just parsed; the time to copy them here is not the table's.
			perPacket := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64(b.N) }
			b.ReportMetric(perPacket(hash+touch+track), "ns/pkt")
			b.ReportMetric(perPacket(hash), "ns-hash")
			b.ReportMetric(perPacket(touch), "ns-touch")
			b.ReportMetric(perPacket(track), "ns-track")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkChurn makes connections that live for 30 s and never see a second packet, a million of them at any time:
// what a scan or a flood costs. One operation is one connection made and, 30 s later, swept away. The longest burst,
// with everything that it has to pay for (splitting buckets, sweeping), is reported as well.
func BenchmarkChurn(b *testing.B) {
	tab, err := New(Config{Capacity: NewCapacity(2<<20, 1), Settings: noChecksum(b)})
	if err != nil {
		b.Fatal(err)
	}
	defer tab.Close()
	tab.Populate(1 << 20)
	pkts := make([]packet.Packet, 64)
	var now Tick
	var total, longest time.Duration
	n := 0
	read := steady(b)
	b.ReportAllocs()
	for i := 0; i < b.N+1<<20; i += len(pkts) {
		for j := range pkts {
			flow(i+j, &pkts[j])
		}
		now += 2
		t0 := cpuTime(b)
		tab.Hash(pkts)
		tab.Touch(pkts)
		for j := range pkts {
			c := tab.Track(&pkts[j], now)
			if tab.Confirm(&c, now) != Confirmed {
				b.Fatal("not confirmed")
			}
		}
		tab.Expire(now, 256)
		d := cpuTime(b) - t0 - read
		longest = max(longest, d)
		if i >= 1<<20 { // the table has its million
			total += d
			n += len(pkts)
		}
	}
	b.ReportMetric(float64(total.Nanoseconds())/float64(max(n, 1)), "ns/flow")
	b.ReportMetric(float64(longest.Microseconds()), "longest-burst-µs")
	b.ReportMetric(float64(tab.Len()), "entries")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkSweep passes over a million entries of which none has expired: what expiry costs those that stay.
func BenchmarkSweep(b *testing.B) {
	tab, _ := benchFlows(b, 1<<20)
	var now Tick
	var total time.Duration
	read := steady(b)
	b.ReportAllocs()
	for range b.N {
		for start := now; now-start < sweepInterval; now++ {
			t0 := cpuTime(b)
			tab.Expire(now, 1<<10)
			total += cpuTime(b) - t0 - read
		}
		now -= sweepInterval // the flows must not age
		tab.sweep.started -= sweepInterval
	}
	b.ReportMetric(float64(total.Nanoseconds())/float64(b.N)/(1<<20), "ns/flow")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkResize measures bursts of established traffic over a million flows while the table stays as it is, while
// its buckets are doubled by setting, and while they are halved again: the longest burst, with Expire, is what a worker
// is held up at most. The median tells what is the machine's own unrest.
func BenchmarkResize(b *testing.B) {
	tab, flows := benchFlows(b, 1<<20)
	r := rand.New(rand.NewPCG(5, 6))
	pkts := make([]packet.Packet, 64)
	read := steady(b)
	burst := func() time.Duration {
		for j := range pkts {
			pkts[j] = flows[r.IntN(len(flows))]
		}
		t0 := cpuTime(b)
		tab.Hash(pkts)
		tab.Touch(pkts)
		for j := range pkts {
			tab.Track(&pkts[j], 5000)
		}
		tab.Expire(5000, 64)
		return cpuTime(b) - t0 - read
	}
	few := tab.Buckets()
	tab.index.arena.populate(0, 2*few)
	report := func(name string, d []time.Duration) {
		slices.Sort(d)
		b.ReportMetric(float64(d[len(d)/2].Nanoseconds())/1000, name+"-median-µs")
		b.ReportMetric(float64(d[len(d)*999/1000].Nanoseconds())/1000, name+"-p99.9-µs")
		b.ReportMetric(float64(d[len(d)-1].Nanoseconds())/1000, name+"-longest-µs")
	}
	// Once, whatever b.N is: the table is used up.
	var steady, growing, shrinking []time.Duration
	for range 20_000 {
		steady = append(steady, burst())
	}
	for tab.SetBuckets(2 * few); tab.Buckets() < 2*few; {
		growing = append(growing, burst())
	}
	tab.SetBuckets(0)
	for range 5_000 {
		burst()
	}
	// Three quarters of the flows go, so that the table halves.
	for cursor := uint64(0); ; {
		if _, cursor = tab.Delete(cursor, 1<<12, func(i *Info) bool { return i.Key.APort&3 != 0 || i.Key.BPort&3 != 1 && i.Key.BPort&3 != 0 }, 5000); cursor == 0 {
			break
		}
	}
	for last := tab.Buckets(); ; last = tab.Buckets() {
		shrinking = append(shrinking, burst())
		if tab.Buckets() == last {
			break
		}
	}
	report("steady", steady)
	report("growing", growing)
	report("shrinking", shrinking)
	b.ReportMetric(0, "ns/op")
}
