package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"corewire/conntrack"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// UDP connections around the moment at which they become streams: both sides change at the same packet of each, though the
// packets of all come within some milliseconds and jiffies begin while they are on their way.
func TestTwoSeconds(t *testing.T) {
	need(t)
	const connections, rounds = 50, 100
	var frames [connections][packet.Ports][]byte
	var shots []shot
	for i := range frames {
		a, b := pt.AP(fmt.Sprintf("10.0.0.1:%d", 1000+i)), pt.AP("10.0.0.2:53")
		frames[i] = [...][]byte{pt.NewUDP(a, b), pt.NewUDP(b, a)}
		shots = append(shots, shot{in: packet.Inside, frame: frames[i][0], sleep: time.Millisecond}, shot{in: packet.Outside, frame: frames[i][1]})
	}
	for round := range rounds {
		for i := range frames {
			s := shot{in: packet.Port(round % 2), frame: frames[i][round%2]}
			switch {
			case i > 0:
			case round > 0:
				s.sleep = time.Millisecond
			default:
				s.sleep = 1850 * time.Millisecond
			}
			shots = append(shots, s)
		}
	}
	c := newComparison(t, newConfig(t, "", "nf_conntrack_udp_timeout=10"))
	s, err := c.run("two seconds", slices.Values(shots))
	report(t, s, err)
	lines, err := c.corewire.table()
	streams := 0
	for _, l := range lines {
		streams += strings.Count(l, "[ASSURED]")
	}
	if err != nil || streams != connections {
		t.Errorf("%d streams of %d, %v", streams, connections, err)
	}
}

// When the tracker looked at a packet, by what the witness saw.
func TestTracked(t *testing.T) {
	const hertz, confirmed = 250, conntrack.StatusConfirmed
	for _, x := range []struct {
		what  string
		proto uint8
		s     witnessSight
		want  uint32
	}{
		{"the first packet in the witness's jiffy", packet.ProtoUDP, witnessSight{Entry: 1, Jiffies: 1000, Stream: 1500, Timeout: 7500}, 1000},
		{"the first packet a jiffy before", packet.ProtoUDP, witnessSight{Entry: 1, Jiffies: 1000, Stream: 1499, Timeout: 7500}, 999},
		{"a further packet", packet.ProtoUDP, witnessSight{Entry: 1, Status: confirmed, Jiffies: 1000, Stream: 600, Timeout: 3500}, 1000},
		{"a further packet two jiffies before", packet.ProtoUDP, witnessSight{Entry: 1, Status: confirmed, Jiffies: 1000, Stream: 600, Timeout: 3498}, 998},
		{"where jiffies begin again", packet.ProtoUDP, witnessSight{Entry: 1, Status: confirmed, Jiffies: 0, Timeout: 2499}, 1<<32 - 1},
		{"a timeout of no whole second", packet.ProtoUDP, witnessSight{Entry: 1, Status: confirmed, Jiffies: 1000, Timeout: 3600}, 1000},
		{"TCP", packet.ProtoTCP, witnessSight{Entry: 1, Status: confirmed, Jiffies: 1000, Timeout: 3499}, 1000},
		{"no connection", packet.ProtoUDP, witnessSight{Jiffies: 1000, Stream: 1499}, 1000},
	} {
		if got := x.s.tracked(x.proto, hertz); got != x.want {
			t.Errorf("%s: jiffy %d, want %d", x.what, got, x.want)
		}
	}
}
