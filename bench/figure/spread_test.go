package figure

import "testing"

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want Spread
	}{
		{[]float64{3}, Spread{Median: 3, Low: 3, High: 3}},
		{[]float64{4, 1}, Spread{Median: 2.5, Low: 1, High: 4}},
		{[]float64{9, 1, 5}, Spread{Median: 5, Low: 1, High: 9}},
	} {
		if got := NewSpread(c.in); got != c.want {
			t.Errorf("%v: %v, want %v", c.in, got, c.want)
		}
	}
}
