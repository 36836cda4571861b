package main

import (
	"math/rand/v2"
	"net/netip"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
	"corewire/rules"
	"corewire/rules/rulestest"
)

// shaper makes frames for the rules of a file. One goroutine uses it.
type shaper struct {
	*rand.Rand
	version  int
	targets  []aim
	callers  map[string][]aim // by table and chain: the rules that lead there
	opt      rules.Options
	flows    []*flow
	id       uint32 // of the last datagram that was cut into fragments
	addrs    []netip.Addr
	ports    []uint16
	sets     map[string]*rulestest.Set // by name, that rules may ask
	tftp     []*rules.Rule             // such as give connections this helper
	segments bool                      // mostly of TCP, with options of every kind, and long and padded frames
}

func newShaper(r *rand.Rand, f *rules.File, family rules.Family, opt rules.Options) *shaper {
	s := &shaper{Rand: r, version: 4, callers: map[string][]aim{}, opt: opt, id: r.Uint32N(60000)}
	if family == rules.IPv6 {
		s.version = 6
	}
	for _, t := range f.Tables {
		for _, c := range t.Chains {
			if c.Ignored {
				continue
			}
			for _, r := range c.Rules {
				if r.Family&family == 0 {
					continue
				}
				if r.Target.CT != nil && r.Target.CT.Helper == "tftp" {
					s.tftp = append(s.tftp, r)
				}
				a := aim{r, t.Name, c.Name}
				s.targets = append(s.targets, a)
				if v := r.Target.Verb; v == rules.VerbJump || v == rules.VerbGoto {
					s.callers[t.Name+" "+r.Target.Chain] = append(s.callers[t.Name+" "+r.Target.Chain], a)
				}
			}
		}
	}
	return s
}

func (s *shaper) one(n int) bool { return s.IntN(n) == 0 }

func pick[T any](s *shaper, list ...T) T { return list[s.IntN(len(list))] }

// addr returns an address at random, of those that rules have named, or near one.
func (s *shaper) addr() netip.Addr {
	if len(s.addrs) > 0 && !s.one(5) {
		a := s.addrs[s.IntN(len(s.addrs))]
		if s.one(4) {
			if b := a.Next(); b.IsValid() {
				a = b
			}
		}
		return a
	}
	if s.version == 4 {
		return netip.AddrFrom4([4]byte{10, byte(s.IntN(3)), byte(s.IntN(2) * 128), byte(s.IntN(3))})
	}
	b := netip.MustParseAddr("2001:db8::").As16()
	b[5], b[7], b[15] = byte(s.IntN(2)), byte(s.IntN(3)), byte(s.IntN(3))
	return netip.AddrFrom16(b)
}

func (s *shaper) port() uint16 {
	if len(s.ports) > 0 && !s.one(4) {
		return s.ports[s.IntN(len(s.ports))]
	}
	return pick(s, uint16(0), 1, 22, 53, 80, 443, 1024, 8080, 65535, uint16(s.Uint32()))
}

// any returns a shape at random.
func (s *shaper) any() shape {
	x := shape{
		in: packet.Port(s.IntN(2)), src: s.addr(), dst: s.addr(), sport: s.port(), dport: s.port(),
		proto: pick[uint8](s, 6, 6, 6, 17, 17, 17, 1, 1, 132, 136, 33, 47, 50, 51, 58, uint8(s.Uint32())),
		ttl:   uint8(1 + s.IntN(255)), tos: uint8(s.Uint32()), payload: s.IntN(100), source: [6]byte{2, 0, 0, 0, 0, 1}, vlan: -1,
	}
	if s.version == 6 && x.proto == 58 || s.version == 4 && x.proto == 58 {
		x.proto = 1
	}
	x.typ, x.code = pick[uint8](s, 8, 8, 0, 13, 14, 15, 17, 3, 5, 11, 12), uint8(s.IntN(3))
	if s.version == 6 {
		x.typ = pick[uint8](s, 128, 128, 129, 139, 140, 135, 136, 1, 2, 3, 4)
	}
	x.flags = packettest.SYN
	if s.one(3) {
		x.flags = pick[uint8](s, packettest.ACK, packettest.SYN|packettest.ACK, packettest.FIN|packettest.ACK, packettest.RST, packettest.PSH|packettest.ACK, 0, uint8(s.Uint32()))
	}
	if s.one(3) {
		x.options = pick(s, [][]byte{packettest.MSS(uint16(1459 + s.IntN(3)))}, [][]byte{packettest.MSS(1460), packettest.SACKPermitted(), packettest.WindowScale(7)},
			[][]byte{packettest.NOP(2), packettest.Timestamps(1, 2)}, [][]byte{{byte(s.IntN(9)), byte(s.IntN(9)), 0, 1}})
	}
	if s.one(12) {
		x.vlan = s.IntN(3)
	}
	if s.segments {
		s.segment(&x)
	}
	if s.version == 6 && s.one(8) {
		x.routing = []byte{byte(s.IntN(3)), byte(s.IntN(3)), 0, 0, 0, byte(s.IntN(2))}
	}
	if s.one(8) {
		x.headers = s.IntN(4)
	}
	return x
}

// segment makes most shapes segments, and all of any length.
func (s *shaper) segment(x *shape) {
	if !s.one(4) {
		x.proto = packet.ProtoTCP
	}
	x.padded = s.one(2)
	switch s.IntN(4) {
	case 0, 1:
		x.payload = 0
	case 2:
		x.payload = s.IntN(1400)
	}
	x.flags ^= pick[uint8](s, 0, 0, packettest.ECE, packettest.CWR, packettest.ECE|packettest.CWR)
	if s.one(4) {
		return
	}
	x.options = nil
	room := 40
	for range s.IntN(7) {
		size := uint16(s.Uint32())
		if !s.one(4) {
			size = pick[uint16](s, 0, 1, 255, 256, 535, 536, 537, 1219, 1220, 1221, 1400, 1460, 8960, 65495)
		}
		kind := byte(s.Uint32())
		o := pick(s, packettest.MSS(size), packettest.MSS(size), packettest.NOP(1+s.IntN(3)), packettest.NOP(1), packettest.SACKPermitted(), packettest.WindowScale(uint8(s.IntN(15))),
			packettest.Timestamps(s.Uint32(), s.Uint32()), packettest.SACK(s.Uint32(), s.Uint32()), []byte{kind, byte(s.IntN(12)), byte(s.Uint32())}, []byte{0}, []byte{2}, []byte{2, 3, 1},
			[]byte{kind, 0})
		if len(o) > room {
			break
		}
		room -= len(o)
		x.options = append(x.options, o)
	}
}
