//go:build !amd64

package rules

func hasVectors() bool { return false }

// lookupVector is for amd64.
func lookupVector(a *ahead, trees, slots []slot, places []uint32, entries []narrow, shapes []shape, lanes int) {
	a.lookup(trees, slots, places, entries, shapes, lanes)
}
