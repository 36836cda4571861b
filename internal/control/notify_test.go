package control

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

func TestManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "10000000")
	m := NewManager()
	if m.Watchdog() != 5*time.Second {
		t.Errorf("watchdog every %v", m.Watchdog())
	}
	for _, step := range []struct {
		send func() error
		want string
	}{{func() error { return m.Ready("forwarding") }, "READY=1\nSTATUS=forwarding"}, {m.Alive, "WATCHDOG=1"}, {m.Stopping, "STOPPING=1"}} {
		if err := step.send(); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, err := l.Read(b)
		if err != nil || string(b[:n]) != step.want {
			t.Errorf("%q, %v, want %q", b[:n], err, step.want)
		}
	}
	t.Setenv("WATCHDOG_PID", "1") // another process is watched
	if m := NewManager(); m.Watchdog() != 0 {
		t.Errorf("watchdog every %v", m.Watchdog())
	}
	if err := (Manager{}).Ready("nobody listens"); err != nil {
		t.Error(err)
	}
	l.Close()
	if err := m.Alive(); err == nil {
		t.Error("a manager that is gone")
	}
}
