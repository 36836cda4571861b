// Package figure holds what the measuring commands have in common: how figures of interleaved rounds are told.
package figure

import "slices"

// Spread is the middle of some figures, and how far they go.
type Spread struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

// NewSpread returns the spread of at least one figure.
func NewSpread(v []float64) Spread {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	return Spread{Median: (s[(n-1)/2] + s[n/2]) / 2, Low: s[0], High: s[n-1]}
}
