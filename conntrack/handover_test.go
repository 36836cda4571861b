package conntrack

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// readHandover reads all of it.
func readHandover(b []byte) (records []Record, taken int64, err error) {
	r, err := NewRecordReader(bytes.NewReader(b))
	if err != nil {
		return nil, 0, err
	}
	buf := make([]Record, 100)
	for {
		n, err := r.Read(buf)
		records = append(records, buf[:n]...)
		if err == io.EOF {
			return records, r.Taken(), nil
		}
		if err != nil {
			return nil, 0, err
		}
	}
}

// writeHandover writes records in pieces of n.
func writeHandover(t testing.TB, records []Record, n int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewRecordWriter(&b, 1234567890123)
	for piece := range slices.Chunk(records, n) {
		if err == nil {
			err = w.Write(piece)
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
	for _, n := range []int{1, 7, 5000} {
		got, taken, err := readHandover(writeHandover(t, records, n))
		if err != nil || taken != 1234567890123 || !slices.Equal(got, records) {
			t.Fatalf("pieces of %d: %d records, %d, %v", n, len(got), taken, err)
		}
	}
	if got, _, err := readHandover(writeHandover(t, nil, 1)); err != nil || len(got) != 0 {
		t.Errorf("none: %v, %v", got, err)
	}
	small := writeHandover(t, records[:3], 2)
	for i := range small {
		if _, _, err := readHandover(small[:i]); !errors.Is(err, ErrHandover) {
			t.Fatalf("%d of %d bytes: %v", i, len(small), err)
		}
		bad := bytes.Clone(small)
		bad[i] ^= 0x10
		if _, _, err := readHandover(bad); err == nil {
			t.Fatalf("byte %d of %d changed: accepted", i, len(small))
		}
	}
	if _, _, err := readHandover(append(bytes.Clone(small), 0)); !errors.Is(err, ErrHandover) {
		t.Errorf("a byte appended: %v", err)
	}
}

// FuzzHandover: a reader never panics, and accepts only what a writer writes again.
func FuzzHandover(f *testing.F) {
	r := newRig(f, Config{})
	r.pass(packettest.NewTCP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:80"), packet.SYN), StateNew)
	r.pass(udp(client, server), StateNew)
	f.Add(writeHandover(f, r.records(), 1))
	f.Add(writeHandover(f, r.records(), 2))
	f.Add([]byte(handoverMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		records, _, err := readHandover(b)
		if err != nil {
			return
		}
		again, _, err := readHandover(writeHandover(t, records, 10))
		if err != nil || !slices.Equal(again, records) {
			t.Fatalf("%v", err)
		}
	})
}
