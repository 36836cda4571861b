package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAnswers: ours names the first rule of brute force for every header, and so does the peer where it is installed.
func TestAnswers(t *testing.T) {
	tool, missing := exec.LookPath("dpdk-test-acl")
	if missing != nil {
		t.Logf("compared with brute force alone: the peer (Debian: dpdk-dev) is not here: %v", missing)
		defer t.Run("peer", func(t *testing.T) { t.Skip(missing) })
	}
	for _, name := range []string{"flat_300", "deep_300", "flat_3000", "deep_3000"} {
		o := options{}
		set, err := o.load(name)
		if err != nil {
			t.Fatal(err)
		}
		headers := trace(set, 4096, 0.1)
		our, err := newOwn(name, set, headers)
		if err != nil {
			t.Fatal(err)
		}
		ours := our.answers()
		for i := range headers {
			if want := first(set, &headers[i]); ours[i] != want {
				t.Fatalf("%s, header %d: rule %d, want %d", name, i, ours[i], want)
			}
		}
		if missing != nil || len(set) > 1000 {
			continue
		}
		p, err := newPeer(tool, t.TempDir(), set, headers, 256)
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.run("scalar", 1, true)
		if err != nil {
			t.Fatal(err)
		}
		if r.ns <= 0 || r.bytes <= 0 || r.build <= 0 {
			t.Errorf("%s: no figures: %v ns, %d bytes, %v", name, r.ns, r.bytes, r.build)
		}
		for i := range headers {
			if r.rules[i] != ours[i] {
				t.Fatalf("%s, header %d: rule %d, the peer's %d", name, i, ours[i], r.rules[i])
			}
		}
	}
}

// TestText: what is written for the peer reads back.
func TestText(t *testing.T) {
	set := makeSet("deep", 200)
	lines := strings.Split(strings.TrimSpace(string(classBenchText(set))), "\n")
	if len(lines) != len(set) {
		t.Fatalf("%d lines", len(lines))
	}
	if want := "@0.0.0.0/0\t10.1.2.0/24\t0 : 65535\t80 : 80\t0x06/0xff\n"; true {
		x := tuple{lo: [4]uint32{0, 10<<24 | 1<<16 | 2<<8, 0, 80}, hi: [4]uint32{1<<32 - 1, 10<<24 | 1<<16 | 2<<8 | 255, 65535, 80}, proto: 6, protoMask: 255}
		if got := string(classBenchText([]tuple{x})); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if a, b := trace(set, 500, 0.1), trace(set, 500, 0.1); a[499] != b[499] || len(a) != 500 {
		t.Error("a trace differs from itself")
	}
}

// TestCommand runs a short measurement of corewire alone.
func TestCommand(t *testing.T) {
	var out, errs bytes.Buffer
	args := []string{"--alone", "--sets", "flat_100,acl1_1k", "--data", filepath.Join(t.TempDir(), "none"), "--rounds", "1", "--passes", "1", "--headers", "640"}
	if s := run(args, &out, &errs); s != exitMeasured {
		t.Fatalf("status %d: %s", s, errs.String())
	}
	if !strings.Contains(out.String(), "flat_100: 100 rules") || !strings.Contains(out.String(), "acl1_1k: not here") {
		t.Errorf("it printed\n%s", out.String())
	}
	for _, bad := range [][]string{{"--rounds", "0"}, {"x"}, {"--step", "0"}, {"--nothing"}} {
		if s := run(bad, &out, &errs); s != exitUsage {
			t.Errorf("%v: status %d", bad, s)
		}
	}
	if s := run([]string{"--alone", "--sets", "flat_0"}, &out, &errs); s != exitFailed {
		t.Errorf("a set of no rules: status %d", s)
	}
}
