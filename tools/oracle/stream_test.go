package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// UDP connections around the moment at which they become a stream: both sides change at the same packet, though the
// packets come a millisecond after one another.
func TestTwoSeconds(t *testing.T) {
	need(t)
	a, b := pt.AP("10.0.0.1:1000"), pt.AP("10.0.0.2:53")
	there, back := pt.NewUDP(a, b), pt.NewUDP(b, a)
	shots := []shot{{in: packet.Inside, frame: there}, {in: packet.Outside, frame: back}}
	for i := range 200 {
		s := shot{in: packet.Port(i % 2), frame: [][]byte{there, back}[i%2], sleep: time.Millisecond}
		if i == 0 {
			s.sleep = 1900 * time.Millisecond
		}
		shots = append(shots, s)
	}
	c := newComparison(t, newConfig(t, "", "nf_conntrack_udp_timeout=10"))
	s, err := c.run("two seconds", slices.Values(shots))
	report(t, s, err)
	lines, err := c.corewire.table()
	if err != nil || len(lines) != 1 || !strings.Contains(lines[0], "[ASSURED]") {
		t.Errorf("%q, %v: want a stream", lines, err)
	}
}
