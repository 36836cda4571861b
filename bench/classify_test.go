package bench

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"corewire/internal/packet"
	"corewire/rules"
)

// classBench is where the ClassBench rule sets may be; see its SOURCES.md.
const classBench = "../../shared/data/classbench"

// tuple is one ClassBench rule as ranges, or one header when low and high are the same.
type tuple struct {
	lo, hi           [4]uint32 // source, destination, source port, destination port
	proto, protoMask uint8
}

// readSet reads a ClassBench set; raw is the file as it is.
func readSet(tb testing.TB, name string) (set []tuple, raw []byte) {
	tb.Helper()
	f, err := os.Open(filepath.Join(classBench, name+".gz"))
	if err != nil {
		tb.Skipf("no rule sets at %s", classBench)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	s := bufio.NewScanner(z)
	for s.Scan() {
		raw = append(append(raw, s.Bytes()...), '\n')
		var a [10]uint32
		var p [4]uint32
		var proto, mask uint32
		if _, err := fmt.Sscanf(s.Text(), "@%d.%d.%d.%d/%d %d.%d.%d.%d/%d %d : %d %d : %d %v", &a[0], &a[1], &a[2], &a[3], &a[4], &a[5], &a[6], &a[7], &a[8], &a[9],
			&p[0], &p[1], &p[2], &p[3], new(string)); err != nil {
			tb.Fatalf("%s: %v: %s", name, err, s.Text())
		}
		if _, err := fmt.Sscanf(strings.Split(s.Text(), "\t")[4], "0x%x/0x%x", &proto, &mask); err != nil {
			tb.Fatalf("%s: %v: %s", name, err, s.Text())
		}
		x := tuple{proto: uint8(proto), protoMask: uint8(mask)}
		for k := range 2 {
			v := a[k*5]<<24 | a[k*5+1]<<16 | a[k*5+2]<<8 | a[k*5+3]
			m := uint32(1)<<(32-a[k*5+4]) - 1
			x.lo[k], x.hi[k] = v&^m, v|m
			x.lo[2+k], x.hi[2+k] = p[2*k], p[2*k+1]
		}
		set = append(set, x)
	}
	if err := s.Err(); err != nil {
		tb.Fatal(err)
	}
	return set, raw
}

// ruleText writes a set as a rule file.
func ruleText(set []tuple) []byte {
	b := []byte("*filter\n:FORWARD DROP [0:0]\n")
	for i := range set {
		x := &set[i]
		b = append(b, "-A FORWARD"...)
		for k, opt := range []string{" -s ", " -d "} {
			v, m := x.lo[k], ^(x.lo[k] ^ x.hi[k])
			b = fmt.Appendf(b, "%s%d.%d.%d.%d/%d.%d.%d.%d", opt, v>>24, v>>16&255, v>>8&255, v&255, m>>24, m>>16&255, m>>8&255, m&255)
		}
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

// drawHeaders draws headers from rules: a rule at random, in it a place at random, its corners more often.
func drawHeaders(set []tuple, n int) []tuple {
	r := rand.New(rand.NewPCG(2, 5))
	out := make([]tuple, n)
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
		out[i] = tuple{lo: v, hi: v, proto: x.proto, protoMask: 255}
		if x.protoMask == 0 {
			out[i].proto = []uint8{1, 6, 17, 47}[r.IntN(4)]
		}
	}
	return out
}

// BenchmarkClassify judges 65,536 headers drawn from each ClassBench set, and reports the compiled size and time beside.
// Where dpdk-test-acl is installed (Debian: dpdk-dev), the same headers and rules go to it as well: its
// nanoseconds a lookup are reported as acl-scalar-ns and acl-best-ns.
//
//	go test ./bench -run '^$' -bench Classify -benchtime 1s
func BenchmarkClassify(b *testing.B) {
	for _, name := range []string{"acl1_1k", "fw1_1k", "ipc1_1k", "acl1_10k", "acl3_10k", "fw1_10k", "fw3_10k", "ipc1_10k", "acl1_100k", "fw1_100k"} {
		var scalar, best float64 // of the peer, measured once
		asked := false
		b.Run(name, func(b *testing.B) {
			set, raw := readSet(b, name)
			f, err := rules.Parse(name, ruleText(set), rules.IPv4)
			if err != nil {
				b.Fatal(err)
			}
			start := time.Now()
			rs, err := rules.Compile([]*rules.File{f}, rules.Options{})
			if err != nil {
				b.Fatal(err)
			}
			took := time.Since(start)
			list := drawHeaders(set, 65536)
			type small struct { // 16 bytes, as dpdk-test-acl keeps them
				src, dst     uint32
				sport, dport uint16
				proto        uint8
				flags        packet.Flags
			}
			headers := make([]small, len(list))
			for i, x := range list {
				headers[i] = small{src: x.lo[0], dst: x.lo[1], proto: x.proto}
				if x.proto == 6 || x.proto == 17 {
					headers[i].sport, headers[i].dport, headers[i].flags = uint16(x.lo[2]), uint16(x.lo[3]), packet.PortsValid
				}
			}
			m := rs.NewMatcher()
			p := packet.Packet{Family: 4, Class: packet.ClassIPv4, End: 40}
			c := rules.Context{State: rules.New}
			if !asked {
				scalar, best = rteACL(b, name, raw, list)
				asked = true
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				x := &headers[i&65535]
				p.Src.Lo, p.Dst.Lo, p.SrcPort, p.DstPort, p.Proto, p.Flags = uint64(x.src), uint64(x.dst), x.sport, x.dport, x.proto, x.flags
				m.Match(&p, &c)
			}
			b.StopTimer()
			b.ReportMetric(float64(rs.Size())/float64(len(set)), "B/rule")
			b.ReportMetric(float64(took.Microseconds())/1000, "compile-ms")
			if scalar > 0 {
				b.ReportMetric(scalar, "acl-scalar-ns")
				b.ReportMetric(best, "acl-best-ns")
			}
		})
	}
}

var packetsASecond = regexp.MustCompile(`([0-9.]+) pkt/sec`)

// rteACL measures DPDK's classifier; 0 where it is not installed or the set is too large for it.
func rteACL(b *testing.B, name string, raw []byte, headers []tuple) (scalar, best float64) {
	tool, err := exec.LookPath("dpdk-test-acl")
	if err != nil || strings.HasSuffix(name, "100k") {
		return 0, 0
	}
	dir := b.TempDir()
	var trace []byte
	for _, x := range headers {
		trace = fmt.Appendf(trace, "%d\t%d\t%d\t%d\t%d\t0\t0\n", x.lo[0], x.lo[1], x.lo[2], x.lo[3], x.proto)
	}
	if err := os.WriteFile(dir+"/rules", raw, 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(dir+"/trace", trace, 0o600); err != nil {
		b.Fatal(err)
	}
	run := func(alg string) float64 {
		out, _ := exec.Command(tool, "--no-huge", "-m", "2048", "--no-pci", "-l", "0", "--", "--rulesf="+dir+"/rules", "--tracef="+dir+"/trace",
			"--tracenum=65536", "--tracestep=256", "--iter=20", "--alg="+alg, "--verbose=0").CombinedOutput()
		m := packetsASecond.FindSubmatch(out)
		if m == nil {
			return 0
		}
		v, _ := strconv.ParseFloat(string(m[1]), 64)
		return 1e9 / v
	}
	scalar = run("scalar")
	return scalar, min(scalar, run("avx512x16"))
}
