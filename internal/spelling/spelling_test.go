package spelling

import (
	"math/rand/v2"
	"testing"
)

// slow is the definition.
func slow(a, b string) int {
	switch {
	case a == "":
		return len(b)
	case b == "":
		return len(a)
	case a[0] == b[0]:
		return slow(a[1:], b[1:])
	}
	return 1 + min(slow(a[1:], b), slow(a, b[1:]), slow(a[1:], b[1:]))
}

func TestDistance(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func() string {
		b := make([]byte, r.IntN(7))
		for i := range b {
			b[i] = "abc"[r.IntN(3)]
		}
		return string(b)
	}
	for range 2000 {
		if a, b := word(), word(); Distance(a, b) != slow(a, b) {
			t.Fatalf("%q and %q: %d, want %d", a, b, Distance(a, b), slow(a, b))
		}
	}
}
