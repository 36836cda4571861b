package rules

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"corewire/internal/packet"
)

// five is one ClassBench rule: ranges of the five fields.
type five struct {
	lo, hi           [4]uint32 // source, destination, source port, destination port
	proto, protoMask uint8
}

// classBench reads a ClassBench set and writes it as a rule file; the lines end with "-j ACCEPT".
func classBench(tb testing.TB, name string) (set []five, text []byte) {
	tb.Helper()
	f, err := os.Open(data + "/classbench/" + name + ".gz")
	if err != nil {
		tb.Skipf("no test data at %s/classbench", data)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("*filter\n:FORWARD DROP [0:0]\n")
	s := bufio.NewScanner(z)
	for s.Scan() {
		var a [10]uint32
		var p [4]uint32
		if _, err := fmt.Sscanf(s.Text(), "@%d.%d.%d.%d/%d %d.%d.%d.%d/%d %d : %d %d : %d 0x%x/0x%x", &a[0], &a[1], &a[2], &a[3], &a[4], &a[5], &a[6], &a[7], &a[8], &a[9],
			&p[0], &p[1], &p[2], &p[3], new(uint32), new(uint32)); err != nil {
			tb.Fatalf("%s: %v: %s", name, err, s.Text())
		}
		var proto, mask uint32
		fmt.Sscanf(strings.Split(s.Text(), "\t")[4], "0x%x/0x%x", &proto, &mask)
		x := five{proto: uint8(proto), protoMask: uint8(mask)}
		for k := range 2 {
			v := a[k*5]<<24 | a[k*5+1]<<16 | a[k*5+2]<<8 | a[k*5+3]
			m := uint32(1)<<(32-a[k*5+4]) - 1
			x.lo[k], x.hi[k] = v&^m, v|m
			x.lo[2+k], x.hi[2+k] = p[2*k], p[2*k+1]
		}
		set = append(set, x)
		fmt.Fprintf(&b, "-A FORWARD -s %d.%d.%d.%d/%d -d %d.%d.%d.%d/%d", a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9])
		switch mod := map[uint32]string{6: "tcp", 17: "udp"}[proto]; {
		case mod != "":
			fmt.Fprintf(&b, " -p %s -m %s --sport %d:%d --dport %d:%d", mod, mod, p[0], p[1], p[2], p[3])
		case mask != 0:
			fmt.Fprintf(&b, " -p %d", proto)
		}
		b.WriteString(" -j ACCEPT\n")
	}
	if err := s.Err(); err != nil && err != io.EOF {
		tb.Fatal(err)
	}
	b.WriteString("COMMIT\n")
	return set, []byte(b.String())
}

// headers draws headers from rules: a rule at random, and in it a place at random, its corners more often.
func headers(set []five, n int, seed uint64) []packet.Packet {
	r := rand.New(rand.NewPCG(seed, 5))
	out := make([]packet.Packet, n)
	for i := range out {
		x := &set[r.IntN(len(set))]
		var v [4]uint32
		for k := range v {
			switch r.IntN(4) {
			case 0:
				v[k] = x.lo[k]
			case 1:
				v[k] = x.hi[k]
			default:
				v[k] = x.lo[k] + uint32(r.Uint64N(uint64(x.hi[k]-x.lo[k])+1))
			}
		}
		proto := x.proto
		if x.protoMask == 0 {
			proto = []uint8{1, 6, 17, 47}[r.IntN(4)]
		}
		p := packet.Packet{Family: 4, Class: packet.ClassIPv4, Proto: proto, Frame: make([]byte, 20), End: 20,
			Src: packet.Addr{Lo: 0xffff<<32 | uint64(v[0])}, Dst: packet.Addr{Lo: 0xffff<<32 | uint64(v[1])}}
		if proto == 6 || proto == 17 {
			p.SrcPort, p.DstPort, p.Flags = uint16(v[2]), uint16(v[3]), packet.PortsValid
		}
		out[i] = p
	}
	return out
}

// first is the first matching rule by brute force, or len(set).
func first(set []five, p *packet.Packet) int {
	v := [4]uint32{uint32(p.Src.Lo), uint32(p.Dst.Lo), uint32(p.SrcPort), uint32(p.DstPort)}
	for i := range set {
		x := &set[i]
		if (p.Proto^x.proto)&x.protoMask != 0 {
			continue
		}
		if v[0] < x.lo[0] || v[0] > x.hi[0] || v[1] < x.lo[1] || v[1] > x.hi[1] {
			continue
		}
		if (x.proto == 6 || x.proto == 17) && (v[2] < x.lo[2] || v[2] > x.hi[2] || v[3] < x.lo[3] || v[3] > x.hi[3]) {
			continue
		}
		return i
	}
	return len(set)
}

func compiled(tb testing.TB, text []byte) *Ruleset {
	tb.Helper()
	f, err := Parse("set", text, IPv4)
	if err != nil {
		tb.Fatal(err)
	}
	start := time.Now()
	rs, err := Compile([]*File{f}, Options{})
	if err != nil {
		tb.Fatal(err)
	}
	g := &rs.prog[0]
	tb.Logf("%d rules compiled in %v: %d entries, %d slots, %d trees, %d bytes (%.1f a rule)", len(g.rules), time.Since(start).Round(time.Millisecond/10),
		len(g.narrow), len(g.slots), len(g.trees), rs.Size(), float64(rs.Size())/float64(len(g.rules)))
	return rs
}

var classBenchSets = []string{"acl1_1k", "acl3_1k", "fw1_1k", "fw3_1k", "ipc1_1k", "acl1_10k", "acl3_10k", "fw1_10k", "fw3_10k", "ipc1_10k", "acl1_100k", "fw1_100k"}

// TestClassBench compares the classifier with brute force on ClassBench sets.
func TestClassBench(t *testing.T) {
	for _, name := range classBenchSets {
		t.Run(name, func(t *testing.T) {
			set, text := classBench(t, name)
			rs := compiled(t, text)
			m := rs.NewMatcher()
			if size := rs.Size(); size > 60*len(set) {
				t.Errorf("%d bytes a rule, want at most 60", size/len(set))
			}
			n := 1500
			if len(set) > 50000 {
				n = 200
			}
			pkts := headers(set, n, 1)
			for i := range pkts {
				if i%BurstSize == 0 {
					m.Prepare(pkts[i:])
				}
				want, c := first(set, &pkts[i]), Context{State: New}
				if got, ahead := int(m.Match(&pkts[i], &c).Rule), int(m.MatchPrepared(i%BurstSize, &pkts[i], &c).Rule); got != want || ahead != want {
					t.Fatalf("header %d: rule %d, prepared %d, want %d", i, got, ahead, want)
				}
			}
		})
	}
}
