package traffic

import (
	"testing"
	"time"
)

func TestParseBusy(t *testing.T) {
	got, err := parseBusy("cpu  100 2 30 9999 8888 4 5 7777 0 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n")
	if want := 141 * 10 * time.Millisecond; err != nil || got != want {
		t.Errorf("busy %v, %v; want %v", got, err, want)
	}
	for _, text := range []string{"", "cpu 1 2", "cpu a b c d e f g h", "intr 1 2 3 4 5 6 7 8"} {
		if _, err := parseBusy(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}
