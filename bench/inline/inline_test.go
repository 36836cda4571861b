package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"corewire/rules"
	"corewire/tools/lab"
)

// TestMain lets the test program be the bare forwarder as well, as the command itself is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == forwardVerb {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		os.Exit(runForward(ctx, os.Args[2:]))
	}
	os.Exit(m.Run())
}

// The whole command, shortened, without the subjects that need something installed, but for Open vSwitch where it is: every
// subject forwards, and nothing is left. What it measures here means nothing and is not looked at.
func TestCommand(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	lab.Need(t, lab.Config{}).Close()
	t.Setenv("TMPDIR", t.TempDir())
	subjects := []string{"bare-afxdp", "bridge"}
	if why := missingOVS(); why != "" {
		t.Logf("without Open vSwitch: %s", why)
	} else {
		subjects = append(subjects, "ovs")
	}
	var out, progress bytes.Buffer
	status := run(t.Context(), []string{"--json", "--subjects", strings.Join(subjects, ","), "--rounds", "1", "--duration", "100ms",
		"--rate", "5000", "--flows", "10", "--search=false"}, &out, &progress)
	if status != exitMeasured {
		t.Fatalf("exit status %d\n%s", status, progress.String())
	}
	var document struct {
		Results []struct {
			Summary []summary
			Rounds  []round
		}
	}
	if err := json.Unmarshal(out.Bytes(), &document); err != nil || len(document.Results) != 1 {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for name, m := range document.Results[0].Rounds[0].Subjects {
		// At full load the generator may leave a subject no processor for so short a time.
		if m.Full.Made == 0 || m.Paced.Forwarded == 0 || m.Full.Tasks <= 0 {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if n := len(document.Results[0].Summary); n != len(subjects) {
		t.Errorf("%d subjects", n)
	}
	if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// The rules of --rules are the same for all, and stand in front of those that match.
func TestRules(t *testing.T) {
	const n = 70_000
	own := iptablesRules(n)
	f, err := rules.Parse("bench", own, rules.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rules.Compile([]*rules.File{f}, rules.Options{}); err != nil {
		t.Fatal(err)
	}
	if bytes.Count(own, []byte("\n")) != bytes.Count(ruleFile, []byte("\n"))+n || bytes.Index(own, []byte("172.17.17.111/32")) > bytes.Index(own, []byte("192.0.2.0/24")) {
		t.Error("the rules are not where they should be")
	}
	seen := map[string]bool{}
	for i := range n {
		addr, _ := blockedHost(i)
		if seen[addr] {
			t.Fatalf("%s twice", addr)
		}
		seen[addr] = true
	}
	if a, b := bytes.Count(nftRules(n, false), []byte("ip saddr 172.")), bytes.Count(nftRules(n, true), []byte(" . "))-2; a != n || b != n {
		t.Errorf("%d rules and %d elements for nft, want %d", a, b, n)
	}
	if a := bytes.Count(ovsFlows(n), []byte("nw_src=172.")); a != n {
		t.Errorf("%d flows for Open vSwitch, want %d", a, n)
	}
}

// New connections go the same way.
func TestFresh(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	lab.Need(t, lab.Config{}).Close()
	var out, progress bytes.Buffer
	status := run(t.Context(), []string{"--subjects", "bridge", "--rounds", "1", "--duration", "100ms", "--rate", "5000", "--traffic", "new"}, &out, &progress)
	if status != exitMeasured || !bytes.Contains(out.Bytes(), []byte("M connections/s")) {
		t.Errorf("exit status %d\n%s%s", status, out.String(), progress.String())
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"--what"}, {"argument"}, {"--rounds", "0"}, {"--size", "59"}, {"--duration", "1ms"}, {"--flows", "0"},
		{"--proto", "sctp"}, {"--traffic", "old"}, {"--rate", "1"}, {"--rules", "100001"}} {
		var out, complaints bytes.Buffer
		if status := run(t.Context(), args, &out, &complaints); status != exitUsage || !bytes.Contains(complaints.Bytes(), []byte("inline: ")) {
			t.Errorf("%v: exit status %d, %q", args, status, complaints.String())
		}
	}
	var out, complaints bytes.Buffer
	if status := run(t.Context(), []string{"--subjects", "nothing"}, &out, &complaints); status != exitFailed {
		t.Errorf("unknown subject: exit status %d", status)
	}
}
