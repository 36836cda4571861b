package bench

import (
	"fmt"
	"testing"

	"corewire/conntrack"
)

// BenchmarkSizes is the path for IPv4 and IPv6 and for frames of several sizes, with transport checksums verified
// (nf_conntrack_checksum=1, Linux's default) and not, 4096 flows in random order. The ratios are to the same path without
// checksums, and to minimal IPv4 frames with the same setting, run in turn. Frames come from the cache, as with a NIC that
// writes there.
func BenchmarkSizes(b *testing.B) {
	off, err := conntrack.DefaultSettings().With("nf_conntrack_checksum", 0)
	if err != nil {
		b.Fatal(err)
	}
	const flows, packets = 4096, 200_000
	for _, proto := range []struct {
		name string
		make func(flows, family, size int) traffic
	}{{"udp", udpTraffic}, {"tcp", tcpTraffic}} {
		small := proto.make(flows, 4, frameSize)
		for _, family := range []int{4, 6} {
			for _, size := range []int{frameSize, 512, 1514} {
				b.Run(fmt.Sprintf("%s/ipv%d/size=%d", proto.name, family, size), func(b *testing.B) {
					onThread(b)
					t := proto.make(flows, family, size)
					verified, blind, base := newPathWith(b, 0, 1<<16, nil), newPathWith(b, 0, 1<<16, off), newPathWith(b, 0, 1<<16, nil)
					verified.open(b, t)
					blind.open(b, t)
					base.open(b, small)
					var v, o, s figures
					for range rounds {
						v = append(v, verified.cost(b, t, packets))
						o = append(o, blind.cost(b, t, packets))
						s = append(s, base.cost(b, small, packets))
					}
					v.over(o).report(b, "checksum-ratio")
					v.over(s).report(b, "to-minimal-ipv4")
					b.ReportMetric(v.median(), "cpu-ns/pkt")
					once(b)
				})
			}
		}
	}
}

// cost passes n packets of established flows and returns the thread's time for each, in ns.
func (p *path) cost(b *testing.B, t traffic, n int) float64 {
	sent, start := p.f.sent, cpuTime(b)
	p.steady(b, t, n)
	used := cpuTime(b) - start
	if got := p.f.sent - sent; got != n {
		b.Fatalf("%d of %d frames forwarded", got, n)
	}
	return float64(used.Nanoseconds()) / float64(n)
}
