package control

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// Manager talks to the service manager that started the process (systemd's sd_notify protocol: a datagram of
// VARIABLE=value lines to the socket that NOTIFY_SOCKET names). The zero Manager, and the one of a process that has no
// manager, does nothing.
type Manager struct {
	address  string
	watchdog time.Duration
}

// NewManager reads the process's environment: NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID (sd_notify(3),
// sd_watchdog_enabled(3)). It removes nothing from it.
func NewManager() Manager {
	m := Manager{address: os.Getenv("NOTIFY_SOCKET")}
	if pid := os.Getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
		if usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 && usec < int64(time.Hour*24/time.Microsecond) {
			m.watchdog = time.Duration(usec) * time.Microsecond
		}
	}
	return m
}

// Watchdog returns how often Alive must be called: half the time after which the manager takes the process for dead;
// 0 where it does not watch.
func (m Manager) Watchdog() time.Duration { return m.watchdog / 2 }

// Ready tells the manager that the service works; status is shown to the operator.
func (m Manager) Ready(status string) error { return m.send("READY=1\nSTATUS=" + status) }

// Stopping tells the manager that the service is on its way out.
func (m Manager) Stopping() error { return m.send("STOPPING=1") }

// Alive resets the manager's watchdog.
func (m Manager) Alive() error { return m.send("WATCHDOG=1") }

func (m Manager) send(message string) error {
	if m.address == "" {
		return nil
	}
	address := &net.UnixAddr{Name: m.address, Net: "unixgram"} // a leading @ is an abstract name, in Go too
	c, err := net.DialUnix("unixgram", nil, address)
	if err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(message)); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}
