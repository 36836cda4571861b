package conntrack

import (
	"testing"

	"corewire/internal/packet/packettest"
)

// Left is what -m conntrack --ctexpire compares: 0 for the packet that begins a connection, as on the running kernel.
func TestLeft(t *testing.T) {
	r := newRig(t, Config{})
	frame := packettest.NewUDP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:53"))
	c := r.track(frame)
	if left := r.tab.Left(&c, r.now); left != 0 {
		t.Errorf("%d s are left to an unconfirmed connection", left)
	}
	if o := r.tab.Confirm(&c, r.now); o != Confirmed {
		t.Fatalf("confirm: %v", o)
	}
	r.now += 500
	c = r.track(frame)
	if left := r.tab.Left(&c, r.now); left != 30 {
		t.Errorf("%d s are left after a packet", left)
	}
	if left := r.tab.Left(&c, r.now+1500); left != 28 {
		t.Errorf("%d s are left 1.5 s later", left)
	}
	if left := r.tab.Left(&Conn{}, r.now); left != 0 {
		t.Errorf("%d s are left without a connection", left)
	}
}
