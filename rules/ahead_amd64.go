package rules

import "golang.org/x/sys/cpu"

// hasVectors says that this processor has what lookupVector needs: AVX and BMI1, as all since 2013.
func hasVectors() bool { return cpu.X86.HasAVX && cpu.X86.HasBMI1 }

// lookupVector is ahead.lookup with an entry compared in one vector of 16 bytes, in ahead_amd64.s.
//
//go:noescape
func lookupVector(a *ahead, trees, slots []slot, places []uint32, entries []narrow, shapes []shape, lanes int)
