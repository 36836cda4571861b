package rules

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"corewire/internal/packet"
)

// TestSharedLeaves: where leaves share the ends of their runs, packets whose transport header is short, for which all runs of a subtree
// are looked at, are judged as by the linear form, also by rules with masks that are no prefix.
func TestSharedLeaves(t *testing.T) {
	shared, short := 0, 0
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 21))
		var b strings.Builder
		b.WriteString("*filter\n:FORWARD DROP [0:0]\n:u - [0:0]\n")
		masks := [][]string{{"32", "27", "24", "24", "24", "16"}, {"32", "27", "24", "255.255.6.0", "24", "255.255.255.15"}}[seed%2]
		address := func() string {
			return fmt.Sprintf("10.0.%d.%d/%s", r.IntN(8), r.IntN(256), masks[r.IntN(6)])
		}
		for _, chain := range []string{"FORWARD", "u"} {
			for range 300 {
				proto := []string{"", " -p 6", " -p udp -m udp", " -p tcp -m tcp", " -p tcp -m tcp"}[r.IntN(5)]
				if strings.Contains(proto, "-m") {
					lo := r.IntN(3000)
					proto += fmt.Sprintf(" --%s %d:%d", []string{"dport", "dport", "sport"}[r.IntN(3)], lo, lo+r.IntN(1500))
				}
				verb := []string{"ACCEPT", "DROP", "u", "u"}[r.IntN(4)]
				if chain == "u" && verb == "u" {
					verb = "RETURN"
				}
				fmt.Fprintf(&b, "-A %s -s %s -d %s%s -j %s\n", chain, address(), address(), proto, verb)
			}
		}
		b.WriteString("COMMIT\n")
		f, err := Parse("leaves", []byte(b.String()), IPv4)
		if err != nil {
			t.Fatal(err)
		}
		rs, err := Compile([]*File{f}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		g := &rs.prog[filterPlace]
		seen := make(map[uint32]bool)
		for _, s := range g.trees {
			shared += g.shares(s, seen)
		}
		m, l := rs.NewMatcher(), newLinear([]*File{f}, IPv4, Options{})
		for range 200 {
			p := shortPacket(r)
			c := Context{State: Invalid}
			var h header
			if h.fill(p, &c); p.Family == 4 && !h.whole {
				short++
			}
			compare(t, m, l, p, &c)
		}
	}
	if shared == 0 || short == 0 {
		t.Errorf("%d leaves share an end, %d packets are short", shared, short)
	}
	t.Logf("%d leaves share an end, %d packets are short", shared, short)
}

// shares counts the leaves below a slot that end as another one does; seen has the places of those met.
func (g *program) shares(s slot, seen map[uint32]bool) (n int) {
	if !s.leaf() {
		before := slot(0)
		for _, c := range g.slots[uint32(s) : uint32(s)+s.mask()+1] {
			if c != before {
				n += g.shares(c, seen)
			}
			before = c
		}
		return n
	}
	if place := uint32(s); place != 0 && seen[place] {
		n = 1
	}
	for ; uint32(s) != 0; s = g.places[uint32(s)] {
		seen[uint32(s)] = true
	}
	return n
}

// shortPacket makes a TCP packet that may end within its header.
func shortPacket(r *rand.Rand) *packet.Packet {
	n := r.IntN(24)
	frame := make([]byte, 14+20+n)
	frame[12] = 8
	h := frame[14:]
	h[0], h[8], h[9] = 0x45, 64, protoTCP
	binary.BigEndian.PutUint16(h[2:], uint16(20+n))
	for _, at := range []int{12, 16} {
		h[at], h[at+2], h[at+3] = 10, byte(r.IntN(8)), byte(r.IntN(256))
	}
	if n >= 14 {
		binary.BigEndian.PutUint16(h[20:], uint16(r.IntN(4500)))
		binary.BigEndian.PutUint16(h[22:], uint16(r.IntN(4500)))
		h[32] = 5 << 4
	}
	sum := uint32(0)
	for at := 0; at < 20; at += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[at:]))
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum+sum>>16))
	p := &packet.Packet{Frame: frame}
	packet.Parse(p)
	return p
}
