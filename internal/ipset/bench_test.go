package ipset

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// benchSet makes a set of n random elements, networks with lengths as a list of routes or of blocked networks has them,
// and returns addresses that are in it, and others.
func benchSet(b *testing.B, kind string, n int) (r *Registry, h *Handle, in, out []packet.Addr) {
	v6 := strings.HasSuffix(kind, "6")
	name := strings.TrimSuffix(kind, "6")
	r = New(Options{})
	family := map[bool]string{false: "inet", true: "inet6"}[v6]
	mustDo(b, r, 0, fmt.Sprintf("create s %s family %s maxelem 2000000", name, family))
	h = r.Lookup("s")
	s := h.set.Load()
	rnd := rand.New(rand.NewPCG(1, uint64(n)))
	draw := func() address {
		if v6 {
			return address{0x20010db8<<32 | uint64(rnd.Uint32()), rnd.Uint64()}
		}
		return address{0, uint64(rnd.Uint32())}
	}
	asked := func(a address) packet.Addr {
		x := packet.Addr{Hi: a.hi, Lo: a.lo}
		if !v6 {
			x.Lo |= 0xffff << 32
		}
		return x
	}
	bt := &batch{r: r, fresh: map[*Set]bool{s: true}}
	for range n {
		f := fields{a: draw(), cidr: uint8(hostBits(v6))}
		if strings.Contains(name, "net") {
			f.cidr -= []uint8{0, 0, 0, 8, 8, 9, 10, 12, 16, 7}[rnd.IntN(10)]
			f.a = f.a.and(prefix(int(f.cidr), v6))
		} else {
			f.cidr = 0
		}
		if strings.Contains(name, "port") {
			f.proto, f.port = 17, 53
		}
		if r := bt.put(s, &f, &extras{packets: unset, bytes: unset, exist: true}); r != done {
			b.Fatal(r)
		}
		if len(in) < asks {
			in = append(in, asked(f.a))
		}
	}
	q := &Query{Dims: 2, Src: 1}
	p := probePacket(address{}, v6)
	for range 100 * asks {
		if p.Src = asked(draw()); !h.Match(q, p, 0, 0) {
			if out = append(out, p.Src); len(out) == asks {
				break
			}
		}
	}
	return r, h, in, out
}

// asks is how many addresses are asked for in turn: so many that what answers them is not all in the processor's first
// caches when the set is large.
const asks = 1 << 16

// BenchmarkMatch looks up addresses that are in sets of several sizes, and addresses that are not.
func BenchmarkMatch(b *testing.B) {
	for _, kind := range []string{"hash:ip", "hash:net", "hash:net,port", "hash:ip6", "hash:net6", "hash:ip,port"} {
		for _, n := range []int{1000, 10000, 100000, 1000000} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				_, h, in, out := benchSet(b, kind, n)
				for _, ask := range []struct {
					name string
					list []packet.Addr
				}{{"in", in}, {"out", out}} {
					b.Run(ask.name, func(b *testing.B) {
						if len(ask.list) == 0 {
							b.Skip("the set has all addresses that were tried")
						}
						q := &Query{Dims: 2, Src: 1}
						p := probePacket(address{}, strings.HasSuffix(kind, "6"))
						i := 0
						for b.Loop() { // its first turn takes away what was reported before
							p.Src = ask.list[i]
							h.Match(q, p, 0, 0)
							if i++; i == len(ask.list) {
								i = 0
							}
						}
						b.ReportMetric(float64(h.set.Load().size())/float64(n), "B/element")
					})
				}
			})
		}
	}
}

func probePacket(a address, v6 bool) *packet.Packet {
	src, dst := netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("10.9.9.9")
	if v6 {
		src, dst = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::1")
	}
	p := &packet.Packet{Frame: packettest.NewUDP(netip.AddrPortFrom(src, 53), netip.AddrPortFrom(dst, 53))}
	packet.Parse(p)
	p.Src = packet.Addr{Hi: a.hi, Lo: a.lo}
	if !v6 {
		p.Src.Lo |= 0xffff << 32
	}
	return p
}

// BenchmarkAdd adds and deletes as packets do.
func BenchmarkAdd(b *testing.B) {
	for _, kind := range []string{"hash:ip", "hash:net"} {
		b.Run(kind, func(b *testing.B) {
			r := New(Options{})
			mustDo(b, r, 0, "create s "+kind+" timeout 10")
			h := r.Lookup("s")
			if err := r.Hold([]*Handle{h}, []*Handle{h}, 0); err != nil {
				b.Fatal(err)
			}
			q := &Query{Dims: 1, Src: 1}
			var ps []*packet.Packet
			for i := range 4096 {
				ps = append(ps, probePacket(address{0, uint64(0x0a000000 + i*7)}, false))
			}
			i := 0
			for b.Loop() {
				h.Add(q, ps[i&4095], 0, 0, Default, false)
				h.Remove(q, ps[i&4095], 0, 0)
				i++
			}
		})
	}
}

// BenchmarkRestore reads a file of a million networks, as at start and reload, and then adds and deletes one of them, as
// an operator does.
func BenchmarkRestore(b *testing.B) {
	const n = 1000000
	var text strings.Builder
	text.WriteString("create s hash:net maxelem 2000000\n")
	for i := range n {
		fmt.Fprintf(&text, "add s %d.%d.%d.0/24\n", 10+i>>16, i>>8&255, i&255)
	}
	src := []byte(text.String())
	for b.Loop() {
		r := New(Options{})
		if err := r.Restore("s", src, false, 0); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(r.Lookup("s").set.Load().size())/n, "B/element")
	}
}
