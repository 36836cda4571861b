package packetlog

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	pt "corewire/internal/packet/packettest"
)

func some(n int) []Entry {
	var out []Entry
	for i := range n {
		e := entry(pt.NewUDP(netip.AddrPortFrom(a4, 1), netip.AddrPortFrom(b4, uint16(i))))
		e.Prefix, e.Time = fmt.Sprint("n", i), time.Unix(1700000000, int64(i))
		out = append(out, e)
	}
	return out
}

func all(*Entry) bool { return true }

// A log keeps the newest entries; a follower gets each once, in order, and is told how many it was too late for.
func TestLog(t *testing.T) {
	l := New(10)
	l.Add(some(4))
	entries, last, missed := l.Since(0, 100)
	if len(entries) != 4 || last != 4 || missed != 0 || entries[0].Number != 1 || entries[3].Prefix != "n3" {
		t.Fatalf("%d entries, last %d, missed %d", len(entries), last, missed)
	}
	l.Add(some(12))
	if entries, last, missed = l.Since(4, 5); len(entries) != 5 || last != 11 || missed != 2 || entries[0].Number != 7 {
		t.Fatalf("%d entries, last %d, missed %d", len(entries), last, missed)
	}
	if n := l.Last(3, all); n != 13 {
		t.Errorf("the last three are behind %d", n)
	}
	if n := l.Last(2, func(e *Entry) bool { return e.Number%3 == 0 }); n != 11 {
		t.Errorf("the last two of every third are behind %d", n)
	}
	if n := l.Last(9, func(e *Entry) bool { return e.Number%3 == 0 }); n != 6 {
		t.Errorf("all of every third are behind %d", n)
	}
	if n := l.Last(100, all); n != 6 {
		t.Errorf("all that are kept are behind %d", n)
	}
	if entries, _, _ := l.Since(99, 10); len(entries) != 0 {
		t.Errorf("%d entries behind a number not reached yet", len(entries))
	}
}

func TestFollow(t *testing.T) {
	l := New(1000)
	l.Add(some(5))
	done := make(chan error, 1)
	enough := errors.New("enough")
	var got []uint64
	ready := make(chan struct{}, 1)
	go func() {
		done <- l.Follow(context.Background(), l.Last(2, all), true, func(entries []Entry, missed uint64) error {
			for i := range entries {
				got = append(got, entries[i].Number)
			}
			if len(got) == 2 {
				ready <- struct{}{}
			}
			if len(got) >= 302 {
				return enough
			}
			return nil
		})
	}()
	<-ready
	for range 300 {
		l.Add(some(1))
	}
	if err := <-done; !errors.Is(err, enough) {
		t.Fatal(err)
	}
	for i, n := range got {
		if n != uint64(i+4) {
			t.Fatalf("entry %d has number %d", i, n)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Follow(ctx, l.Last(0, all), true, func([]Entry, uint64) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	n := 0
	if err := l.Follow(context.Background(), 0, false, func(e []Entry, _ uint64) error { n += len(e); return nil }); err != nil || n != 305 {
		t.Errorf("%d entries, %v", n, err)
	}
}

// frames returns what a capture file has: the comments of its packets.
func comments(t *testing.T, name string) []string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewNgReader(f, pcapgo.NgReaderOptions{})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if r.NInterfaces() > 2 {
		t.Errorf("%d interfaces", r.NInterfaces())
	}
	var out []string
	for {
		data, ci, opts, err := r.ReadPacketDataWithOptions()
		if err != nil {
			return out
		}
		if len(data) != ci.CaptureLength || len(opts.Comments) != 1 {
			t.Errorf("%s: %d bytes, comments %q", name, len(data), opts.Comments)
		}
		out = append(out, opts.Comments...)
	}
}

// The files go round, each is whole by itself, and a new ring goes on behind the newest.
func TestFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.pcapng")
	f, err := OpenFiles(path, 8000, 3, "eth1", "eth2")
	if err != nil {
		t.Fatal(err)
	}
	all := some(400)
	for i := range all {
		all[i].Rule, all[i].State = "FORWARD 1", "NEW"
	}
	for i := 0; i < len(all); i += 10 {
		if err := f.Write(all[i : i+10]); err != nil {
			t.Fatal(err)
		}
	}
	at := f.at
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	kept := map[string]bool{}
	for i := range 3 {
		info, err := os.Stat(f.Name(i))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 8000+4096+2000 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %d bytes, mode %v", f.Name(i), info.Size(), info.Mode())
		}
		for _, c := range comments(t, f.Name(i)) {
			kept[c] = true
		}
	}
	if !kept["FORWARD 1 NEW: n399"] || kept["FORWARD 1 NEW: n0"] || len(kept) < 100 {
		t.Errorf("%d packets kept", len(kept))
	}
	now := time.Now()
	for i := range 3 { // the newest by time
		if err := os.Chtimes(f.Name(i), now, now.Add(time.Duration((i-at+2)%3)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	g, err := OpenFiles(path, 8000, 3, "eth1", "eth2")
	if err != nil {
		t.Fatal(err)
	}
	if g.at != (at+1)%3 {
		t.Errorf("goes on with file %d, the newest is %d", g.at, at)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if c := comments(t, g.Name((at+1)%3)); len(c) != 0 {
		t.Errorf("a new file has %d packets", len(c))
	}
	if _, err := OpenFiles(filepath.Join(t.TempDir(), "no", "log.pcapng"), 1, 1, "", ""); err == nil {
		t.Error("no error for a directory that is not there")
	}
}
