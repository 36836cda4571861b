package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"corewire/internal/control"
	pt "corewire/internal/packet/packettest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not current (go test ./cmd/corewire -update writes it); got:\n%s", path, got)
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// call runs the program.
func call(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), args, &out)
	return out.String(), err
}

const goodRules = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i inside -j ACCEPT\nCOMMIT\n"

func TestExitCodes(t *testing.T) {
	rules := write(t, "rules", goodRules)
	badRules := write(t, "bad.rules", "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p tpc -j ACCEPT\nCOMMIT\n")
	badConfig := write(t, "bad.yaml", "wrokers: 2\n")
	noSocket := "--control-socket=" + filepath.Join(t.TempDir(), "none.sock")
	notCapture := write(t, "x.pcap", "no capture")
	for _, tc := range []struct {
		args string
		code int
		why  string // in the message
	}{
		{"", 0, ""},
		{"--help", 0, ""},
		{"help run", 0, ""},
		{"version", 0, ""},
		{"conntrack", 0, ""},
		{"config docs", 0, ""},
		{"config show", 0, ""},
		{"config check --rules " + rules, 0, ""},
		{"nonsense", 2, "nonsense"},
		{"run now", 2, "now"},
		{"run --nonsense", 2, "--nonsense"},
		{"conntrack nonsense", 2, "nonsense"},
		{"config nonsense", 2, "nonsense"},
		{"rules nonsense", 2, "nonsense"},
		{"rules insert", 2, "a chain is missing"},
		{"rules delete FORWARD", 2, "number or text"},
		{"rules replace FORWARD -j ACCEPT", 2, "number is missing"},
		{"rules -P FORWARD", 2, "a policy is missing"},
		{"rules flush FORWARD now", 2, "now"},
		{"rules append -4 -6 FORWARD", 2, "exclude"},
		{"rules append FORWARD -t", 2, "-t needs an argument"},
		{"rules show -4 -6 " + noSocket, 2, "exclude"},
		{"rules insert --help", 0, ""},
		{"rules -I FORWARD 2 -j ACCEPT " + noSocket, 4, "is the firewall running"},
		{"rules -t raw " + noSocket + " -D PREROUTING 1", 4, "is the firewall running"},
		{"rules zero " + noSocket, 4, ""},
		{"rules save " + noSocket, 4, ""},
		{"reload --connections some " + noSocket, 2, "keep or rejudge"},
		{"config set", 2, "1 arg"},
		{"config set a " + noSocket, 2, "NAME=VALUE"},
		{"conntrack list --family 5 " + noSocket, 2, "--family"},
		{"conntrack list --sport 70000 " + noSocket, 2, "--sport"},
		{"conntrack list --control-socket=", 2, "--control-socket"},
		{"replay --rules " + rules, 2, "--pcap"},
		{"replay --pcap x --rules " + rules, 2, "--inside-net"},
		{"replay --pcap x --inside y --rules " + rules, 2, "excludes"},
		{"replay --inside y --inside-net 10.0.0.0/8 --rules " + rules, 2, "goes with --pcap"},
		{"replay --pcap x --inside-net 10.0.0.0/33 --rules " + rules, 2, "10.0.0.0/33"},
		{"replay --inside y", 2, "--rules"},
		{"release --inside eth1", 2, "--outside"},
		{"config check " + badConfig, 3, "bad.yaml:1: unknown setting"},
		{"--config " + badConfig + " conntrack count", 3, "bad.yaml:1"},
		{"config check --rules " + badRules, 3, "bad.rules:3:15"},
		{"config check --rules /nowhere", 3, "/nowhere"},
		{"config check --workers=-1", 3, "--workers"},
		{"replay --inside y --rules " + badRules, 3, "bad.rules:3:15"},
		{"run --inside a --outside b --metrics-addr= --rules " + badRules + " " + noSocket, 3, "bad.rules:3:15"},
		{"run --inside a --outside a --rules " + rules, 3, "different interfaces"},
		{"run --inside a --outside b --metrics-addr= " + noSocket, 2, "--rules"},
		{"run --outside b --metrics-addr= --rules " + rules + " " + noSocket, 2, "--inside"},
		{"check", 2, "--rules"},
		{"explain --rules " + rules, 2, "--source"},
		{"explain -s 10.0.0.1 -d ::1 --rules " + rules, 2, "same IP version"},
		{"explain -s 10.0.0.1 -d 10.0.0.2 --in up --rules " + rules, 2, "--in"},
		{"explain -s 10.0.0.1 -d 10.0.0.2 -p tpc --rules " + rules, 2, "--protocol"},
		{"explain -s 10.0.0.1 -d 10.0.0.2 --flags sny --rules " + rules, 2, "--flags"},
		{"explain -s 10.0.0.1 -d 10.0.0.2 --state old --rules " + rules, 2, "state"},
		{"explain -s 10.0.0.1 -d 10.0.0.2 --rules " + rules, 0, ""},
		{"explain -s 10.0.0.1 -d 10.0.0.2 --in outside --rules " + rules, 1, "dropped"},
		{"explain -s 10.0.0.1 -d 10.0.0.2 --rules " + badRules, 3, "bad.rules:3:15"},
		{"explain -s 10.0.0.1 -d 10.0.0.2 " + noSocket, 4, ""},
		{"explain --pcap x --rules " + rules, 2, "--frame"},
		{"check --rules " + rules, 0, ""},
		{"check --rules " + badRules, 3, "1 error"},
		{"check --rules /nowhere", 3, "1 error"},
		{"check --config " + badConfig, 3, "1 error"},
		{"check --live --rules " + rules + " " + noSocket, 4, ""},
		{"conntrack list " + noSocket, 4, "is the firewall running"},
		{"conntrack count " + noSocket, 4, ""},
		{"conntrack stats " + noSocket, 4, ""},
		{"conntrack flush " + noSocket, 4, ""},
		{"stats " + noSocket, 4, ""},
		{"status " + noSocket, 4, ""},
		{"rules " + noSocket, 4, ""},
		{"rules show " + noSocket, 4, ""},
		{"reload " + noSocket, 4, ""},
		{"config show --running " + noSocket, 4, ""},
		{"config set a=b " + noSocket, 4, ""},
		{"replay --inside /nowhere --rules " + rules, 1, "/nowhere"},
		{"replay --inside " + notCapture + " --rules " + rules, 1, "not a pcap"},
		{"config check /nowhere.yaml", 3, "/nowhere.yaml"},
	} {
		_, err := call(t, strings.Fields(tc.args)...)
		if code := exitCode(err); code != tc.code {
			t.Errorf("corewire %s: exit status %d, want %d (%v)", tc.args, code, tc.code, err)
		}
		if err != nil {
			var b bytes.Buffer
			complain(&b, err)
			if !strings.Contains(b.String(), tc.why) {
				t.Errorf("corewire %s: %s does not say %q", tc.args, b.String(), tc.why)
			}
		}
	}
}

