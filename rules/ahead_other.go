//go:build !amd64

package rules

func hasVectors() bool { return false }

// descendVector and runsVector are for amd64.
func descendVector(a *ahead, trees, slots []slot, lanes int) { a.descend(trees, slots, lanes) }

func runsVector(a *ahead, trees int, places []slot, entries []narrow, shapes []shape, lanes int) {
	a.runs(trees, places, entries, shapes, lanes)
}
