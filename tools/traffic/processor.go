package traffic

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of /proc/stat: USER_HZ is 100 on every architecture that AF_XDP drivers exist for (proc(5)).
const tick = 10 * time.Millisecond

// Busy returns the time that all processors together have spent on anything but idling since boot, interrupts and
// softirqs included, time stolen by a hypervisor not. Its resolution is 10 ms per processor.
func Busy() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read processor times: %w", err)
	}
	return parseBusy(string(text))
}

// parseBusy adds user, nice, system, irq and softirq of the line of all processors.
func parseBusy(text string) (time.Duration, error) {
	line, _, _ := strings.Cut(text, "\n")
	f := strings.Fields(line)
	if len(f) < 8 || f[0] != "cpu" {
		return 0, fmt.Errorf("read processor times: unexpected line %q", line)
	}
	var ticks uint64
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read processor times: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// TaskTime returns the time that all threads of some processes have run, in the kernel and outside it, with a resolution of a
// scheduler tick. Softirqs are in it where they ran at the end of something that the thread did in the kernel, which
// is where a veth's do. A process that is gone counts nothing. It needs CONFIG_SCHED_INFO
// (Documentation/scheduler/sched-stats.rst).
func TaskTime(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			continue
		}
		for _, task := range tasks {
			t, err := taskTime(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, task.Name()))
			if err != nil && !gone(err) {
				return 0, err
			}
			sum += t
		}
	}
	return sum, nil
}

// ThreadTime is TaskTime of the calling thread alone.
func ThreadTime() (time.Duration, error) { return taskTime("/proc/thread-self/schedstat") }

// gone reports whether an error means that a thread has ended.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// taskTime reads the first of three numbers: nanoseconds on a processor.
func taskTime(path string) (time.Duration, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read task time: %w", err)
	}
	first, _, _ := strings.Cut(string(text), " ")
	n, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read task time: %w", err)
	}
	return time.Duration(n), nil
}

// Kernel returns the process numbers of the kernel threads whose names begin with prefix.
func Kernel(prefix string) ([]int, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, fmt.Errorf("list kernel threads: %w", err)
	}
	var pids []int
	for _, path := range paths {
		name, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(name), prefix) {
			continue
		}
		// A kernel thread has no program; anybody can take a name.
		if _, err := os.Readlink(filepath.Join(filepath.Dir(path), "exe")); err == nil {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