// Every command has help with what it is for; those with flags or arguments of their own an example or a usage line.
func TestHelp(t *testing.T) {
	var all strings.Builder
	for _, words := range []string{"", "run", "replay", "conntrack", "conntrack list", "conntrack get", "conntrack events", "conntrack create", "conntrack add", "conntrack load", "conntrack update", "conntrack delete", "conntrack flush", "conntrack count", "conntrack stats", "conntrack export", "conntrack import", "sysctl", "stats", "check", "explain", "rules", "rules show", "rules save", "rules insert", "rules zero", "config", "config check", "config set", "reload", "release", "status", "version"} {
		out, err := call(t, append(strings.Fields(words), "--help")...)
		if err != nil {
			t.Fatal(err)
		}
		for n, line := range strings.Split(out, "\n") {
			if len([]rune(line)) > 110 {
				t.Errorf("corewire %s --help, line %d is wider than a screen: %s", words, n+1, line)
			}
		}
		all.WriteString("$ corewire " + words + " --help\n" + out + "\n")
	}
	golden(t, "help.golden", all.String())
}

func TestConfigShow(t *testing.T) {
	dir, _ := os.Getwd()
	path := "c.toml"
	t.Chdir(filepath.Dir(write(t, path, "inside = \"eth1\"\nworkers = 2\n")))
	t.Setenv("COREWIRE_FAIL_MODE", "open")
	out, err := call(t, "config", "show", "--config", path, "--burst", "32", "--changed")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	golden(t, "config-show.golden", out)
	path = write(t, path, "inside = \"eth1\"\nworkers = 2\n")
	t.Setenv("COREWIRE_CONFIG", path)
	out, err = call(t, "config", "show", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var values []struct{ Name, Value, Source, Place string }
	if err := json.Unmarshal([]byte(out), &values); err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		if v.Name == "workers" && (v.Value != "2" || v.Source != "file" || v.Place != path+":2") {
			t.Errorf("%+v", v)
		}
	}
}

