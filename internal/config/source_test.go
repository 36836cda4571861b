package config

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestReadSource reads what is no ordinary file: pipes with a writer that comes late, one that stops and none, a directory, and
// a file that grows under the reader's hands.
func TestReadSource(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		f, err := os.OpenFile(pipe, os.O_WRONLY, 0)
		if err != nil {
			return
		}
		_, _ = f.WriteString("*filter\n")
		time.Sleep(20 * time.Millisecond)
		_, _ = f.WriteString("COMMIT\n")
		_ = f.Close()
	}()
	if text, err := readSource("rules", pipe); err != nil || string(text) != "*filter\nCOMMIT\n" {
		t.Errorf("a pipe gives %q, %v", text, err)
	}
	begun := time.Now()
	if _, err := readSource("rules", pipe); err == nil || !strings.Contains(err.Error(), "nobody has written to") {
		t.Errorf("a pipe without a writer: %v after %v", err, time.Since(begun))
	}
	if _, err := readSource("sets", dir); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("a directory: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte(strings.Repeat("# so that reading takes long\n", 1<<18)), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	stopped := make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- w.Close()
				return
			default:
				_, _ = w.WriteString("#\n")
				time.Sleep(time.Microsecond)
			}
		}
	}()
	time.Sleep(time.Millisecond)
	if _, err := readSource("rules", file); err == nil || !strings.Contains(err.Error(), "while it was read") {
		t.Errorf("a file that somebody writes to: %v", err)
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if _, err := readSource("rules", file); err != nil {
		t.Errorf("the file in peace: %v", err)
	}
}
