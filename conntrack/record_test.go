package conntrack

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// records returns the states of all connections.
func (r *rig) records() []Record {
	var out []Record
	buf := make([]Record, 7)
	for cursor := uint64(0); ; {
		n, next := r.tab.Export(cursor, buf, r.now)
		out = append(out, buf[:n]...)
		if cursor = next; cursor == 0 {
			return out
		}
	}
}

// take imports states as the control goroutine does.
func (r *rig) take(records []Record) Imported {
	r.t.Helper()
	for i := range records {
		if err := records[i].Check(); err != nil {
			r.t.Fatal(err)
		}
	}
	if !r.tab.cap.Reserve(len(records)) {
		r.t.Fatal("no credits")
	}
	got, err := r.tab.Import(records, make([]bool, len(records)), r.now)
	if err != nil {
		r.t.Fatal(err)
	}
	r.tab.cap.Return(len(records) - got.Entered)
	return got
}

// TestHandover plays random connections of all protocols into a table, hands them over to another process's table in the
// middle, and plays on in both: every packet is judged alike, and the listings stay the same.
func TestHandover(t *testing.T) {
	set, err := DefaultSettings().With("nf_conntrack_acct", 1)
	if err == nil {
		set, err = set.With("nf_conntrack_timestamp", 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	if set, err = set.WithTimeouts("slow udp unreplied 77 replied 78"); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(3, 7))
	random := func() []byte {
		src, dst := packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:80")
		if rnd.IntN(2) == 0 {
			src, dst = packettest.AP("[fd00::1]:1000"), packettest.AP("[fd00::2]:80")
		}
		src = netip.AddrPortFrom(src.Addr(), uint16(1000+rnd.IntN(6)))
		seq, ack := uint32(100+rnd.IntN(40)), uint32(500+rnd.IntN(40))
		if rnd.IntN(2) == 0 {
			src, dst, seq, ack = dst, src, ack, seq
		}
		switch rnd.IntN(8) {
		case 0:
			return packettest.NewUDP(src, dst)
		case 1:
			return packettest.NewUDPLite(src, dst)
		case 2:
			if src.Addr().Is6() {
				return packettest.NewICMP(src.Addr(), dst.Addr(), uint8(128+rnd.IntN(2)), 0, uint16(rnd.IntN(4)), 1)
			}
			return packettest.NewICMP(src.Addr(), dst.Addr(), uint8(8*rnd.IntN(2)), 0, uint16(rnd.IntN(4)), 1)
		case 3:
			return packettest.NewGRE(src.Addr(), dst.Addr(), 0x800)
		case 4:
			return packettest.NewIP(src.Addr(), dst.Addr(), uint8([]int{1, 50, 89, 58}[rnd.IntN(3)]))
		case 5:
			types := []uint8{1, 2, 3, 4, 5, 7, 8, 10, 11, 14}
			body := make([]byte, 16)
			body[3] = byte(rnd.IntN(3))
			return packettest.NewSCTP(src, dst, uint32(rnd.IntN(3)), packettest.SCTPChunk(types[rnd.IntN(len(types))], 0, body))
		}
		flags := []uint8{packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.ACK, packet.FIN | packet.ACK, packet.RST}[rnd.IntN(6)]
		return packettest.NewTCP(src, dst, flags, packettest.Seq(seq), packettest.Ack(ack), packettest.Window(uint16(rnd.IntN(500))),
			packettest.TCPOptions(packettest.WindowScale(uint8(rnd.IntN(15)))), packettest.PayloadLen(rnd.IntN(20)))
	}
	play := func(r *rig, f []byte) Conn {
		c := r.track(f)
		if c.Fresh {
			if o := r.tab.Confirm(&c, r.now); o != Confirmed {
				r.t.Fatal(o)
			}
		}
		c.Ref = 0
		return c
	}
	listing := func(r *rig) []string {
		out := r.lines(FormatExtended)
		slices.Sort(out)
		return out
	}
	moved := 0
	for round := range 300 {
		var secret [packet.HasherSecret]uint64
		for i := range secret {
			secret[i] = rnd.Uint64()
		}
		a, b := newRig(t, Config{Settings: set}), newRig(t, Config{Settings: set, Secret: secret})
		b.now = Tick(rnd.Uint32())
		if round%2 == 0 {
			a.now = Tick(rnd.Uint32())
		}
		for range rnd.IntN(60) {
			play(a, random())
			a.after(Tick(rnd.IntN(700)))
		}
		template := a.tab.NewTemplate(HelperNone, "slow")
		a.tab.SetTemplate(&template)
		for range rnd.IntN(20) {
			play(a, random())
		}
		a.tab.SetTemplate(nil)
		a.tab.SetMarks(0, 1<<20, func(i *Info) bool { return i.Key.APort%2 == 0 }, 5, 255, a.now)
		a.tab.SetLabels(0, 1<<20, func(i *Info) bool { return i.Key.APort%3 == 0 }, Labels{1, 2}, Labels{}, a.now)
		records := a.records()
		moved += len(records)
		if got := b.take(records); got.Entered != len(records) || got.Known != 0 {
			t.Fatalf("%+v of %d", got, len(records))
		}
		if got := b.take(records); got.Entered != 0 || got.Known != len(records) {
			t.Fatalf("again: %+v of %d", got, len(records))
		}
		sorted := func(r []Record) []Record {
			slices.SortFunc(r, func(x, y Record) int { return bytes.Compare(x[:], y[:]) })
			return r
		}
		if !reflect.DeepEqual(sorted(records), sorted(b.records())) {
			t.Fatal("what was taken over is not what was handed over")
		}
		for n := range 60 {
			if x, y := listing(a), listing(b); !slices.Equal(x, y) {
				t.Fatalf("round %d after %d packets:\n%s\n\n%s", round, n, strings.Join(x, "\n"), strings.Join(y, "\n"))
			}
			f := random()
			if x, y := play(a, f), play(b, f); x != y {
				t.Fatalf("round %d after %d packets: %+v and %+v", round, n, x, y)
			}
			d := Tick(rnd.IntN(700))
			a.after(d)
			b.after(d)
			a.tab.Expire(a.now, 64)
			b.tab.Expire(b.now, 64)
		}
	}
	if moved < 3000 {
		t.Errorf("only %d connections", moved)
	}
}

// TestRecordShift: time goes by alike in the table and in a record.
func TestRecordShift(t *testing.T) {
	set, err := DefaultSettings().With("nf_conntrack_timestamp", 1)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, Config{Settings: set})
	r.pass(udp(client, server), StateNew)
	r.after(1500)
	then := r.records()[0]
	r.after(700)
	now := r.records()[0]
	moved := then
	if !moved.Shift(700) || moved != now {
		t.Errorf("%v, want %v", moved, now)
	}
	if !moved.Shift(-700) || moved != then {
		t.Errorf("%v back, want %v", moved, then)
	}
	if !moved.Shift(-10_000) || le.Uint64(moved[stateAge:]) != 0 || moved.Check() != nil {
		t.Errorf("before its beginning: %v", moved)
	}
	if moved.Shift(40_000) || moved.Shift(1<<60) {
		t.Error("it lives for ever")
	}
}