func TestPrintRules(t *testing.T) {
	chains := []control.ChainCounters{
		{Table: "filter", Chain: "FORWARD", Family: "IPv4 and IPv6", Policy: "DROP", Packets: 3, Bytes: 180, Rules: []control.RuleCounters{
			{Number: 1, Packets: 123456789, Bytes: 99999, Target: "ACCEPT", Proto: "all", Opt: "--", In: "*", Out: "*", Src: "anywhere", Dst: "anywhere", Options: "ctstate RELATED,ESTABLISHED", Place: "r.rules:3"},
			{Number: 2, Packets: 0, Bytes: 12345678901234567, Target: "web", Proto: "!tcp", Opt: "--", In: "inside", Out: "!outside", Src: "10.0.0.0/8", Dst: "!192.0.2.1", Options: "[goto]  TTL match TTL == 4", Place: "corewire rules insert:1", NoCache: []string{"TTL or hop limit"}},
		}},
		{Table: "filter", Chain: "web", Family: "IPv4 and IPv6", References: 1, Rules: []control.RuleCounters{{Number: 1, Target: "ACCEPT", Proto: "tcp", Opt: "--", In: "*", Out: "*", Src: "anywhere", Dst: "anywhere", Options: "tcp dpt:80"}}},
	}
	var b bytes.Buffer
	for _, o := range []listOptions{{tables: true}, {exact: true, numbers: true}, {origin: true}, {unmatched: true}} {
		list := chains
		if o.unmatched {
			list = unmatched(chains)
		}
		if err := o.print(&b, list); err != nil {
			t.Fatal(err)
		}
		b.WriteString("---\n")
	}
	golden(t, "rules.golden", b.String())
}

func TestPrintStatus(t *testing.T) {
	s := control.Status{Version: "v1", PID: 42, Uptime: 3661, Rules: 1, Workers: 2, Wire: control.Wire{Driver: "xsk", FailMode: "open", Heartbeat: 1, ChunkSize: 2048, Ports: []control.Port{
		{Port: "inside", Interface: "eth1", Driver: "ice", MTU: 1500, Queues: 2, XDPMode: "native", CopyMode: "zerocopy", NeedWakeup: 2, SharedUMEM: 1, TXBudget: 256, Up: true, Changed: []string{"gro is off, was on"}},
		{Port: "outside", Interface: "eth2", MTU: 1500, Queues: 2, XDPMode: "generic", CopyMode: "copy", NeedWakeup: 1, SharedUMEM: 2, TXBudget: 32, TakenOver: true, Notes: []string{"has address 10.0.0.1, which cannot be reached"}},
	}}}
	var b bytes.Buffer
	if err := printStatus(&b, &s); err != nil {
		t.Fatal(err)
	}
	golden(t, "status.golden", b.String())
}

