package ipset

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// twin is the slow and obvious set: a list of elements as text, all of which are looked at for every packet.
type twin struct {
	kind  Kind
	v6    bool
	items []item
}

type item struct {
	text    string
	nomatch bool
	expires int64 // ms; 0: never
}

// at returns the item of that text.
func (w *twin) at(text string) int {
	return slices.IndexFunc(w.items, func(i item) bool { return i.text == text })
}

// canonical writes an element as the set knows it: networks without the bits behind their length.
func canonical(k Kind, e string) string {
	parts := strings.Split(e, ",")
	for i, p := range kindTable[k].parts {
		if p == partNet {
			n, err := netip.ParsePrefix(parts[i])
			if err != nil {
				a := netip.MustParseAddr(parts[i])
				n = netip.PrefixFrom(a, a.BitLen())
			}
			parts[i] = n.Masked().String()
		}
	}
	return strings.Join(parts, ",")
}

// match says what the elements say of a packet: 1, -1 for an exception, or 0.
func (w *twin) match(p *packet.Packet, dirs string, mark uint32, names [2][2]string, now int64) int {
	if w.v6 != (p.Family == 6) && !kindTable[w.kind].neutral {
		return 0
	}
	if w.kind == HashNetIface {
		if r := w.decide(p, dirs, mark, names, now, func(e string) bool { return !strings.Contains(e, "physdev") }); r != 0 {
			return r
		}
		return w.decide(p, dirs, mark, names, now, func(e string) bool { return strings.Contains(e, "physdev") })
	}
	return w.decide(p, dirs, mark, names, now, func(string) bool { return true })
}

func (w *twin) decide(p *packet.Packet, dirs string, mark uint32, names [2][2]string, now int64, asked func(string) bool) int {
	best, answer := []int{-1, -1}, 0
	for _, it := range w.items {
		if !asked(it.text) {
			continue
		}
		if it.expires != 0 && now > it.expires {
			continue
		}
		lens, ok := w.holds(it.text, p, strings.Split(dirs, ","), mark, names)
		// The longer network decides; of two, the first is looked at first.
		if !ok && w.kind == HashNetIface && slices.Compare(lens, best) > 0 {
			best, answer = lens, 0 // a network without the interface hides the shorter ones
		}
		if ok && (slices.Compare(lens, best) > 0 || w.kind == HashNetIface && slices.Equal(lens, best) && answer == 0) {
			best, answer = lens, 1
			if it.nomatch {
				answer = -1
			}
		}
	}
	return answer
}

func (w *twin) holds(e string, p *packet.Packet, dirs []string, mark uint32, names [2][2]string) (lens []int, ok bool) {
	lens = []int{0, 0}
	n := 0
	parts := strings.Split(e, ",")
	for i, part := range kindTable[w.kind].parts {
		src := dirs[i] == "src"
		addr := p.Dst.Netip()
		if src {
			addr = p.Src.Netip()
		}
		if p.Family == 6 {
			addr = p.Dst.Netip6()
			if src {
				addr = p.Src.Netip6()
			}
		}
		switch part {
		case partIP:
			if addr != netip.MustParseAddr(parts[i]) {
				return nil, false
			}
		case partNet:
			x := netip.MustParsePrefix(parts[i])
			if !x.Contains(addr) {
				return nil, false
			}
			lens[n] = x.Bits()
			n++
		case partPort:
			proto, port, ok := strings.Cut(parts[i], ":")
			if !ok {
				port = proto
				if p.Proto != 6 && p.Proto != 17 {
					return nil, false
				}
			} else if num, _ := protocolNumber(proto); num != p.Proto {
				return nil, false
			}
			v := p.DstPort
			if src {
				v = p.SrcPort
			}
			if p.Proto == 1 || p.Proto == 58 {
				v = uint16(p.ICMPType)<<8 | uint16(p.ICMPCode)
			}
			want, _ := strconv.Atoi(port)
			if t, c, ok := strings.Cut(port, "/"); ok {
				a, _ := strconv.Atoi(t)
				b, _ := strconv.Atoi(c)
				want = a<<8 | b
			}
			if int(v) != want {
				return nil, false
			}
		case partMAC:
			m := p.Frame[0:6]
			if src {
				m = p.Frame[6:12]
			}
			if parts[i] != fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5]) {
				return nil, false
			}
		case partMark:
			if parts[i] != fmt.Sprintf("0x%x", mark) {
				return nil, false
			}
		case partIface:
			port := p.In
			if !src {
				port = port.Other()
			}
			name := strings.TrimPrefix(parts[i], "physdev:")
			if name != names[port][0] && name != names[port][1] {
				return lens, false
			}
		}
	}
	return lens, true
}

