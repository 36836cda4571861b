package conntrack

import (
	"math/rand/v2"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// rig is a Table with a clock of its own, for tests that play packets by hand.
type rig struct {
	t   testing.TB
	tab *Table
	now Tick
}

// newRig makes a small table; the clock starts shortly before it wraps.
func newRig(t testing.TB, c Config) *rig {
	t.Helper()
	if c.Reserve == 0 {
		c.Reserve = 4096
	}
	if c.Capacity == nil {
		c.Capacity = NewCapacity(c.Reserve-64, 1)
	}
	if c.Secret[0] == 0 {
		r := rand.New(rand.NewPCG(11, 12))
		for i := range c.Secret {
			c.Secret[i] = r.Uint64()
		}
	}
	tab, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tab.Close(); err != nil {
			t.Error(err)
		}
		if n := c.Capacity.Used(); n != 0 && c.Capacity.shards == 1 {
			t.Errorf("%d credits lost", n)
		}
	})
	return &rig{t: t, tab: tab, now: 0xffffff00}
}

// parse makes a packet of a frame.
func (r *rig) parse(frame []byte) *packet.Packet {
	ps := make([]packet.Packet, 1)
	ps[0].Frame = frame
	packet.Parse(&ps[0])
	r.tab.Hash(ps)
	r.tab.Touch(ps)
	return &ps[0]
}

// track plays a frame and leaves a fresh connection open.
func (r *rig) track(frame []byte) Conn { return r.tab.Track(r.parse(frame), r.now) }

// pass plays a frame that the rules accept, and checks its state.
func (r *rig) pass(frame []byte, want State) Conn {
	r.t.Helper()
	c := r.track(frame)
	if c.State != want {
		r.t.Fatalf("state %v (%v), want %v", c.State, r.tab.Why(), want)
	}
	if c.Fresh {
		if o := r.tab.Confirm(&c, r.now); o != Confirmed {
			r.t.Fatalf("confirm: %v", o)
		}
	}
	return c
}

// after turns the clock.
func (r *rig) after(ms Tick) { r.now += ms }

// lines returns the listing.
func (r *rig) lines(f Format) []string {
	var out []string
	buf := make([]Info, 3)
	for cursor := uint64(0); ; {
		n, next := r.tab.Dump(cursor, buf, r.now)
		for i := range buf[:n] {
			out = append(out, string(buf[i].AppendLine(nil, f)))
		}
		if cursor = next; cursor == 0 {
			return out
		}
	}
}

// one checks that the listing is a single line.
func (r *rig) one(want string) {
	r.t.Helper()
	got := r.lines(FormatConntrack)
	if len(got) != 1 || got[0] != want {
		r.t.Fatalf("listing\n%q, want\n%q", got, want)
	}
}

const (
	client = "192.168.1.6:32775"
	server = "192.168.1.9:53"
)

func udp(src, dst string) []byte {
	return packettest.NewUDP(packettest.AP(src), packettest.AP(dst), packettest.PayloadLen(10))
}

func TestUDPLife(t *testing.T) {
	r := newRig(t, Config{})
	ask, answer := udp(client, server), udp(server, client)
	c := r.pass(ask, StateNew)
	if c.Dir != Original {
		t.Error("a new connection must run in the original direction")
	}
	r.one("udp      17 30 src=192.168.1.6 dst=192.168.1.9 sport=32775 dport=53 [UNREPLIED] src=192.168.1.9 dst=192.168.1.6 sport=53 dport=32775 mark=0 use=1")
	r.after(1000)
	r.pass(ask, StateNew) // no answer yet
	r.after(500)
	if c := r.pass(answer, StateEstablished); c.Dir != Reply {
		t.Error("direction of the answer")
	}
	// The first answer does not make a stream, whatever the age.
	r.one("udp      17 30 src=192.168.1.6 dst=192.168.1.9 sport=32775 dport=53 src=192.168.1.9 dst=192.168.1.6 sport=53 dport=32775 mark=0 use=1")
	r.pass(ask, StateEstablished)
	r.after(501)
	r.pass(answer, StateEstablished)
	r.one("udp      17 120 src=192.168.1.6 dst=192.168.1.9 sport=32775 dport=53 src=192.168.1.9 dst=192.168.1.6 sport=53 dport=32775 [ASSURED] mark=0 use=1")
	r.after(119_999)
	r.pass(ask, StateEstablished)
	r.after(120_000)
	if got := r.lines(FormatConntrack); len(got) != 0 {
		t.Errorf("expired, but listed: %q", got)
	}
	if n := r.tab.Len(); n != 1 {
		t.Errorf("Len %d before the sweep, want 1", n)
	}
	if c := r.pass(answer, StateNew); c.Dir != Original {
		t.Error("an expired entry was found")
	}
	r.after(40_000)
	if n := r.tab.Expire(r.now, 64); n != 1 || r.tab.Len() != 0 {
		t.Errorf("swept %d, left %d", n, r.tab.Len())
	}
}

func TestDiscardLeavesNothing(t *testing.T) {
	r := newRig(t, Config{})
	for range 3 {
		c := r.track(udp(client, server))
		if c.State != StateNew || !c.Fresh {
			t.Fatalf("%+v", c)
		}
		r.tab.Discard(&c)
		if o := r.tab.Confirm(&c, r.now); o != Stale {
			t.Fatalf("confirm after discard: %v", o)
		}
	}
	if r.tab.Len() != 0 || len(r.lines(FormatProc)) != 0 {
		t.Error("a dropped packet left an entry")
	}
}
