package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"corewire/tools/lab"
)

// Every verb of corewire set against a running firewall: what it prints, its exit code and its words; and rules that name a
// set that is not there, at reload and by corewire rules: refused, and the running ones stay.
func TestSetVerbs(t *testing.T) {
	l := lab.Need(t, lab.Config{})
	dir := t.TempDir()
	const head = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set "
	rules, sets, socket := write(t, "rules", head+"blocked src -j DROP\nCOMMIT\n"), write(t, "sets", "create blocked hash:net\nadd blocked 192.0.2.0/24\n"), filepath.Join(dir, "cw.sock")
	p := start(t, l, "--inside", lab.InsidePort, "--outside", lab.OutPort, "--rules", rules, "--sets", sets, "--control-socket", socket, "--metrics-addr=",
		"--state-file", filepath.Join(dir, "state.json"))
	p.wait("msg=forwarding")
	more := write(t, "more", "create wide hash:net timeout 60\nadd wide 10.0.0.0/8 timeout 0\n")
	bad := write(t, "bad", "add blocked 10.1.0.0/16\nadd blocked nonsense\n")
	for _, tc := range []struct {
		args string
		code int
		want string // printed, or said by the error
	}{
		{"set list -n", 0, "blocked\n"},
		{"set list blocked", 0, "Name: blocked\nType: hash:net\n"},
		{"set list -t blocked", 0, "Number of entries: 1\n"},
		{"set list nope", 1, "The set with the given name does not exist"},
		{"set save", 0, "add blocked 192.0.2.0/24\n"},
		{"set save nope", 1, "The set with the given name does not exist"},
		{"set create mine hash:ip counters", 0, ""},
		{"set create mine hash:ip counters", 1, "set with the same name already exists"},
		{"set create -! mine hash:ip counters", 0, ""},
		{"set create odd hash:foo", 1, "foo"},
		{"set create one", 2, "2 arg"},
		{"set add mine 10.0.0.1 packets 3", 0, ""},
		{"set add mine 10.0.0.1", 1, "it's already added"},
		{"set add -! mine 10.0.0.1", 0, ""},
		{"set add mine 10.0.0.300", 1, "10.0.0.300"},
		{"set add mien 10.0.0.1", 1, "did you mean mine?"},
		{"set test mine 10.0.0.1", 0, ""},
		{"set test mine 10.0.0.2", 1, "10.0.0.2 is NOT in set mine"},
		{"set del mine 10.0.0.2", 1, "it's not added"},
		{"set del -! mine 10.0.0.2", 0, ""},
		{"set del mine 10.0.0.1", 0, ""},
		{"set restore -f " + more, 0, ""},
		{"set restore -f " + more, 1, ":1:"},
		{"set restore -! -f " + more, 0, ""},
		{"set restore -f " + bad, 1, ":2:13"},
		{"set test blocked 10.1.0.0", 1, "NOT in set"},
		{"set restore -f " + dir + "/none", 1, "no such file"},
		{"set swap wide mine", 1, "type"},
		{"set swap wide blocked", 0, ""},
		{"set test blocked 10.1.0.0", 0, ""},
		{"set swap wide blocked", 0, ""},
		{"set rename mine yours", 0, ""},
		{"set rename blocked other", 1, ""},
		{"set destroy blocked", 1, "in use"},
		{"set destroy yours", 0, ""},
		{"set flush wide", 0, ""},
		{"set flush nope", 1, "does not exist"},
		{"set nonsense", 2, "nonsense"},
		{"rules insert FORWARD -m set --match-set bloked src -j ACCEPT", 3, "insert FORWARD: expected a set that exists, found \"bloked\" (did you mean blocked?)\n  -m set --match-set bloked src -j ACCEPT\n                     ^^^^^^\nnothing was changed"},
		{"set list -s wide", 0, "Number of entries: 0\n"},
	} {
		words := strings.Fields(tc.args)
		out, err := call(t, append(words, "--control-socket", socket)...)
		code, said := 0, out
		if err != nil {
			code, said = exitCode(err), err.Error()
		}
		if code != tc.code || !strings.Contains(said, tc.want) {
			t.Errorf("corewire %s: exit code %d, want %d; %q, want %q", tc.args, code, tc.code, said, tc.want)
		}
	}
	out, err := call(t, "set", "list", "--json", "blocked", "--control-socket", socket)
	var list []map[string]any
	if err != nil || json.Unmarshal([]byte(out), &list) != nil || len(list) != 1 {
		t.Errorf("set list --json: %v\n%s", err, out)
	}
	// A rule file with a set that is not there: place and nearest name, and everything stays.
	if err := os.WriteFile(rules, []byte(head+"bloked src -j DROP\nCOMMIT\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, "reload", "--control-socket", socket); err == nil || !strings.Contains(err.Error(), `:3:31: expected a set that exists, found "bloked" (did you mean blocked?)`) {
		t.Errorf("reload: %v", err)
	}
	if out, err := call(t, "rules", "save", "--control-socket", socket); err != nil || !strings.Contains(out, "--match-set blocked src -j DROP") {
		t.Errorf("the rules in force are %v\n%s", err, out)
	}
	if _, err := call(t, "set", "test", "blocked", "192.0.2.7", "--control-socket", socket); err != nil {
		t.Errorf("the running set: %v", err)
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.end(); err != nil {
		t.Error(err)
	}
	// The same without a firewall: at start, and by check.
	for _, words := range [][]string{
		{"run", "--inside", lab.InsidePort, "--outside", lab.OutPort, "--rules", rules, "--sets", sets, "--control-socket", socket, "--metrics-addr="},
		{"check", "--rules", rules, "--sets", sets},
	} {
		out, err := call(t, words...)
		if err == nil || !strings.Contains(out+err.Error(), ":3:31") || !strings.Contains(out+err.Error(), "did you mean blocked?") {
			t.Errorf("corewire %s: %v\n%s", words[0], err, out)
		}
	}
	good := write(t, "good.rules", head+"blocked src -j DROP\nCOMMIT\n")
	if out, err := call(t, "check", "--rules", good, "--sets", sets); err != nil {
		t.Errorf("check: %v\n%s", err, out)
	}
	if out, err := call(t, "check", "--rules", good, "--sets", bad); err == nil || !strings.Contains(out, "bad:1:5") {
		t.Errorf("check of wrong sets: %v\n%s", err, out)
	}
}
