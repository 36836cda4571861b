package traffic

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
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
