package conntrack

import (
	"testing"

	"corewire/internal/packet/packettest"
)

// TestGRE: plain GRE is one connection per pair of addresses, and a stream once it was answered.
func TestGRE(t *testing.T) {
	r := newRig(t, Config{})
	a, b := packettest.IP("192.0.2.1"), packettest.IP("192.0.2.2")
	there, back := packettest.NewGRE(a, b, 0x0800), packettest.NewGRE(b, a, 0x0800)
	check := func(left uint32, status uint32) {
		t.Helper()
		var list [4]Info
		if n, _ := r.tab.Dump(0, list[:], r.now); n != 1 || list[0].Left != left*1000 || list[0].Status&(StatusSeenReply|StatusAssured) != status {
			t.Fatalf("%d entries, %d ms left, status %#x; want %d s, %#x", n, list[0].Left, list[0].Status, left, status)
		}
	}
	r.pass(there, StateNew)
	check(30, 0)
	r.after(10_000)
	r.pass(there, StateNew)
	check(30, 0)
	if c := r.pass(back, StateEstablished); c.Dir != Reply {
		t.Error("direction of the answer")
	}
	check(30, StatusSeenReply)
	r.pass(there, StateEstablished)
	check(180, StatusSeenReply|StatusAssured)

	// The timeouts are those of the connection's beginning.
	set, err := DefaultSettings().With("nf_conntrack_gre_timeout_stream", 999)
	if err != nil {
		t.Fatal(err)
	}
	r.tab.SetSettings(set)
	r.pass(back, StateEstablished)
	check(180, StatusSeenReply|StatusAssured)
}

// TestPPTP: version 1 carries only the receiver's call id, so without a control connection each direction of a session
// is a connection of its own; what is not PPP is INVALID.
func TestPPTP(t *testing.T) {
	r := newRig(t, Config{})
	a, b := packettest.IP("192.0.2.1"), packettest.IP("192.0.2.2")
	r.pass(packettest.NewPPTP(a, b, 17), StateNew)
	r.pass(packettest.NewPPTP(b, a, 99), StateNew)
	r.pass(packettest.NewPPTP(a, b, 18), StateNew)
	r.pass(packettest.NewPPTP(a, b, 17), StateNew)
	if n := r.tab.Len(); n != 3 {
		t.Errorf("%d entries, want 3", n)
	}
	wrong := packettest.NewPPTP(a, b, 17)
	wrong[14+20+2] = 0 // protocol type
	r.pass(wrong, StateInvalid)
}

// TestDCCP: Linux 6.16 removed its tracker, so it is a generic connection between two addresses.
func TestDCCP(t *testing.T) {
	r := newRig(t, Config{})
	a, b := packettest.AP("192.0.2.1:100"), packettest.AP("192.0.2.2:200")
	r.pass(packettest.NewDCCP(a, b, 0), StateNew)
	if c := r.pass(packettest.NewDCCP(b, a, 1), StateEstablished); c.Dir != Reply {
		t.Error("direction of the answer")
	}
	r.pass(packettest.NewDCCP(packettest.AP("192.0.2.1:7"), b, 0), StateEstablished)
	var list [4]Info
	if n, _ := r.tab.Dump(0, list[:], r.now); n != 1 || list[0].Left != 600_000 {
		t.Errorf("%d entries, %d ms left", n, list[0].Left)
	}
}
