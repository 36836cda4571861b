package dataplane

import (
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// FuzzFrames passes any frame through a wire with two workers, twice from each port: nothing panics, and every chunk
// comes back.
func FuzzFrames(f *testing.F) {
	f.Add(pt.NewTCP(client, server, syn))
	f.Add(pt.NewUDP(c6, s6, pt.PayloadLen(10)))
	f.Add(pt.NewARP())
	f.Add(pt.Fragments(pt.NewUDP(client, server, pt.PayloadLen(2000)), 1, 800)[1])
	f.Add(pt.NewICMPError(pt.IP("10.9.9.9"), pt.IP("10.0.0.1"), 3, 1, 0, pt.NewUDP(client, server), 28))
	r := newRig(f, 2, web, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > 1500 {
			return
		}
		r.t = t
		for _, port := range []packet.Port{packet.Inside, packet.Outside, packet.Inside, packet.Outside} {
			r.inject(int(b[0])%2, port, b)
			r.settle()
			r.out(packet.Inside)
			r.out(packet.Outside)
			r.now += 700
		}
		r.settle()
		if l := r.balanced(); l.RX != 0 || l.TX != 0 || l.HandedOff != 0 {
			t.Fatalf("frames left behind: %+v", l)
		}
	})
}
