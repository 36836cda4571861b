package main

import (
	"math"
	"testing"
)

// Ratios are taken within a round: a round in which the machine was half as fast changes none of them.
func TestSummarise(t *testing.T) {
	made := func(slow float64) round {
		p := func(forwarded, busy float64) point {
			return point{Made: 1_000_000, Forwarded: uint64(forwarded / slow), Seconds: 1, Busy: 0.1 + busy}
		}
		return round{AloneFull: point{Made: 2_000_000, Seconds: 1, Busy: 0.2}, AlonePaced: point{Made: 2_000_000, Seconds: 1, Busy: 0.2},
			Subjects: map[string]measurement{
				"a": {Full: p(1000_000, 0.5), Paced: p(100_000*slow, 0.05*slow), LossFree: 500_000 / slow},
				"b": {Full: p(500_000, 0.5), Paced: p(100_000*slow, 0.15*slow), LossFree: 100_000 / slow},
			}}
	}
	got := summarise([]string{"a", "b"}, "a", []round{made(1), made(2)})
	near := func(name string, got, want float64) {
		if math.Abs(got-want) > 1e-9*math.Abs(want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	near("forwarded by a", got[0].Forwarded.Median, 750_000)
	near("cost of a, low", got[0].Cost.Low, 500)
	near("forwarded ratio, low", got[1].ForwardedRatio.Low, 0.5)
	near("forwarded ratio, high", got[1].ForwardedRatio.High, 0.5)
	near("loss-free ratio", got[1].LossFreeRatio.Median, 0.2)
	near("cost ratio, low", got[1].CostRatio.Low, 3)
	near("cost ratio, high", got[1].CostRatio.High, 3)
	near("own ratio", got[0].CostRatio.Median, 1)
}
