package dataplane

import (
	"time"

	"golang.org/x/sys/unix"
)

// monotonic returns a clock that reads CLOCK_MONOTONIC in nanoseconds, the time base of bpf_ktime_get_ns. It asks the
// kernel once for the offset to Go's monotonic clock and costs no system call afterwards.
func monotonic() (func() int64, error) {
	var ts unix.Timespec
	start := time.Now()
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return nil, err
	}
	base := ts.Nano()
	return func() int64 { return base + int64(time.Since(start)) }, nil
}
