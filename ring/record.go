package ring

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"corewire/internal/packet"

	"golang.org/x/sys/unix"
)

// runDir holds the records of all wires, and our own bpffs where the system has none.
const runDir = "/run/corewire"

// recordVersion is the version of the record's form.
const recordVersion = 1

// record is the state file of a wire: what must be undone when it ends. It is written before the first change, so that
// another process can undo it, or take over, whenever this one is killed.
type record struct {
	Version int                      `json:"version"`
	PID     int                      `json:"pid"`   // of the process that wrote it
	Netns   uint64                   `json:"netns"` // cookie of the interfaces' network namespace
	Pins    string                   `json:"pins"`  // directory of the pinned links
	Port    [packet.Ports]recordPort `json:"port"`  // inside, outside
}

type recordPort struct {
	Name     string    `json:"name"`
	Index    int       `json:"index"`
	Settings []Setting `json:"settings"` // in order of change
}

// recordFile is the state file, locked for this process.
type recordFile struct {
	path string
	lock *os.File
}

// firstNamespace is the inode of the network namespace that the machine boots with: NET_NS_INIT_INO in
// include/uapi/linux/nsfs.h, fixed since Linux 6.18. It serves where the first process may not be looked at.
const firstNamespace = 0xeffffff9

// pairName names a wire among those of this machine: by its interfaces, and by the network namespace's inode unless that
// is the first process's. Interface names repeat in other namespaces.
func pairName(inside, outside string) string {
	name := inside + "-" + outside
	var mine, first unix.Stat_t
	if unix.Stat("/proc/thread-self/ns/net", &mine) != nil {
		return name
	}
	if unix.Stat("/proc/1/ns/net", &first) != nil {
		first.Ino = firstNamespace
	}
	if mine.Ino != first.Ino {
		name += fmt.Sprintf("@%d", mine.Ino)
	}
	return name
}

// netnsCookie identifies the thread's network namespace among all since boot, which its inode does not. 0 before
// Linux 5.14.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		cookie, err = 0, nil
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return 0, fmt.Errorf("identify network namespace: %w", err)
	}
	return cookie, nil
}

// settings returns what the former process changed at interface index of port, if r is of this very interface.
func (r *record) settings(port packet.Port, netns uint64, index int) []Setting {
	if r == nil || r.Netns != netns || r.Port[port].Index != index {
		return nil
	}
	return r.Port[port].Settings
}

// lockRecord takes the state file for this process. It fails at once if a living process has it.
func lockRecord(path string) (*recordFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make directory of state file: %w", err)
	}
	name := path + ".lock"
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open lock of state file: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			pid := make([]byte, 16)
			n, _ := f.ReadAt(pid, 0)
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("interfaces are in use by another corewire process, pid %s (stop it first; lock %s)",
					strings.TrimSpace(string(pid[:n])), name)
			}
			return nil, fmt.Errorf("lock state file: %w", err)
		}
		// The former holder may have removed the file between our open and our lock; then the lock is worth nothing.
		var held, there unix.Stat_t
		if unix.Fstat(int(f.Fd()), &held) == nil && unix.Stat(name, &there) == nil && held.Ino == there.Ino {
			err := f.Truncate(0)
			if err == nil {
				_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
			}
			if err != nil {
				return nil, errors.Join(fmt.Errorf("write lock of state file: %w", err), f.Close())
			}
			return &recordFile{path: path, lock: f}, nil
		}
		f.Close()
	}
}

// unlock gives the state file up. The lock file goes as well.
func (f *recordFile) unlock() error {
	return errors.Join(os.Remove(f.lock.Name()), f.lock.Close())
}

// read returns the record that a former process left, nil if there is none.
func (f *recordFile) read() (*record, error) {
	b, err := os.ReadFile(f.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state file: %w", err)
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("read state file %s: %w (what a former process changed is unknown; remove the file to go on)", f.path, err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("read state file %s: version %d, expected %d (release the interfaces with the corewire that wrote it)", f.path, r.Version, recordVersion)
	}
	return &r, nil
}

// write replaces the record in one step.
func (f *recordFile) write(r *record) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	tmp := f.path + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write state file: %w", err)
	}
	if err := os.Rename(tmp, f.path); err != nil {
		return errors.Join(fmt.Errorf("write state file: %w", err), os.Remove(tmp))
	}
	return nil
}

// remove deletes the record: nothing is left to undo.
func (f *recordFile) remove() error {
	if err := os.Remove(f.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove state file: %w", err)
	}
	return nil
}
