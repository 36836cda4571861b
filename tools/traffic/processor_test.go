package traffic

import (
	"os"
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

// The process's own time grows while it works, and a process that does not exist has none.
func TestTaskTime(t *testing.T) {
	before, err := TaskTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	after := before
	for deadline := time.Now().Add(5 * time.Second); after == before && time.Now().Before(deadline); {
		if after, err = TaskTime(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if after <= before {
		t.Errorf("time went from %v to %v", before, after)
	}
	if n, err := TaskTime(1 << 30); n != 0 || err != nil {
		t.Errorf("no process: %v, %v", n, err)
	}
	if n, err := ThreadTime(); n <= 0 || err != nil {
		t.Errorf("thread time %v, %v", n, err)
	}
	if pids, err := Kernel("ksoftirqd/0"); len(pids) > 1 || err != nil { // none in a process namespace
		t.Errorf("ksoftirqd/0 has processes %v, %v", pids, err)
	}
}
