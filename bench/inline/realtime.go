package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// realtimePriority is above the NAPI threads' (subject.go) and below everything that the kernel itself runs in real time.
const realtimePriority = 10

// realtime moves this program, and so every thread and process that it starts from now on, to the real-time class
// (sched(7)): other programs get what is left, which the kernel keeps at 5 % at least.
func realtime() error {
	tasks, err := filepath.Glob("/proc/self/task/[0-9]*")
	if err != nil {
		return err
	}
	for _, path := range tasks {
		tid, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: realtimePriority}
		if err := unix.SchedSetAttr(tid, &attr, 0); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("run in real time: %w (CAP_SYS_NICE is needed)", err)
		}
	}
	return nil
}
