package rules

import "testing"

// TestLimit: the burst, then a packet a period; a clock that begins again does not shut the rule.
func TestLimit(t *testing.T) {
	b := newBucket(&LimitMatch{Period: limitScale / 2, Burst: 3}) // two a second
	ms := int64(1e6)
	for _, step := range []struct {
		at   int64 // milliseconds
		want bool
	}{
		{0, true}, {0, true}, {0, true}, {0, false}, {499, false}, {500, true}, {600, false}, {2000, true}, {2000, true}, {2000, true}, {2000, false},
		{-1e6, true}, {-1e6, true}, {-1e6, true}, {-1e6, false},
	} {
		if got := b.take(step.at * ms); got != step.want {
			t.Errorf("at %d ms: %v, want %v", step.at, got, step.want)
		}
	}
}
