package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// maxSource bounds a file of rules or sets, in bytes: rules.MaxRules lines of 500 bytes.
const maxSource = 256 << 20

// pipePatience is how long somebody may take to begin to write to a pipe that is read as a file, and how long to go on.
// Whoever has the rules read again waits so long, and with them all other changes.
const pipePatience = 5 * time.Second

// readSource reads a file of rules or sets, which may be a pipe. A file that somebody writes to meanwhile is refused: what was
// read may be parts of two files.
func readSource(what, path string) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("read %s: %w", what, err) }
	// Not blocking, or opening a named pipe waits for a writer for ever. Other files do not care.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if before.Mode()&fs.ModeNamedPipe != 0 {
		text, err := readPipe(f)
		if err != nil {
			return fail(err)
		}
		return text, nil
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSource+1))
	if err != nil {
		return fail(err)
	}
	if len(text) > maxSource {
		return fail(fmt.Errorf("%s is larger than %d bytes", path, maxSource))
	}
	after, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if before.Mode().IsRegular() && (after.Size() != int64(len(text)) || !after.ModTime().Equal(before.ModTime())) {
		return fail(fmt.Errorf("%s was written to while it was read (write to another file and rename it)", path))
	}
	return text, nil
}

// readPipe reads a pipe to its end. Before anybody has written to it, an end is none: nobody has opened it yet.
func readPipe(f *os.File) ([]byte, error) {
	var text []byte
	buf := make([]byte, 64<<10)
	last := time.Now()
	for {
		if err := f.SetReadDeadline(last.Add(pipePatience)); err != nil {
			return nil, err
		}
		n, err := f.Read(buf)
		if text = append(text, buf[:n]...); n > 0 {
			last = time.Now()
		}
		switch {
		case len(text) > maxSource:
			return nil, fmt.Errorf("%s gives more than %d bytes", f.Name(), maxSource)
		case err == io.EOF && len(text) > 0:
			return text, nil
		case errors.Is(err, os.ErrDeadlineExceeded), err == io.EOF && time.Since(last) > pipePatience:
			return nil, fmt.Errorf("%s is a pipe that nobody has written to for %v", f.Name(), pipePatience)
		case err == io.EOF:
			time.Sleep(pipePatience / 500)
		case err != nil:
			return nil, err
		}
	}
}
