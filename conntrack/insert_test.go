package conntrack

import (
	"math/rand/v2"
	"testing"

	"corewire/internal/packet"
)

// TestEveryConnectionFindsASlot: small tables that grow as fast as they can, with a burst of new connections after the other, turn
// none away. With one move instead of insertMoves some do.
func TestEveryConnectionFindsASlot(t *testing.T) {
	const flows = 1408 // beyond where 128 buckets become more
	tables := uint64(400)
	if testing.Short() {
		tables = 100
	}
	for seed := range tables {
		var secret [packet.HasherSecret]uint64
		random := rand.New(rand.NewPCG(seed, 1))
		for i := range secret {
			secret[i] = random.Uint64()
		}
		r := newRig(t, Config{Reserve: 2 * flows, Settings: noChecksum(t), Secret: secret})
		var ps [touchBurst]packet.Packet
		for n := 0; n < flows; n += len(ps) {
			for i := range ps {
				flow(n+i, &ps[i])
			}
			r.tab.Hash(ps[:])
			for i := range ps {
				if c := r.tab.Track(&ps[i], r.now); r.tab.Confirm(&c, r.now) != Confirmed {
					t.Errorf("table %d: flow %d of %d buckets is turned away", seed, n+i, r.tab.Buckets())
				}
			}
			r.tab.Expire(r.now, 64)
		}
		if err := r.tab.check(); err != nil {
			t.Fatal(err)
		}
		if r.tab.Len() != flows {
			t.Errorf("table %d: %d connections, want %d", seed, r.tab.Len(), flows)
		}
		r.tab.Close()
	}
}
