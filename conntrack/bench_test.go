package conntrack

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

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
			var hash, touch, track time.Duration
			b.ReportAllocs()
			for i := 0; i < b.N; i += len(pkts) {
				for j := range pkts {
					pkts[j] = flows[order[(i+j)&(len(order)-1)]]
				}
				t0 := time.Now()
				tab.Hash(pkts)
				t1 := time.Now()
				tab.Touch(pkts)
				t2 := time.Now()
				for j := range pkts {
					c := tab.Track(&pkts[j], 5000)
					if c.State != StateEstablished {
						b.Fatal(c)
					}
				}
				t3 := time.Now()
				hash, touch, track = hash+t1.Sub(t0), touch+t2.Sub(t1), track+t3.Sub(t2)
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
