package conntrack

import (
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// TestReset: a connection that a rule resets is CLOSE and stays for the timeout of that state; another one is left alone.
func TestReset(t *testing.T) {
	r := newRig(t, Config{})
	a, b := packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:80")
	c := r.track(packettest.NewTCP(a, b, packet.SYN, packettest.Seq(1)))
	r.tab.Reset(&c, r.now) // not yet in the table: nothing to close
	if o := r.tab.Confirm(&c, r.now); o != Confirmed {
		t.Fatalf("confirm: %v", o)
	}
	if left := r.tab.Left(&c, r.now); left != 120 {
		t.Fatalf("%d s are left to a connection that is being opened", left)
	}
	r.tab.Reset(&c, r.now)
	var i Info
	if !r.tab.Info(&c, &i, r.now) || i.StateName() != "CLOSE" || r.tab.Left(&c, r.now) != 10 {
		t.Errorf("after a reset: %s, %d s left", i.StateName(), r.tab.Left(&c, r.now))
	}
	r.now += 3000
	r.tab.Reset(&c, r.now)
	if left := r.tab.Left(&c, r.now); left != 7 {
		t.Errorf("a second reset leaves %d s", left)
	}
	u := r.track(packettest.NewUDP(a, b))
	r.tab.Confirm(&u, r.now)
	r.tab.Reset(&u, r.now)
	if left := r.tab.Left(&u, r.now); left != 30 {
		t.Errorf("a reset leaves %d s to a connection without states", left)
	}
	r.tab.Reset(&Conn{}, r.now)
}
