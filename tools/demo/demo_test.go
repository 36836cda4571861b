package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"corewire/tools/lab"
)

// The whole demo, with the real binary: every step is observed, and nothing is left.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 s")
	}
	lab.Need(t, lab.Config{}).Close() // skips or fails where no lab can be made
	binary := build(t)
	t.Setenv("TMPDIR", t.TempDir())
	for _, queues := range []string{"1", "2"} {
		var out, complaints bytes.Buffer
		status := run(t.Context(), []string{"--corewire", binary, "--json", "--megabytes", "5", "--queues", queues}, &out, &complaints)
		if status != exitSeen {
			t.Fatalf("%s queues: exit status %d\n%s%s", queues, status, out.String(), complaints.String())
		}
		var document struct {
			OK    bool
			Steps []stepResult
		}
		if err := json.Unmarshal(out.Bytes(), &document); err != nil || !document.OK || len(document.Steps) < 15 {
			t.Errorf("%s queues: %v\n%s", queues, err, out.String())
		}
		if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) != 0 {
			t.Errorf("%s queues: left %v", queues, left)
		}
	}
}

// build builds the firewall.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "corewire")
	if out, err := exec.Command("go", "build", "-o", binary, "corewire/cmd/corewire").CombinedOutput(); err != nil {
		t.Fatalf("build corewire: %v\n%s", err, out)
	}
	return binary
}

// With a bridge in place of the firewall the probes see what passes, and say so about what should not.
func TestProbesSeeABridge(t *testing.T) {
	l := lab.Need(t, lab.Config{})
	if err := l.Bridge(lab.Plain); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	h, err := newHosts(ctx, l, 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	for _, family := range []int{4, 6} {
		if _, err := answered(ctx, l, family, 2, 1400); err != nil {
			t.Error(err)
		}
		if err := unanswered(ctx, l, family); err == nil || !strings.Contains(err.Error(), "there is a way around corewire") {
			t.Errorf("IPv%d: answered pings gave %v", family, err)
		}
		if _, err := h.download(ctx, family); err != nil {
			t.Error(err)
		}
		before, err := readReassembled(l, family)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.datagram(ctx, family, datagramSize); err != nil {
			t.Error(err)
		}
		after, err := readReassembled(l, family)
		if err != nil {
			t.Fatal(err)
		}
		if after.client != before.client+1 || after.server != before.server+1 {
			t.Errorf("IPv%d: reassembled %+v → %+v", family, before, after)
		}
		err = h.blocked(ctx, lab.Client, hiddenPort{lab.Server, family, portTelnet})
		if err == nil || !strings.Contains(err.Error(), "which the rules forbid") {
			t.Errorf("IPv%d: a connection gave %v", family, err)
		}
	}
}

// A corewire that ends, or that never answers, is reported with its last words, and the rest is not tried.
func TestFirewallThatEnds(t *testing.T) {
	lab.Need(t, lab.Config{}).Close()
	binary := filepath.Join(t.TempDir(), "corewire")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\necho it cannot work\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var out, complaints bytes.Buffer
	if status := run(t.Context(), []string{"--corewire", binary}, &out, &complaints); status != exitNotSeen {
		t.Errorf("exit status %d", status)
	}
	if text := out.String(); !strings.Contains(text, "✗ corewire run") || !strings.Contains(text, "it cannot work") || strings.Contains(text, "download") {
		t.Errorf("output\n%s%s", text, complaints.String())
	}
}

// An interrupt ends the demo at any moment, with everything cleaned up.
func TestInterrupt(t *testing.T) {
	lab.Need(t, lab.Config{}).Close()
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond) // while it waits for pings that must not be answered
	defer cancel()
	var out, complaints bytes.Buffer
	if status := run(ctx, []string{"--corewire", "/bin/true"}, &out, &complaints); status != exitInterrupted {
		t.Errorf("exit status %d: %s%s", status, out.String(), complaints.String())
	}
	if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"--what"}, {"argument"}, {"--megabytes", "0"}, {"--queues", "65"}} {
		var out, complaints bytes.Buffer
		if status := run(t.Context(), args, &out, &complaints); status != exitUsage || !strings.HasPrefix(complaints.String(), "demo: ") && !strings.Contains(complaints.String(), "demo: ") {
			t.Errorf("%v: exit status %d, %q", args, status, complaints.String())
		}
	}
}

// The expression for lines of conntrack -L takes the kernel's lines and nothing else.
func TestConnectionLine(t *testing.T) {
	for line, want := range map[string]bool{
		"tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=5 dport=80 src=10.0.0.2 dst=10.0.0.1 sport=80 dport=5 [ASSURED] mark=0 use=1":       true,
		"tcp      6 117 SYN_SENT src=10.0.0.1 dst=10.0.0.2 sport=5 dport=80 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=80 dport=5 mark=0 use=1":           true,
		"udp      17 29 src=fd73::1 dst=fd73::2 sport=5 dport=9 src=fd73::2 dst=fd73::1 sport=9 dport=5 mark=0 use=1":                                      true,
		"icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=7 src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=7 mark=0 use=1":                             true,
		"ipv4     2 udp      17 29 src=10.0.0.1 dst=10.0.0.2 sport=5 dport=9 src=10.0.0.2 dst=10.0.0.1 sport=9 dport=5 mark=0 use=1":                       false,
		"udp      17 29 src=10.0.0.1 dst=10.0.0.2 src=10.0.0.2 dst=10.0.0.1 mark=0 use=1":                                                                  false,
		"udp      17 soon src=10.0.0.1 dst=10.0.0.2 sport=5 dport=9 src=10.0.0.2 dst=10.0.0.1 sport=9 dport=5 mark=0 use=1":                                false,
		"tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=5 dport=80 src=10.0.0.2 dst=10.0.0.1 sport=80 dport=5 [ASSURED] mark=0 use=1 extra": false,
	} {
		if connectionLine.MatchString(line) != want {
			t.Errorf("%v expected for %q", want, line)
		}
	}
}

// The checksum of RFC 1071's own example, and that a message with its checksum sums up to zero.
func TestChecksum(t *testing.T) {
	if got := checksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}); got != ^uint16(0xddf2) {
		t.Errorf("checksum %#04x", got)
	}
	if got := checksum(echo(echoRequest4, 1, 2, 55)); got != 0 {
		t.Errorf("checksum over a message with checksum %#04x", got)
	}
}
