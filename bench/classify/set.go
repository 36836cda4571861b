package main

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// tuple is one rule as ranges, or one header when low and high are the same.
type tuple struct {
	lo, hi           [4]uint32 // source, destination, source port, destination port
	proto, protoMask uint8
}

// readSet reads a ClassBench set.
func readSet(dir, name string) ([]tuple, error) {
	f, err := os.Open(filepath.Join(dir, name+".gz"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	var set []tuple
	s := bufio.NewScanner(z)
	for s.Scan() {
		var a [10]uint32
		var p [4]uint32
		var proto, mask string
		line := strings.ReplaceAll(s.Text(), "/", " ")
		if _, err := fmt.Sscanf(line, "@%d.%d.%d.%d %d %d.%d.%d.%d %d %d : %d %d : %d %s %s", &a[0], &a[1], &a[2], &a[3], &a[4], &a[5], &a[6], &a[7], &a[8], &a[9],
			&p[0], &p[1], &p[2], &p[3], &proto, &mask); err != nil {
			return nil, fmt.Errorf("read %s, rule %d: %w", name, len(set)+1, err)
		}
		v, err1 := strconv.ParseUint(proto, 0, 8)
		m, err2 := strconv.ParseUint(mask, 0, 8)
		if err1 != nil || err2 != nil || a[4] > 32 || a[9] > 32 {
			return nil, fmt.Errorf("read %s, rule %d: %s", name, len(set)+1, s.Text())
		}
		x := tuple{proto: uint8(v), protoMask: uint8(m)}
		for k := range 2 {
			x.prefix(k, a[k*5]<<24|a[k*5+1]<<16|a[k*5+2]<<8|a[k*5+3], int(a[k*5+4]))
			x.lo[2+k], x.hi[2+k] = p[2*k], p[2*k+1]
		}
		set = append(set, x)
	}
	return set, s.Err()
}

// prefix sets address k to a prefix of n bits.
func (x *tuple) prefix(k int, v uint32, n int) {
	m := uint32(1<<(32-n) - 1)
	x.lo[k], x.hi[k] = v&^m, v|m
}

// length returns the length of prefix k.
func (x *tuple) length(k int) int {
	n := 32
	for m := x.lo[k] ^ x.hi[k]; m != 0; m >>= 1 {
		n--
	}
	return n
}

func dotted(v uint32) string { return fmt.Sprintf("%d.%d.%d.%d", v>>24, v>>16&255, v>>8&255, v&255) }

// classBenchText writes a set as ClassBench and dpdk-test-acl have it.
func classBenchText(set []tuple) []byte {
	var b []byte
	for i := range set {
		x := &set[i]
		b = fmt.Appendf(b, "@%s/%d\t%s/%d\t%d : %d\t%d : %d\t0x%02x/0x%02x\n", dotted(x.lo[0]), x.length(0), dotted(x.lo[1]), x.length(1), x.lo[2], x.hi[2], x.lo[3], x.hi[3], x.proto, x.protoMask)
	}
	return b
}

// ruleText writes a set as a rule file.
func ruleText(set []tuple) []byte {
	b := []byte("*filter\n:FORWARD DROP [0:0]\n")
	for i := range set {
		x := &set[i]
		b = fmt.Appendf(b, "-A FORWARD -s %s/%d -d %s/%d", dotted(x.lo[0]), x.length(0), dotted(x.lo[1]), x.length(1))
		switch mod := map[uint8]string{6: "tcp", 17: "udp"}[x.proto]; {
		case mod != "":
			b = fmt.Appendf(b, " -p %s -m %s --sport %d:%d --dport %d:%d", mod, mod, x.lo[2], x.hi[2], x.lo[3], x.hi[3])
		case x.protoMask != 0:
			b = fmt.Appendf(b, " -p %d", x.proto)
		}
		b = append(b, " -j ACCEPT\n"...)
	}
	return append(b, "COMMIT\n"...)
}

// makeSet makes a set of n rules of a kind, "flat" or "deep"; the same at each call.
//
// Networks are made as providers give them: a few large blocks, in them customers' networks, in these hosts, so that prefixes
// share their beginnings. The last rules are wide, as in real sets.
func makeSet(kind string, n int) []tuple {
	r := rand.New(rand.NewPCG(uint64(n), uint64(kind[0])))
	blocks := make([]uint32, 12)
	for i := range blocks {
		blocks[i] = r.Uint32() &^ 0xffff
	}
	nets := make([]uint32, 40+n/40)
	for i := range nets {
		nets[i] = blocks[r.IntN(len(blocks))] | r.Uint32()&0xff00
	}
	services := []uint32{22, 25, 53, 80, 110, 123, 143, 161, 389, 443, 445, 993, 1433, 1521, 3306, 3389, 5432, 6379, 8080, 8443}
	addr := func(x *tuple, k int, wide int) {
		switch at := r.IntN(100); {
		case at < wide:
			x.prefix(k, 0, 0)
		case at < wide+15:
			x.prefix(k, blocks[r.IntN(len(blocks))], 16)
		case at < wide+45:
			x.prefix(k, nets[r.IntN(len(nets))], 24)
		case at < wide+55:
			x.prefix(k, nets[r.IntN(len(nets))]|r.Uint32()&0xff, 26+r.IntN(5))
		default:
			x.prefix(k, nets[r.IntN(len(nets))]|r.Uint32()&0xff, 32)
		}
	}
	port := func(x *tuple, k int, wide, ranges int) {
		switch at := r.IntN(100); {
		case at < wide:
			x.lo[k], x.hi[k] = 0, 65535
		case at < wide+ranges/2:
			x.lo[k], x.hi[k] = 1024, 65535
		case at < wide+ranges:
			x.lo[k] = uint32(r.IntN(60000))
			x.hi[k] = x.lo[k] + uint32(r.IntN(5000))
		default:
			x.lo[k] = services[r.IntN(len(services))]
			if r.IntN(3) == 0 {
				x.lo[k] = uint32(1024 + r.IntN(40000))
			}
			x.hi[k] = x.lo[k]
		}
	}
	seen := make(map[tuple]bool, n)
	set := make([]tuple, 0, n)
	for len(set) < n {
		x := tuple{hi: [4]uint32{0, 0, 65535, 65535}, proto: 6, protoMask: 255}
		switch at := r.IntN(100); {
		case at < 28:
			x.proto = 17
		case at < 33:
			x.proto = 1
		case at < 40:
			x.proto, x.protoMask = 0, 0
		}
		if kind == "flat" {
			addr(&x, 0, 25)
			addr(&x, 1, 2)
		} else {
			addr(&x, 0, 35)
			addr(&x, 1, 30)
		}
		if x.proto == 6 || x.proto == 17 {
			if kind == "flat" {
				port(&x, 2, 98, 1)
				port(&x, 3, 8, 20)
			} else {
				port(&x, 2, 60, 25)
				port(&x, 3, 25, 35)
			}
		}
		// What is wide comes late: a wide rule in front would hide the rest.
		if specific := x.length(0) + x.length(1); specific < 24 && len(set) < n-n/50 || seen[x] {
			continue
		}
		seen[x] = true
		set = append(set, x)
	}
	return set
}