// TestImportWithdrawn: what cannot be entered completely leaves nothing.
func TestImportWithdrawn(t *testing.T) {
	a := newRig(t, Config{Settings: noChecksum(t)})
	for i := range 300 {
		a.enter(i)
	}
	records := a.records()
	b := newRig(t, Config{Settings: noChecksum(t), Reserve: 100, Capacity: NewCapacity(1000, 1)})
	if b.tab.cap.Reserve(1001) || !b.tab.cap.Reserve(len(records)) {
		t.Fatal("the capacity is not kept")
	}
	entered := make([]bool, len(records))
	got, err := b.tab.Import(records, entered, b.now)
	if !errors.Is(err, ErrNoSlot) || got.Entered == 0 || got.Entered != b.tab.Len() {
		t.Fatalf("%+v, %v", got, err)
	}
	b.tab.cap.Return(len(records) - got.Entered)
	b.tab.Withdraw(records, entered, b.now)
	if b.tab.Len() != 0 || slices.Contains(entered, true) {
		t.Errorf("%d left", b.tab.Len())
	}
}

// TestRecordCheck: each rule refuses what breaks it.
func TestRecordCheck(t *testing.T) {
	r := newRig(t, Config{})
	r.pass(packettest.NewTCP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:80"), packet.SYN), StateNew)
	good := r.records()[0]
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Record)
		want   string
	}{
		{"family", func(r *Record) { r[stateFamily] = 5 }, "family"},
		{"address", func(r *Record) { r[0] = 1 }, "not an IPv4 address"},
		{"flags", func(r *Record) { r[stateFlags] = 32 }, "unknown flags"},
		{"status", func(r *Record) { r[stateStatus+1] = 2 }, "status"},
		{"left", func(r *Record) { le.PutUint32(r[stateLeft:], 0) }, "left"},
		{"helper", func(r *Record) { r[stateHelper] = uint8(HelperTFTP) }, "helper"},
		{"stream", func(r *Record) { r[stateStream] = 1 }, "stream"},
		{"order", func(r *Record) { r[15] = 3 }, "order"},
		{"icmp", func(r *Record) { r[stateProto] = packet.ProtoICMP }, "ICMP request"},
		{"state", func(r *Record) { r[stateState] = 10 }, "TCP state"},
		{"no state", func(r *Record) { r[stateState] = 0 }, "TCP state"},
		{"class", func(r *Record) { r[stateTracker+46] = 30 }, "class"},
		{"udp", func(r *Record) { r[stateProto] = packet.ProtoUDP }, "state where"},
		{"rest", func(r *Record) { r[statePolicy-1] = 1 }, "nothing belongs"},
		{"policy", func(r *Record) { r[statePolicy+1] = 'x' }, "timeout policy"},
		{"long policy", func(r *Record) { copy(r[statePolicy:], strings.Repeat("x", 32)) }, "timeout policy"},
		{"counters", func(r *Record) { r[stateCounters] = 1 }, "nothing belongs"},
	} {
		bad := good
		c.change(&bad)
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// FuzzRecord: whatever passes Check can be entered, found, listed and expires; whatever was exported passes.
func FuzzRecord(f *testing.F) {
	r := newRig(f, Config{})
	for _, frame := range [][]byte{
		packettest.NewTCP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:80"), packet.SYN), udp(client, server),
		packettest.NewICMP(packettest.IP("10.0.0.1"), packettest.IP("10.0.0.2"), 8, 0, 77, 1), packettest.NewGRE(packettest.IP("fd00::1"), packettest.IP("fd00::2"), 0x800),
		packettest.NewSCTP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:80"), 0, packettest.SCTPChunk(1, 0, make([]byte, 16))),
	} {
		r.pass(frame, StateNew)
	}
	for _, rec := range r.records() {
		f.Add(rec[:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != RecordSize {
			return
		}
		rec := Record(b)
		if rec.Check() != nil {
			return
		}
		r := newRig(t, Config{Reserve: 64, Capacity: NewCapacity(10, 1)})
		if got := r.take([]Record{rec}); got.Entered != 1 {
			t.Fatalf("%+v", got)
		}
		out := r.records()
		if len(out) != 1 || out[0].Check() != nil || out[0].Key() != rec.Key() {
			t.Fatalf("%v", out)
		}
		_ = r.lines(FormatProc)
		for range 4 { // the longest timeout has 2³¹ ticks
			r.after(1 << 29)
			r.tab.Expire(r.now, 1<<10)
		}
		r.after(1000)
		r.tab.Expire(r.now, 1<<10)
		if r.tab.Len() != 0 {
			t.Fatal("it does not expire")
		}
	})
}
