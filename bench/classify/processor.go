package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// pinned runs f on processor 0, where the peer runs too. It is for a goroutine that is locked to its thread; only what is
// measured runs so, for the Go runtime's own threads wait for one another spinning.
func pinned(f func()) error {
	var one, all unix.CPUSet
	one.Set(0)
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("stay on processor 0: %w", err)
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("stay on processor 0: %w", err)
	}
	f()
	return unix.SchedSetaffinity(0, &all)
}

// processor returns the processor's model and flags.
func processor() (model, flags string) {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor", ""
	}
	model = "unknown processor"
	for line := range strings.Lines(string(text)) {
		k, v, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(k) {
		case "model name":
			model = strings.TrimSpace(v)
		case "flags":
			flags = v
		}
	}
	return model, flags
}
