package conntrack

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// readHandover reads all of it.
func readHandover(b []byte) (records []Record, expected []ExpectRecord, taken int64, err error) {
	r, err := NewRecordReader(bytes.NewReader(b))
	if err != nil {
		return nil, nil, 0, err
	}
	buf := make([]Record, 100)
	for {
		n, err := r.Read(buf)
		records = append(records, buf[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, nil, 0, err
		}
	}
	some := make([]ExpectRecord, 100)
	for {
		n, err := r.ReadExpected(some)
		expected = append(expected, some[:n]...)
		if err == io.EOF {
			return records, expected, r.Taken(), nil
		}
		if err != nil {
			return nil, nil, 0, err
		}
	}
}

// writeHandover writes records in pieces of n.
func writeHandover(t testing.TB, records []Record, expected []ExpectRecord, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewRecordWriter(&b, 1234567890123)
	for piece := range slices.Chunk(records, n) {
		if err == nil {
			err = w.Write(piece)
		}
	}
	for piece := range slices.Chunk(expected, n) {
		if err == nil {
			err = w.WriteExpected(piece)
		}
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestHandoverFile: what is written is read; no prefix, no change of a byte, and nothing appended is accepted.
func TestHandoverFile(t *testing.T) {
	r := newRig(t, Config{Settings: noChecksum(t), Reserve: 1 << 14})
	for i := range 5000 {
		r.enter(i)
	}
	records := r.records()
	expected := someExpected(t)
	for _, n := range []int{1, 7, 5000} {
		got, also, taken, err := readHandover(writeHandover(t, records, expected, n))
		if err != nil || taken != 1234567890123 || !slices.Equal(got, records) || !slices.Equal(also, expected) {
			t.Fatalf("pieces of %d: %d records, %d, %v", n, len(got), taken, err)
		}
	}
	if got, also, _, err := readHandover(writeHandover(t, nil, nil, 1)); err != nil || len(got)+len(also) != 0 {
		t.Errorf("none: %v, %v", got, err)
	}
	small := writeHandover(t, records[:3], expected[:3], 2)
	for i := range small {
		if _, _, _, err := readHandover(small[:i]); !errors.Is(err, ErrHandover) {
			t.Fatalf("%d of %d bytes: %v", i, len(small), err)
		}
		bad := bytes.Clone(small)
		bad[i] ^= 0x10
		if _, _, _, err := readHandover(bad); err == nil {
			t.Fatalf("byte %d of %d changed: accepted", i, len(small))
		}
	}
	if _, _, _, err := readHandover(append(bytes.Clone(small), 0)); !errors.Is(err, ErrHandover) {
		t.Errorf("a byte appended: %v", err)
	}
}

// FuzzHandover: a reader never panics, and accepts only what a writer writes again.
func FuzzHandover(f *testing.F) {
	r := newRig(f, Config{})
	r.pass(packettest.NewTCP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:80"), packet.SYN), StateNew)
	r.pass(udp(client, server), StateNew)
	expected := someExpected(f)
	f.Add(writeHandover(f, r.records(), expected, 1))
	f.Add(writeHandover(f, r.records(), expected[:1], 2))
	f.Add(first(writeHandover(f, r.records(), nil, 2), 2))
	f.Add([]byte(handoverMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		records, expected, _, err := readHandover(b)
		if err != nil {
			return
		}
		again, also, _, err := readHandover(writeHandover(t, records, expected, 10))
		if err != nil || !slices.Equal(again, records) || !slices.Equal(also, expected) {
			t.Fatalf("%v", err)
		}
	})
}

// someExpected returns expectations of every helper, both ways of a PPTP call and its call ids among them.
func someExpected(t testing.TB) []ExpectRecord {
	t.Helper()
	x, err := NewExpectations(100)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	a, b := addr4(0x0a000001), addr4(0x0a000002)
	for h := HelperNone + 1; h < Helpers; h++ {
		proto := uint8(packet.ProtoTCP)
		if !helpers[h].tcp {
			proto = packet.ProtoUDP
		}
		var key packet.Key
		key.Set(b, a, 1000, helpers[h].port, proto, 4)
		m := &master{key: &key, helper: h, mark: 7, flipped: entryFlipped}
		if h == HelperPPTP {
			m.flipped = 0
			x.connectCall(m, &expectTuple{a, b, makePorts(5, 6, 0, packet.ProtoGRE, 4)}, 0)
			continue
		}
		for class, p := range helpers[h].policy {
			if p.max == 0 {
				continue
			}
			w := wanted{tuple: expectTuple{a, b, makePorts(0, 100*uint16(h)+uint16(class), 0, packet.ProtoUDP, 4)}, flags: expectAnyPt, class: uint8(class), policy: p}
			if h == HelperSIP && class == 0 {
				w.flags |= ExpectPermanent | ExpectInactive | expectAnySrc | expectAssign
				w.tuple.src = packet.Addr{}
			}
			if got := x.expect(m, &w, 0); got != expectMade {
				t.Fatalf("%v class %d: %d", h, class, got)
			}
		}
	}
	out := make([]ExpectRecord, 100)
	n, _ := x.Export(0, out, 0)
	for i := range out[:n] {
		if err := out[i].Check(); err != nil {
			t.Fatal(err)
		}
	}
	if n != 3+4+4 { // ftp, tftp, irc; sip's classes; two ways of a call and two call ids
		t.Fatalf("%d expectations", n)
	}
	return out[:n]
}

// first makes a handover of n connections one of the first version.
func first(b []byte, n int) []byte {
	head := bytes.Clone(b[:handoverHeader])
	le.PutUint32(head[8:], 1)
	le.PutUint32(head[12:], recordSize1)
	sum := func() { head = le.AppendUint32(head, crc32.Checksum(head, castagnoli)) }
	sum()
	at := handoverHeader + 4
	head = append(head, b[at:at+4]...)
	at += 4
	for range n {
		head = append(head, b[at:at+recordSize1]...)
		at += RecordSize
	}
	sum()
	head = append(head, b[at+4:at+16]...)
	sum()
	return head
}

// TestFirstVersion: a handover of the first version is read, and what it does not say of a helper is taken as unknown.
func TestFirstVersion(t *testing.T) {
	h := newHelped(t, "ftp")
	h.open("10.0.0.1:1000", "10.0.0.2:21", StateNew)
	h.say("10.0.0.1:1000", "10.0.0.2:21", "USER a\r\n", true)
	records := h.records()
	got, expected, _, err := readHandover(first(writeHandover(t, records, nil, 1), 1))
	if err != nil || len(got) != 1 || len(expected) != 0 {
		t.Fatalf("%d, %d, %v", len(got), len(expected), err)
	}
	a := takeAid(&got[0])
	if want := (aid{helper: HelperFTP, ftp: ftpState{pickup: [2]uint8{1, 1}}}); a != want {
		t.Errorf("%+v, want %+v", a, want)
	}
	if a := takeAid(&records[0]); a.ftp.known[Original] == 0 || a.ftp.pickup != ([2]uint8{}) {
		t.Errorf("today's: %+v", a)
	}
}

// FuzzExpectRecord: what Check lets through can be entered, and is handed over again as it came.
func FuzzExpectRecord(f *testing.F) {
	for _, r := range someExpected(f) {
		f.Add(r[:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r ExpectRecord
		copy(r[:], b)
		if r.Check() != nil {
			return
		}
		x, err := NewExpectations(10)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		k, flipped := r.Master()
		m := &master{key: &k, helper: Helper(r[expectAtHelper]), mark: le.Uint32(r[expectAtMark:])}
		if flipped {
			m.flipped = entryFlipped
		}
		w := r.wanted()
		if got := x.restore(m, &w, Tick(le.Uint32(r[expectAtLeft:])), 0); got != expectMade {
			t.Fatalf("not entered: %d", got)
		}
		out := make([]ExpectRecord, 2)
		if n, _ := x.Export(0, out, 0); n != 1 || out[0] != r {
			t.Errorf("%d: %x, want %x", n, out[0], r)
		}
		x.forget(m)
		if x.Len() != 0 || x.calls.Load() != 0 {
			t.Error("it stays when its master has gone")
		}
	})
}
