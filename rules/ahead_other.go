//go:build !amd64

package rules

import "corewire/internal/packet"

func fastest() form { return plainForm }

// The assembly is for amd64.

func fillBurst(a *ahead, pkts []packet.Packet) int { return a.fill(pkts) }

func descendBurst(a *ahead, trees, slots []slot, lanes int) { a.descend(trees, slots, lanes) }

func runsBurst(a *ahead, trees int, places []slot, entries []narrow, shapes []shape, lanes int) (left int) {
	a.runs(trees, places, entries, shapes, lanes)
	return 0
}

func restVector(a *ahead, places []slot, entries []narrow, shapes []shape, n int) {}

func settleBurst(a *ahead, shapes []shape, list []compiledRule, low, shift, policy uint64, lanes int) {
	a.settle(shapes, list, low, shift, policy, lanes)
}

func descendVector(a *ahead, trees, slots []slot, lanes int) { a.descend(trees, slots, lanes) }

func runsVector(a *ahead, trees int, places []slot, entries []narrow, shapes []shape, lanes int) {
	a.runs(trees, places, entries, shapes, lanes)
}
