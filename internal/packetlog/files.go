package packetlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Files is a ring of pcapng files: when one has its size, the next begins, and the oldest is overwritten. Each is whole by
// itself. One goroutine uses it.
type Files struct {
	path            string // of the set; see Name
	size            int64  // bytes after which a file ends
	count           int
	inside, outside string // interfaces' names

	at      int // number of the file being written
	file    *os.File
	capture *Capture
	written int64
}

// OpenFiles makes a ring of count files of about size bytes each, named after path, and begins with the one behind the
// newest that is there, so that a restart overwrites the oldest. The directory must exist. Files have mode 0600.
func OpenFiles(path string, size int64, count int, inside, outside string) (*Files, error) {
	f := &Files{path: path, size: size, count: count, inside: inside, outside: outside}
	var newest os.FileInfo
	for i := range count {
		info, err := os.Stat(f.Name(i))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open packet log: %w", err)
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("open packet log: %s is no regular file (choose another path)", f.Name(i))
		}
		if newest == nil || info.ModTime().After(newest.ModTime()) {
			newest, f.at = info, (i+1)%count
		}
	}
	if err := f.begin(); err != nil {
		return nil, err
	}
	return f, nil
}

// Name returns the name of a file of the ring: the path with its number before the extension.
func (f *Files) Name(i int) string {
	ext := filepath.Ext(f.path)
	return strings.TrimSuffix(f.path, ext) + "-" + strconv.Itoa(i) + ext
}

// Write appends entries, and makes them readable for others. An error leaves the ring usable: the next call tries again,
// with a new file.
func (f *Files) Write(entries []Entry) error {
	for i := range entries {
		if f.file != nil && f.written >= f.size {
			if err := f.end(); err != nil {
				return err
			}
		}
		if f.file == nil {
			if err := f.begin(); err != nil {
				return err
			}
		}
		if err := f.capture.Write(&entries[i]); err != nil {
			return errors.Join(fmt.Errorf("write packet log %s: %w", f.Name(f.at), err), f.end())
		}
	}
	if f.file == nil {
		return nil
	}
	if err := f.capture.Flush(); err != nil {
		return errors.Join(fmt.Errorf("write packet log %s: %w", f.Name(f.at), err), f.end())
	}
	return nil
}

// begin empties the file whose turn it is and writes its header.
func (f *Files) begin() error {
	file, err := os.OpenFile(f.Name(f.at), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open packet log: %w", err)
	}
	f.file, f.written = file, 0
	if f.capture, err = NewCapture(counted{f}, f.inside, f.outside); err == nil {
		err = f.capture.Flush()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write packet log %s: %w", f.Name(f.at), err), f.end())
	}
	return nil
}

// counted is the file being written, as a Writer that counts.
type counted struct{ f *Files }

func (c counted) Write(b []byte) (int, error) {
	n, err := c.f.file.Write(b)
	c.f.written += int64(n)
	return n, err
}

// end closes the file and turns to the next.
func (f *Files) end() error {
	if f.file == nil {
		return nil
	}
	var err error
	if f.capture != nil {
		err = f.capture.Flush()
	}
	err = errors.Join(err, f.file.Close())
	f.file, f.capture = nil, nil
	f.at = (f.at + 1) % f.count
	if err != nil {
		return fmt.Errorf("close packet log: %w", err)
	}
	return nil
}

// Close completes the file being written.
func (f *Files) Close() error { return f.end() }
