package rules

import "golang.org/x/sys/cpu"

// hasVectors says that this processor has what descendVector and runsVector need: AVX2 and BMI1, as all since 2015.
func hasVectors() bool { return cpu.X86.HasAVX2 && cpu.X86.HasBMI1 }

// descendVector is ahead.descend, in ahead_amd64.s.
//
//go:noescape
func descendVector(a *ahead, trees, slots []slot, lanes int)

// runsVector is ahead.runs with an entry compared in one vector of 16 bytes, in ahead_amd64.s.
//
//go:noescape
func runsVector(a *ahead, trees int, places []slot, entries []narrow, shapes []shape, lanes int)
