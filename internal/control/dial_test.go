package control

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUnreachable: what is said where no firewall can be asked, and what to do.
func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "corewire.sock")
	check := func(path string, is error, words ...string) {
		t.Helper()
		_, err := NewClient(path).Status(t.Context())
		if !errors.Is(err, is) {
			t.Errorf("%v: not %v", err, is)
			return
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v does not say %q", err, w)
			}
		}
	}
	check(path, ErrNotRunning, path, "is the firewall running", "systemctl start corewire", "--control-socket")

	other := filepath.Join(dir, "two.sock")
	l, err := net.Listen("unix", other)
	if err != nil {
		t.Fatal(err)
	}
	check(path, ErrNotRunning, "running ones answer at "+other)

	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	check(path, ErrNotRunning, "left behind")

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(file).Status(t.Context()); err == nil {
		t.Error("a file answered")
	}

	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chmod(other, 0o600); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != "/"; d = filepath.Dir(d) { // the way there is free
		if info, err := os.Stat(d); err != nil || info.Mode()&0o005 != 0o005 {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer l.Close()
	done := make(chan error)
	go func() { // on a thread of its own, which ends with it: to files it is nobody
		runtime.LockOSThread()
		if err := unix.Setfsuid(65534); err != nil {
			done <- err
			return
		}
		_, err := dial(context.Background(), other)
		done <- err
	}()
	if err := <-done; !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), "only root may: try sudo") {
		t.Errorf("as nobody: %v", err)
	}
}
