package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"corewire/tools/lab"
)

// What is made in the lab is counted, and said as JSON and as text.
func TestLab(t *testing.T) {
	lab.Need(t, lab.Config{}).Close()
	var out, complaints bytes.Buffer
	args := []string{"--lab", "--frames", "5000", "--rate", "100000", "--duration", "10s", "--flows", "100", "--random"}
	if status := run(t.Context(), append(args, "--json"), &out, &complaints); status != 0 {
		t.Fatalf("exit status %d: %s", status, complaints.String())
	}
	var r result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Made != 5000 || r.Counted == nil || *r.Counted != 5000 || r.Flows != 100 {
		t.Errorf("%v: %s", err, out.String())
	}
	out.Reset()
	if status := run(t.Context(), args, &out, &complaints); status != 0 || !bytes.Contains(out.Bytes(), []byte("counted  5000 frames")) {
		t.Errorf("exit status %d: %s%s", status, out.String(), complaints.String())
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"--lab", "--port", "x"}, {"--lab", "argument"}, {"--lab", "--proto", "x"}, {"--what"},
		{"--port", "lo", "--client", "x"}, {"--port", "lo", "--client", "192.0.2.1", "--server", "192.0.2.2", "--server-mac", "x"}} {
		var out, complaints bytes.Buffer
		if status := run(t.Context(), args, &out, &complaints); status != 2 || !bytes.Contains(complaints.Bytes(), []byte("trafficgen: ")) {
			t.Errorf("%v: exit status %d, %q", args, status, complaints.String())
		}
	}
}
