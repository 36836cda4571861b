package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInUse says that another process answers at the socket's path.
var ErrInUse = errors.New("another corewire answers there")

// socket is a listening unix socket that removes its path when it is closed, if the path is still its own.
type socket struct {
	*net.UnixListener
	path string
	dev  uint64
	ino  uint64
}

// listen makes the control socket: mode 0600 from the first moment that it can be found, in a directory that is made
// (0755) if it is missing. A socket that nobody answers at, left by a killed process, is replaced; one that is
// answered is not (ErrInUse), nor is anything that is no socket.
//
// The directory is locked meanwhile, against a second process that does the same at the same time.
func listen(path string) (*socket, error) {
	fail := func(err error) (*socket, error) { return nil, fmt.Errorf("listen at control socket %s: %w", path, err) }
	directory := filepath.Dir(path)
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return fail(err)
	}
	lock, err := os.Open(directory)
	if err != nil {
		return fail(err)
	}
	defer lock.Close() // unlocks
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fail(fmt.Errorf("lock directory: %w", err))
	}

	switch info, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return fail(err)
	case info.Mode()&os.ModeSocket == 0:
		return fail(errors.New("the path exists and is no socket (it was left as it is)"))
	default:
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			c.Close()
			return fail(fmt.Errorf("%w (give this one another path with --control-socket)", ErrInUse))
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return fail(err)
		}
		if err := os.Remove(path); err != nil {
			return fail(err)
		}
	}

	l, err := bind(path)
	if err != nil {
		return fail(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fail(errors.Join(err, l.Close()))
	}
	return &socket{UnixListener: l, path: path, dev: st.Dev, ino: st.Ino}, nil
}

// bind makes a listening socket whose file has mode 0600 from the beginning: the kernel gives the file the descriptor's
// own mode, less the umask (unix_bind_bsd, net/unix/af_unix.c), and a umask belongs to all threads of a process.
func bind(path string) (*net.UnixListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); e != nil {
			return e
		}
		return err
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false)
	return u, nil
}

// Close stops listening and removes the path, unless it is another socket's by now.
func (s *socket) Close() error {
	err := s.UnixListener.Close()
	var st unix.Stat_t
	if unix.Lstat(s.path, &st) == nil && st.Dev == s.dev && st.Ino == s.ino {
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}
