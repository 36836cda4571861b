package bench

import (
	"slices"
	"testing"
)

// rounds is how often each of the things compared is run, in turn. Odd, so that the median is one of the figures.
const rounds = 7

// figures are what the rounds gave for one thing.
type figures []float64

// median returns the middle figure.
func (f figures) median() float64 {
	s := slices.Sorted(slices.Values(f))
	return s[len(s)/2]
}

// over returns the ratios to another's figures, round by round.
func (f figures) over(base figures) figures {
	var q figures
	for i := range f {
		q = append(q, f[i]/base[i])
	}
	return q
}

// report reports the median with the lowest and the highest figure.
func (f figures) report(b *testing.B, name string) {
	b.ReportMetric(f.median(), name)
	b.ReportMetric(slices.Min(f), name+"-low")
	b.ReportMetric(slices.Max(f), name+"-high")
}

// once hides the time per operation, which means nothing where a benchmark has rounds of its own.
func once(b *testing.B) { b.ReportMetric(0, "ns/op") }
