package rules

import (
	"golang.org/x/sys/cpu"

	"corewire/internal/packet"
)

// fastest returns the fastest form that this processor has all instructions for.
func fastest() form {
	x := &cpu.X86
	switch entries := x.HasAVX2 && x.HasBMI1; {
	case entries && x.HasBMI2 && x.HasPOPCNT && x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512VBMI && x.HasAVX512VBMI2:
		return burstForm // Ice Lake, Zen 4 and later
	case entries:
		return entryForm // nearly all since 2015
	}
	return plainForm
}

// fillBurst is ahead.fill for a group of packets at least, in burst_amd64.s.
//
//go:noescape
func fillBurst(a *ahead, pkts []packet.Packet) int

// descendBurst is ahead.descend, in burst_amd64.s.
//
//go:noescape
func descendBurst(a *ahead, trees, slots []slot, lanes int)

// runsBurst is ahead.runs as long as lanes have enough company in their group, in burst_amd64.s. It leaves so many lanes in list.
//
//go:noescape
func runsBurst(a *ahead, trees int, places []slot, entries []narrow, shapes []shape, lanes int) (left int)

// restVector does the rounds of ahead.runs behind the first, in ahead_amd64.s: not one of all lanes in list at a time, but one lane after
// the other, each to the end of its run.
//
//go:noescape
func restVector(a *ahead, places []slot, entries []narrow, shapes []shape, n int)

// settleBurst is ahead.settle where there are entries, in burst_amd64.s.
//
//go:noescape
func settleBurst(a *ahead, shapes []shape, list []compiledRule, low, shift, policy uint64, lanes int)

// descendVector is ahead.descend, in ahead_amd64.s.
//
//go:noescape
func descendVector(a *ahead, trees, slots []slot, lanes int)

// runsVector is ahead.runs with an entry compared in one vector of 16 bytes, in ahead_amd64.s.
//
//go:noescape
func runsVector(a *ahead, trees int, places []slot, entries []narrow, shapes []shape, lanes int)
