package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxCPU bounds a processor's number: CPU_SETSIZE of sched.h.
const maxCPU = 1023

// cpuList reads a list of processor numbers and ranges, without duplicates, in the order written. "auto" and "none"
// are empty lists.
func cpuList(text string) (cpus []int, ok bool) {
	if text == "auto" || text == "none" {
		return nil, true
	}
	for part := range strings.SplitSeq(text, ",") {
		low, high, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			high = low
		}
		a, err := strconv.ParseUint(low, 10, 16)
		b, err2 := strconv.ParseUint(high, 10, 16)
		if err != nil || err2 != nil || a > b || b > maxCPU {
			return nil, false
		}
		for n := int(a); n <= int(b); n++ {
			if slices.Contains(cpus, n) {
				return nil, false
			}
			cpus = append(cpus, n)
		}
	}
	return cpus, true
}

// Pin returns the processors for so many workers, nil to pin none. With "auto" these are the last that the process may
// use, and none if that would leave no processor for the control goroutine and the collector of garbage: a pinned
// worker would then compete with itself.
func (c *Config) Pin(workers int) ([]int, error) {
	cpus, _ := cpuList(c.CPUs) // checked when it was set
	switch {
	case len(cpus) >= workers:
		return cpus[:workers], nil
	case len(cpus) > 0:
		return nil, fmt.Errorf("pin workers: cpus is %q: %d processors for %d workers", c.CPUs, len(cpus), workers)
	case c.CPUs == "none":
		return nil, nil
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("pin workers: read allowed processors: %w", err)
	}
	for n := range maxCPU + 1 {
		if set.IsSet(n) {
			cpus = append(cpus, n)
		}
	}
	if len(cpus) <= workers {
		return nil, nil
	}
	return cpus[len(cpus)-workers:], nil
}
