package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// socketError says that there is no way to the firewall, and what may be done about it.
type socketError struct {
	text string
	err  error // ErrNotRunning, syscall.EACCES, or what the kernel said
}

func (e *socketError) Error() string { return e.text }

func (e *socketError) Unwrap() error { return e.err }

// dial connects to the control socket. Its errors are *socketError.
func dial(ctx context.Context, path string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, unreachable(path, err)
	}
	return c, nil
}

// unreachable makes a *socketError of what a connect to path returned.
func unreachable(path string, err error) error {
	e := &socketError{err: err}
	hint := ""
	switch {
	case errors.Is(err, syscall.ENOENT):
		e.err = ErrNotRunning
		hint = "is the firewall running? corewire run, or systemctl start corewire, starts it; --control-socket names its socket if it is another"
		if others := sockets(path); len(others) > 0 {
			hint = "running ones answer at " + strings.Join(others, ", ") + ": say --control-socket"
		}
	case errors.Is(err, syscall.ECONNREFUSED):
		e.err = ErrNotRunning
		hint = "is the firewall running? The socket was left behind by one that was killed; the next corewire run replaces it"
	case errors.Is(err, syscall.EACCES):
		e.err = syscall.EACCES
		hint = "only " + owner(path) + " may: try sudo, or run as that user"
	case errors.Is(err, syscall.ENOTSOCK), errors.Is(err, syscall.EPROTOTYPE):
		hint = "it is no control socket of corewire's: say --control-socket"
	}
	e.text = fmt.Sprintf("connect to control socket %s: %v", path, e.err)
	if hint != "" {
		e.text += " (" + hint + ")"
	}
	return e
}

// sockets returns what answers beside path: sockets in the same directory, which is where several firewalls have theirs.
func sockets(path string) (found []string) {
	all, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*.sock")) // only a bad pattern is an error
	for _, p := range all {
		if p == path {
			continue
		}
		if info, err := os.Stat(p); err != nil || info.Mode()&os.ModeSocket == 0 {
			continue
		}
		if c, err := net.Dial("unix", p); err == nil {
			c.Close()
			found = append(found, p)
		}
	}
	return found
}

// owner names who owns a file, or the first directory above it that can be looked at.
func owner(path string) string {
	for ; path != "/" && path != "."; path = filepath.Dir(path) {
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			id := strconv.Itoa(int(s.Uid))
			if u, err := user.LookupId(id); err == nil {
				return u.Username
			}
			return "user " + id
		}
	}
	return "its owner"
}
