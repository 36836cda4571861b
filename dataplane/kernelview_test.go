package dataplane

import (
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// TestTags: IP is looked for behind as many VLAN tags as is set, and is a frame of class other behind more.
func TestTags(t *testing.T) {
	for _, c := range []struct {
		tags Tags
		seen int // most tags with which a packet reaches the rules
	}{{NoTags, 0}, {1, 1}, {2, 2}, {AllTags, packet.MaxTags}, {100, packet.MaxTags}} {
		r := newRig(t, 1, "", func(x *Config) { x.Tags = c.tags })
		for n := range packet.MaxTags + 2 {
			ids := make([]uint16, n)
			for i := range ids {
				ids[i] = uint16(i + 1)
			}
			for _, f := range [][]byte{pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:2"), pt.VLAN(ids...)), pt.NewUDP(pt.AP("[fd00::1]:1"), pt.AP("[fd00::2]:2"), pt.VLAN(ids...), pt.HopByHop(nil))} {
				if res := r.send(packet.Inside, f); res.Tracked != (n <= c.seen) || (res.Verdict == Accept) != (n > c.seen) {
					t.Errorf("tags %d: %d tags: %+v", c.tags, n, res)
				}
			}
		}
		r.e.workers[0].policy[packet.ClassOther] = Block
		if res := r.send(packet.Inside, pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:2"), pt.VLAN(1, 2, 3, 4, 5, 6, 7, 8, 9))); res.Reason != DropClass {
			t.Errorf("tags %d: nine tags, class other blocked: %+v", c.tags, res)
		}
	}
}

// TestLateHopByHop: a packet whose hop-by-hop options Linux finds wrong behind connection tracking refreshes its connection,
// begins none, is counted by no rule, and dropped.
func TestLateHopByHop(t *testing.T) {
	r := newRig(t, 1, "-A FORWARD -j ACCEPT", nil)
	a, b := pt.IP("fd00::1"), pt.IP("fd00::2")
	bad := []pt.Option{pt.AtomicFragment(3), pt.HopByHop([]byte{9, 200, 1}), pt.PayloadLen(8)}
	late := func(what string, in packet.Port, f []byte, entries int) {
		t.Helper()
		if res := r.send(in, f); res.Reason != headerReason(packet.ProblemHopByHop) || res.Tracked {
			t.Errorf("%s: %+v", what, res)
		}
		if n := r.e.workers[0].table.Len(); n != entries {
			t.Errorf("%s: %d entries, want %d", what, n, entries)
		}
	}
	late("first packet", packet.Inside, pt.NewIP(a, b, 253, bad...), 0)
	r.send(packet.Inside, pt.NewIP(a, b, 253))
	r.now += 1000
	late("reply", packet.Outside, pt.NewIP(b, a, 253, bad...), 1)
	if res := r.send(packet.Inside, pt.NewIP(a, b, 253)); res.State.String() != "ESTABLISHED" {
		t.Errorf("the reply did not count: %+v", res)
	}
	// Options that show only once the datagram is whole.
	whole := pt.NewIP(b, a, 253, pt.HopByHop([]byte{9, 200, 1}), pt.PayloadLen(40))
	whole[20] = 99
	var parts [][]byte
	for _, f := range pt.Fragments(whole, 7, 16) {
		f[packet.EthernetHeader+40] = 0
		parts = append(parts, f)
	}
	for _, f := range parts[:len(parts)-1] {
		if res := r.send(packet.Outside, f); res.Verdict != Hold {
			t.Errorf("fragment: %+v", res)
		}
	}
	late("datagram", packet.Outside, parts[len(parts)-1], 1)
	_, counters, err := r.e.RuleCounters(t.Context())
	if err != nil || counters[0].Packets != 2 {
		t.Errorf("rule counted %+v, %v", counters[0], err)
	}
	r.balanced()
}