// TestCheck: what is found, with its place, as lines and as JSON.
func TestCheck(t *testing.T) {
	home, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	files := map[string]string{
		"good": goodRules,
		"odd": `*nat
-A PREROUTING -j ACCEPT
COMMIT
*filter
:FORWARD DROP [0:0]
:unused - [0:0]
-A FORWARD -s 10.0.0.0/9 -j DROP
-A FORWARD -s 10.128.0.0/9 -j ACCEPT
-A FORWARD -s 10.1.2.3 -p tcp -j ACCEPT
-A FORWARD -s 10.0.0.0/8 -p tcp --dport 80 -j ACCEPT
-A FORWARD -p udp -m ttl --ttl-eq 1
-A FORWARD -p udp -m ttl --ttl-eq 1
-A unused -j DROP
COMMIT
`,
		"bad": "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p tpc -j ACCEPT\n-A FORWARD -j CT --timeout x\nCOMMIT\n",
	}
	var all strings.Builder
	for _, name := range []string{"good", "odd", "bad"} {
		if err := os.WriteFile(name, []byte(files[name]), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range []string{"", " --json", " --strict"} {
			out, err := call(t, strings.Fields("check --rules "+name+args)...)
			all.WriteString("$ corewire check --rules " + name + args + "\n" + out + "exit status " + strconv.Itoa(exitCode(err)) + "\n")
		}
	}
	for name, text := range map[string]string{"sets": "create a hash:ip\ncreate b hash:net\ncreate l list:set\nadd l b\n", "badsets": "create a hash:ip\nadd a x\n", "junk": strings.Repeat("\x80\xff", 200) + "\n",
		"ways": `*filter
:FORWARD ACCEPT [0:0]
:web - [0:0]
:end - [0:0]
-A FORWARD -p tcp -j web
-A FORWARD -m conntrack --ctstate NEW -m state --state ESTABLISHED -j DROP
-A FORWARD -i eth7 -j DROP
-A FORWARD -m set --match-set l src -j end
-A FORWARD -j end
-A FORWARD -p udp -j ACCEPT
-A web -p udp -j ACCEPT
-A end -p tcp -j REJECT
-A end -j ACCEPT
COMMIT
`} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for n, name := range []string{"twice", "often"} {
		text := "*mangle\n:POSTROUTING ACCEPT [0:0]\n"
		for i := range []int{2, 9}[n] {
			text += fmt.Sprintf("-A POSTROUTING -p udp -m udp --dport %d -j CHECKSUM --checksum-fill\n", 67+i)
		}
		if err := os.WriteFile(name, []byte(text+"COMMIT\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range []string{"--rules4 twice", "--rules4 often", "--rules4 ways --sets sets", "--rules4 ways --sets badsets --json", "--rules junk", "--rules nofile --json", "--rules ."} {
		out, err := call(t, strings.Fields("check "+args)...)
		all.WriteString("$ corewire check " + args + "\n" + out + "exit status " + strconv.Itoa(exitCode(err)) + "\n")
	}
	t.Chdir(home)
	golden(t, "check.golden", all.String())
}

// TestSameFindings: a finding is printed once with its other lines, and each by itself where there is no line.
func TestSameFindings(t *testing.T) {
	r := report{Findings: []finding{}}
	for _, line := range []int{3, 0, 5, 0} {
		r.add(finding{Severity: "warning", Kind: "file", File: "rules", Line: line, Text: "odd"})
	}
	var b strings.Builder
	if err := r.print(&b, false); err != nil {
		t.Fatal(err)
	}
	const want = "warning: rules:3: odd; the same in line 5\nwarning: rules: odd\nwarning: rules: odd\n0 rules, 0 errors, 4 warnings\n"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

// TestExplain: packets described and frames of a capture, offline; each kind is read as it was meant.
func TestExplain(t *testing.T) {
	home, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	text := "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -m udp --dport 9 -j DROP\nCOMMIT\n*mangle\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -j MARK --set-mark 7\nCOMMIT\n" +
		"*filter\n:FORWARD DROP [0:0]\n:web - [0:0]\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -m mark --mark 7 -j web\n-A FORWARD -p icmp -m icmp --icmp-type 8 -m ttl --ttl-gt 5 -j ACCEPT\n" +
		"-A FORWARD -p sctp -m sctp --dport 5 -j ACCEPT\n-A FORWARD -p udplite -j ACCEPT\n-A FORWARD -p icmpv6 -m icmp6 --icmpv6-type 128 -j ACCEPT\n-A web -i inside -p tcp -m tcp --dport 80 --syn -j ACCEPT\nCOMMIT\n"
	if err := os.WriteFile("rules", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, args := range []string{
		"-s 10.0.0.1 -d 192.0.2.1 --dport 80", "-s 10.0.0.1 -d 192.0.2.1 --dport 80 --in outside", "-s 10.0.0.1 -d 192.0.2.1 --dport 80 --flags ack,syn", "-s 10.0.0.1 -d 192.0.2.1 --dport 80 --state established",
		"-p udp -s 10.0.0.1 -d 192.0.2.1 --dport 9", "-p icmp -s 10.0.0.1 -d 192.0.2.1", "-p sctp -s 10.0.0.1 -d 192.0.2.1 --dport 5", "-p icmpv6 --icmp-type 128 -s 2001:db8::1 -d 2001:db8::2 --json", "-p 99 -s 10.0.0.1 -d 192.0.2.1",
	} {
		out, err := call(t, strings.Fields("explain --rules rules "+args)...)
		all.WriteString("$ corewire explain --rules rules " + args + "\n" + out + "exit status " + strconv.Itoa(exitCode(err)) + "\n")
	}
	client, server := pt.AP("10.0.0.1:1000"), pt.AP("192.0.2.1:80")
	capture := record(t, "x.pcap", pt.NewTCP(client, server, 2, pt.Seq(1)), pt.NewTCP(server, client, 0x12, pt.Seq(9), pt.Ack(2)), pt.NewTCP(client, server, 0x10, pt.Seq(2), pt.Ack(10)), pt.NewTCP(server, client, 0x10, pt.Seq(99999999), pt.Ack(2)))
	for n := 1; n <= 5; n++ {
		args := fmt.Sprintf(" --frame %d --inside-net 10.0.0.0/8", n)
		out, err := call(t, strings.Fields("explain --rules rules --pcap "+capture+args)...)
		all.WriteString("$ corewire explain --rules rules --pcap x.pcap" + args + "\n" + out + "exit status " + strconv.Itoa(exitCode(err)) + "\n")
	}
	t.Chdir(home)
	golden(t, "explain.golden", all.String())
}
