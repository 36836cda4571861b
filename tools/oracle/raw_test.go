package main

import "testing"

// Table raw before tracking, under every protocol's stream.
func TestRaw(t *testing.T) {
	need(t)
	for _, name := range generatorNames() {
		n := amount() / 16
		switch name {
		case "timed":
			continue
		case "fragments":
			n /= 2
		}
		t.Run(name, func(t *testing.T) {
			s, err := newComparison(t, newConfig(t, "raw.rules")).run(name, generators[name].frames(*seed, n))
			report(t, s, err)
		})
	}
}
