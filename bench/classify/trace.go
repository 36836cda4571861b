package main

import (
	"fmt"
	"math/rand/v2"
)

// trace draws n headers from a set, the same at each call; scale is that of the Pareto distribution (shape 1) of how often
// one is repeated.
func trace(set []tuple, n int, scale float64) []tuple {
	r := rand.New(rand.NewPCG(2, uint64(len(set))))
	out := make([]tuple, 0, n)
	for len(out) < n {
		x := &set[r.IntN(len(set))]
		h := tuple{proto: x.proto, protoMask: 255}
		for k := range h.lo {
			switch r.IntN(4) {
			case 0:
				h.lo[k] = x.lo[k]
			case 1:
				h.lo[k] = x.hi[k]
			default:
				h.lo[k] = x.lo[k] + uint32(r.Uint64N(uint64(x.hi[k]-x.lo[k])+1))
			}
		}
		if x.protoMask == 0 {
			h.proto = []uint8{1, 6, 17, 47}[r.IntN(4)]
		}
		if h.proto != 6 && h.proto != 17 {
			h.lo[2], h.lo[3] = 0, 0
		}
		h.hi = h.lo
		times := 1
		if scale > 0 {
			times = max(1, int(min(scale/(1-r.Float64()), 10000)+0.5))
		}
		for range min(times, n-len(out)) {
			out = append(out, h)
		}
	}
	return out
}

// traceText writes headers as dpdk-test-acl reads them.
func traceText(headers []tuple) []byte {
	var b []byte
	for i := range headers {
		x := &headers[i]
		b = fmt.Appendf(b, "%d\t%d\t%d\t%d\t%d\t0\t0\n", x.lo[0], x.lo[1], x.lo[2], x.lo[3], x.proto)
	}
	return b
}

// first returns the first rule of a set that holds a header, by brute force, or len(set).
func first(set []tuple, h *tuple) int {
	for i := range set {
		x := &set[i]
		if (h.proto^x.proto)&x.protoMask != 0 {
			continue
		}
		in := true
		for k := range x.lo {
			in = in && x.lo[k] <= h.lo[k] && h.lo[k] <= x.hi[k]
		}
		if in {
			return i
		}
	}
	return len(set)
}
