package main

import (
	"iter"
	"slices"
)

// streams are the generated streams by name.
var streams = map[string]func(seed uint64, n int) iter.Seq[shot]{
	"tcp":       tcpStream,
	"mix":       mixStream,
	"mutated":   mutatedStream,
	"fragments": fragmentStream,
	"sctp":      sctpStream,
	"timed":     timedStream,
}

// streamNames returns the names in order.
func streamNames() []string {
	var names []string
	for n := range streams {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