// randomPacket draws a frame whose fields are those of randomElement.
func randomPacket(r *rand.Rand, p *packet.Packet, k Kind) {
	v6 := r.IntN(2) == 1
	addr := func() netip.Addr {
		if k.Dimensions() == 3 {
			return netip.MustParseAddr(small(r, v6))
		}
		if v6 {
			return netip.MustParseAddr(fmt.Sprintf("2001:db8:%x:%x::%x", r.IntN(2), r.IntN(3), 1+r.IntN(40)))
		}
		return netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", r.IntN(4), r.IntN(48)))
	}
	src, dst := addr(), addr()
	opt := packettest.Ether([6]byte{2, 0, 0, 0, 0, byte(1 + r.IntN(9))}, [6]byte{2, 0, 0, 0, 0, byte(1 + r.IntN(9))})
	ports := func(n int) (netip.AddrPort, netip.AddrPort) {
		base := 0
		if r.IntN(3) == 0 {
			base, n = 1000, 500
		}
		return netip.AddrPortFrom(src, uint16(base+r.IntN(n))), netip.AddrPortFrom(dst, uint16(base+r.IntN(n)))
	}
	var f []byte
	switch r.IntN(6) {
	case 0, 1:
		a, b := ports(4)
		f = packettest.NewTCP(a, b, 0x10, opt)
	case 2, 3:
		a, b := ports(4)
		f = packettest.NewUDP(a, b, opt)
	case 4:
		t := []uint8{0, 3, 8, 11, 1, 128, 135}[r.IntN(7)]
		f = packettest.NewICMPMessage(src, dst, t, uint8(r.IntN(3)), 0, opt, packettest.PayloadLen(40))
	case 5:
		f = packettest.NewIP(src, dst, []uint8{47, 50, 200}[r.IntN(3)], opt, packettest.PayloadLen(24))
	}
	p.Frame, p.In = f, packet.Port(r.IntN(2))
	packet.Parse(p)
}

// TestTwin runs random additions, deletions and packets through a set and its twin.
func TestTwin(t *testing.T) {
	names := [2][2]string{{"inside", "eth0"}, {"outside", "eth1"}}
	for kind := range kinds {
		if kind == ListSet || kind == BitmapIPMAC {
			continue
		}
		for seed := range uint64(4) {
			r := rand.New(rand.NewPCG(uint64(kind), seed))
			v6 := seed%2 == 1 && kind.hash() && !kindTable[kind].neutral
			reg := New(Options{})
			options := ""
			if seed >= 2 {
				options = " timeout 0"
			}
			create, _ := script(r, kind, v6, options, 0)
			if err := reg.Restore("t", []byte(create), false, 0); err != nil {
				t.Fatal(err)
			}
			h := reg.Lookup("s")
			w := &twin{kind: kind, v6: v6}
			now := int64(0)
			hits := 0
			for step := range 2500 {
				now += int64(r.IntN(3))
				switch op := r.IntN(10); {
				case op < 2:
					e := randomElement(r, kind, v6)
					line := []string{"add", "s", e}
					it := item{text: canonical(kind, e)}
					if kindTable[kind].noMatch && r.IntN(4) == 0 {
						line, it.nomatch = append(line, "nomatch"), true
					}
					if options != "" {
						n := r.IntN(4)
						line = append(line, "timeout", fmt.Sprint(n))
						if n > 0 {
							it.expires = now + int64(n)*1000
						}
					}
					at := w.at(it.text)
					if at >= 0 && w.items[at].expires != 0 && now > w.items[at].expires {
						w.items = slices.Delete(w.items, at, at+1)
						at = -1
					}
					_, err := reg.Do(line, false, Tick(now))
					if (err == nil) != (at < 0) {
						t.Fatalf("%s step %d: %v: %v, the twin has it at %d", kind, step, line, err, at)
					}
					if at < 0 {
						w.items = append(w.items, it)
					}
				case op < 3:
					e := randomElement(r, kind, v6)
					if len(w.items) > 0 && r.IntN(4) > 0 {
						e = w.items[r.IntN(len(w.items))].text
					}
					at := w.at(canonical(kind, e))
					late := at >= 0 && w.items[at].expires != 0 && now > w.items[at].expires
					_, err := reg.Do([]string{"del", "s", e}, false, Tick(now))
					if (err == nil) != (at >= 0 && !late) {
						t.Fatalf("%s step %d: del %s: %v, the twin has it at %d", kind, step, e, err, at)
					}
					if at >= 0 {
						w.items = slices.Delete(w.items, at, at+1)
					}
				case op == 3 && r.IntN(20) == 0:
					reg.Maintain(Tick(now))
				default:
					var p packet.Packet
					randomPacket(r, &p, kind)
					if p.Problem != 0 {
						continue
					}
					q := &Query{Dims: uint8(kind.Dimensions())}
					var dirs []string
					for i := range kind.Dimensions() {
						if r.IntN(2) == 0 {
							q.Src |= 1 << i
							dirs = append(dirs, "src")
						} else {
							dirs = append(dirs, "dst")
						}
					}
					for i := range names {
						q.Ports[i] = Names{NameOf(names[i][0]), NameOf(names[i][1])}
					}
					mark := uint32(r.IntN(5))
					want := w.match(&p, strings.Join(dirs, ","), mark, names, now)
					if want != 0 {
						hits++
					}
					q.ReturnNoMatch = r.IntN(3) == 0
					if q.ReturnNoMatch && kindTable[kind].noMatch {
						want = -want
					}
					if got := h.Match(q, &p, Tick(now), mark); got != (want > 0) {
						own, _ := reg.AppendSave(nil, "", true, Tick(now))
						t.Fatalf("%s step %d: %v of %v %v -> %v proto %d ports %d %d: %v, want %d\n%s", kind, step, dirs, p.In, p.Src, p.Dst, p.Proto, p.SrcPort, p.DstPort, got, want, own)
					}
				}
			}
			if hits < 5 {
				t.Errorf("%s v6=%v: %d hits only", kind, v6, hits)
			}
		}
	}
}
