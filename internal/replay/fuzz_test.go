package replay

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// FuzzReplay replays any file: no crash, one result for each frame, and every chunk accounted for.
func FuzzReplay(f *testing.F) {
	seed := func(path string) {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	whole := pt.Fragments(pt.NewUDP(client, server, pt.PayloadLen(100)), 7, 48)
	seed(capture(f, "a.pcap", shot{0, query}, shot{time.Second, answer}, shot{time.Hour, pt.NewARP()}))
	seed(capture(f, "b.pcap", shot{0, whole[1]}, shot{0, whole[0]}, shot{time.Minute, whole[2]}, shot{2 * time.Minute, whole[0]}))
	rs := compile(f, stateful)
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 1<<14 {
			return
		}
		path := filepath.Join(t.TempDir(), "x.pcap")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Open(Config{File: path, Nets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Engine: dataplane.Config{Ruleset: rs, Max: 100}, Describe: true})
		if err != nil {
			return
		}
		n := 0
		for {
			f, err := r.Next()
			if err != nil {
				break
			}
			if n++; f.Number != n || f.In > packet.Outside {
				t.Errorf("frame %d: %+v", n, f)
			}
		}
		s, err := r.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if l := s.Ledger(); !l.Balanced() {
			t.Errorf("chunks: %+v", l)
		}
		if err := r.Connections(func([]conntrack.Info) error { return nil }); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}
