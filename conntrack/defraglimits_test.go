package conntrack

import (
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// TestDefragReasonsOfLate: each fragment of a datagram that was given up says why.
func TestDefragReasonsOfLate(t *testing.T) {
	d := NewDefrag(DefragConfig{Frames: 8, Distance: 2})
	var p packet.Packet
	add := func(id uint32, off int, now Tick) {
		t.Helper()
		f := pieceOf(id, off, off+16, true)
		p = packet.Packet{Frame: f}
		packet.Parse(&p)
		if got := d.Add(&p, packet.Frame{Data: f, Addr: uint64(id)}, now); got != Held {
			t.Fatalf("datagram %d: %v (%v)", id, got, d.Why())
		}
	}
	var out [32]Late
	expect := func(now Tick, want ...Late) {
		t.Helper()
		n := d.Expire(now, out[:])
		if n != len(want) {
			t.Fatalf("%d fragments, want %d", n, len(want))
		}
		for i, w := range want {
			if out[i].Frame.Addr != w.Frame.Addr || out[i].Why != w.Why {
				t.Errorf("fragment %d: of %d, %v; want of %d, %v", i, out[i].Frame.Addr, out[i].Why, w.Frame.Addr, w.Why)
			}
		}
	}
	of := func(id uint64, why DefragReason) Late { return Late{packet.Frame{Addr: id}, why} }
	add(1, 0, 0)
	add(1, 16, 0)
	for id := uint32(2); id < 5; id++ {
		add(id, 0, 1)
	}
	add(1, 32, 2) // three of its sender's since
	expect(2, of(1, DefragRestarted), of(1, DefragRestarted))
	expect(30_001, of(2, DefragTimeout), of(3, DefragTimeout), of(4, DefragTimeout))
	expect(30_002, of(1, DefragTimeout))
	for id := uint32(10); id < 19; id++ {
		add(id, 0, 40_000+Tick(id))
	}
	expect(40_100, of(10, DefragEvicted))
	if c := d.Counters(); c.Restarted != 1 || c.Timeouts != 4 || c.Evicted != 1 {
		t.Errorf("%+v", c)
	}
}

// TestDefragSetLimits: a changed timeout holds for datagrams that begin afterwards, as in Linux, where a queue's timer is
// set when it is made (inet_frag_create), and they expire in the order of their deadlines.
func TestDefragSetLimits(t *testing.T) {
	set, err := DefaultSettings().With("ipfrag_time", 1)
	if err == nil {
		set, err = set.With("ipfrag_high_thresh", 3*(2048+fragQueueCost))
	}
	if err != nil {
		t.Fatal(err)
	}
	d := NewDefrag(DefragConfig{Frames: 64})
	add := func(id uint32, now Tick) DefragResult {
		f := pieceOf(id, 0, 16, true)
		p := packet.Packet{Frame: f}
		packet.Parse(&p)
		return d.Add(&p, packet.Frame{Data: f, Addr: uint64(id)}, now)
	}
	add(1, 0)
	limits := set.Defrag(3)
	if limits.Bytes4 != 2048+fragQueueCost || limits.Bytes6 != 4<<20/3 {
		t.Errorf("the thresholds are not divided: %+v", limits)
	}
	d.SetLimits(limits)
	add(2, 100)
	if got := add(3, 100); got != Broken || d.Why() != DefragMemory {
		t.Errorf("above the threshold: %v (%v)", got, d.Why())
	}
	var out [8]Late
	if n := d.Expire(1100, out[:]); n != 1 || out[0].Frame.Addr != 2 {
		t.Errorf("after the new timeout: %v", out[:n])
	}
	if n := d.Expire(30_000, out[:]); n != 1 || out[0].Frame.Addr != 1 {
		t.Errorf("after the old timeout: %v", out[:n])
	}
	six := packettest.Fragments(packettest.NewUDP(packettest.AP("[fd00::1]:4000"), packettest.AP("[fd00::2]:53"), packettest.PayloadLen(3000)), 7, 1480)
	p := packet.Packet{Frame: six[0]}
	packet.Parse(&p)
	if got := d.Add(&p, packet.Frame{Data: six[0]}, 40_000); got != Held {
		t.Errorf("IPv6 has a threshold of its own: %v (%v)", got, d.Why())
	}
}
