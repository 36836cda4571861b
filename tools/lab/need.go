package lab

import "os"

// TB is the part of testing.TB that Need uses, so that programs which use a lab do not import testing.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Need returns a lab for a test, closed when the test ends. Where a lab cannot be made the test is skipped with the
// reason; with CI=true in the environment it fails instead, so that a lost privilege cannot pass for a success.
func Need(tb TB, c Config) *Lab {
	tb.Helper()
	l, err := New(c)
	if err != nil {
		if os.Getenv("CI") == "true" {
			tb.Fatalf("cannot make a lab: %v", err)
		}
		tb.Skipf("cannot make a lab: %v", err)
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Errorf("close lab: %v", err)
		}
	})
	return l
}
