package dataplane

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// everything exports a rig's connections and what they expect.
func everything(t *testing.T, r *rig) (records []conntrack.Record, expected []conntrack.ExpectRecord) {
	t.Helper()
	err := r.e.Export(context.Background(), func(s []conntrack.Record) error { records = append(records, s...); return nil },
		func(s []conntrack.ExpectRecord) error { expected = append(expected, s...); return nil })
	for i := range records {
		err = errors.Join(err, records[i].Check())
	}
	for i := range expected {
		err = errors.Join(err, expected[i].Check())
	}
	if err != nil {
		t.Fatal(err)
	}
	return records, expected
}

// TestHandoverOfHelpers hands control connections over to another box in the middle, with what they have announced: the
// announced connections are RELATED there, the helpers go on reading where they were, a PPTP call goes on and ends with its
// control connection, and a connection keeps its master.
func TestHandoverOfHelpers(t *testing.T) {
	a := newTalk(t, 3, "ftp,pptp")
	client, server := packettest.IP("192.0.2.10"), packettest.IP("198.51.100.1")
	from, to := netip.AddrPortFrom(client, 40000), netip.AddrPortFrom(server, 21)
	data := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(client, port) }
	ftpData := netip.AddrPortFrom(server, 20)
	pass := func(k *talk, want bool, in packet.Port, from, to netip.AddrPort, flags uint8, text string) {
		t.Helper()
		if k.say(int(k.seq["turn"])%len(k.wires), in, from, to, flags, text) != want {
			t.Fatalf("%v to %v %#x %q: want passed %v", from, to, flags, text, want)
		}
		k.seq["turn"]++
	}
	pass(a, true, packet.Inside, from, to, syn, "")
	pass(a, true, packet.Outside, to, from, syn|ack, "")
	pass(a, true, packet.Inside, from, to, ack, "USER x\r\n")
	pass(a, true, packet.Outside, to, from, ack, "200 ok\r\n")
	pass(a, true, packet.Inside, from, to, ack, "PORT 192,0,2,10,200,10\r\n") // 51210
	pass(a, true, packet.Outside, ftpData, data(51210), syn, "")              // comes, and has a master
	pass(a, true, packet.Inside, from, to, ack, "PORT 192,0,2,10,200,11\r\n") // 51211 is expected
	message := func(kind byte, words ...byte) string {
		b := make([]byte, 12+208)
		copy(b[2:], []byte{0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, kind})
		copy(b[12:], words)
		return string(b)
	}
	pns, pac := netip.AddrPortFrom(client, 1025), netip.AddrPortFrom(server, 1723)
	pass(a, true, packet.Inside, pns, pac, syn, "")
	pass(a, true, packet.Outside, pac, pns, syn|ack, "")
	pass(a, true, packet.Inside, pns, pac, ack, message(1))
	pass(a, true, packet.Outside, pac, pns, ack, message(2, 1, 0, 1))
	pass(a, true, packet.Inside, pns, pac, ack, message(7, 0, 5))
	pass(a, true, packet.Outside, pac, pns, ack, message(8, 0, 77, 0, 5, 1))
	a.now += 1500
	a.step()

	records, expected := everything(t, a.rig)
	if len(records) != 3 || len(expected) != 1+2+2 {
		t.Fatalf("%d connections, %d expectations and call ids", len(records), len(expected))
	}
	b := newTalk(t, 2, "ftp,pptp")
	b.now = 4_000_000_000
	b.step()
	for k, v := range a.seq {
		b.seq[k] = v
	}
	got, err := b.e.Import(context.Background(), records, expected)
	if err != nil || got != (conntrack.Imported{Entered: 3, Expected: 5}) {
		t.Fatalf("%+v, %v", got, err)
	}
	listed := func(k *talk) (lines []string) {
		if err := k.e.Expectations(context.Background(), func(infos []conntrack.ExpectInfo) error {
			for i := range infos {
				lines = append(lines, string(infos[i].AppendLine(nil, conntrack.FormatConntrack)))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(lines)
		return lines
	}
	if x, y := listed(a), listed(b); !slices.Equal(x, y) || len(x) != 3 {
		t.Errorf("%q\n%q", x, y)
	}
	again, alsoExpected := everything(t, b.rig)
	sort := func(x, y conntrack.Record) int { return slices.Compare(x[:], y[:]) }
	slices.SortFunc(records, sort)
	slices.SortFunc(again, sort)
	if !slices.Equal(records, again) || len(alsoExpected) != len(expected) {
		t.Error("what was taken over is not what was handed over")
	}
	// What is known already stays as it is, and expects nothing twice.
	if got, err := b.e.Import(context.Background(), records, expected); err != nil || got != (conntrack.Imported{Known: 3}) {
		t.Errorf("again: %+v, %v", got, err)
	}

	pass(b, false, packet.Outside, ftpData, data(51299), syn, "")
	pass(b, true, packet.Outside, ftpData, data(51211), syn, "") // announced before
	// A file name that looks like a command, in the middle of a line, announces nothing; the next line does.
	pass(b, true, packet.Inside, from, to, ack, "STOR ")
	pass(b, true, packet.Inside, from, to, ack, "PORT 192,0,2,10,200,12\r\n")
	pass(b, false, packet.Outside, ftpData, data(51212), syn, "")
	pass(b, true, packet.Inside, from, to, ack, "PORT 192,0,2,10,200,13\r\n")
	pass(b, true, packet.Outside, ftpData, data(51213), syn, "")
	masters := 0
	if err := b.e.Connections(context.Background(), func(infos []conntrack.Info) error {
		for i := range infos {
			if m, ok := infos[i].MasterTuple(); ok {
				masters++
				if m.Src != client || m.SrcPort != 40000 || m.DstPort != 21 {
					t.Errorf("master %+v", m)
				}
			}
		}
		return nil
	}); err != nil || masters != 3 {
		t.Errorf("%d with masters, %v", masters, err)
	}

	gre := func(in packet.Port, src, dst netip.Addr, call uint16) bool {
		b.inject(1, in, packettest.NewPPTP(src, dst, call))
		b.settle()
		return len(b.out(in.Other())) == 1
	}
	if !gre(packet.Outside, server, client, 5) || !gre(packet.Inside, client, server, 77) || gre(packet.Inside, client, server, 78) {
		t.Error("the call's GRE")
	}
	before := b.e.Count()
	pass(b, true, packet.Outside, pac, pns, ack, message(13, 0, 77))
	b.settle()
	if gre(packet.Inside, client, server, 77) || b.e.Count() != before-1 {
		t.Errorf("the call has ended: %d connections, were %d", b.e.Count(), before)
	}
}

// TestExpectedDoNotFit: where there is no room for what connections expect nothing at all is taken over.
func TestExpectedDoNotFit(t *testing.T) {
	a := newTalk(t, 1, "ftp")
	for i := range 3 {
		from, to := netip.AddrPortFrom(packettest.IP("192.0.2.10"), uint16(40000+i)), packettest.AP("198.51.100.1:21")
		a.say(0, packet.Inside, from, to, syn, "")
		a.say(0, packet.Outside, to, from, syn|ack, "")
		a.say(0, packet.Inside, from, to, ack, "USER x\r\n")
		a.say(0, packet.Inside, from, to, ack, "PORT 192,0,2,10,200,"+string(rune('1'+i))+"\r\n")
	}
	records, expected := everything(t, a.rig)
	if len(records) != 3 || len(expected) != 3 {
		t.Fatal(len(records), len(expected))
	}
	b := newTalk(t, 2, "ftp")
	b.e.expect.SetMax(2)
	_, err := b.e.Import(context.Background(), records, expected)
	if room, ok := errors.AsType[*RoomError](err); !ok || room.Setting != "nf_conntrack_expect_max" || b.e.Count() != 0 || b.stats().Expected != 0 {
		t.Errorf("%v, %d connections", err, b.e.Count())
	}
	b.e.expect.SetMax(3)
	if got, err := b.e.Import(context.Background(), records, expected); err != nil || got.Entered != 3 || got.Expected != 3 {
		t.Errorf("%+v, %v", got, err)
	}
}
