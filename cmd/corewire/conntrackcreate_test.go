package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSplit(t *testing.T) {
	for text, want := range map[string][]string{
		"-A -s  10.0.0.1\t-d x": {"-A", "-s", "10.0.0.1", "-d", "x"},
		`-l "a b" -m 5`:         {"-l", "a b", "-m", "5"},
		`-l "a\"b"`:             {"-l", `a"b`},
	} {
		if got, err := split(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	if _, err := split(`-l "a`); err == nil {
		t.Error("an open quotation is accepted")
	}
}

// TestReadLoad: what a file asks for, in steps; a mistake anywhere refuses all of it, with its line.
func TestReadLoad(t *testing.T) {
	const good = `
# saved
-A -t 99 -u UNSET -w 11 -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 -p tcp --sport 5 --dport 7 --reply-port-src 7 --reply-port-dst 5 --state ESTABLISHED
  -I -t 0 -s fd00::1 -d fd00::2 -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 77
-D -t 5 -u UNSET -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 1 --dport 2
-A conntrack -t 9 -u EXPECTED,SEEN_REPLY -r 10.0.0.2 -q 10.0.0.1 -p udp --reply-port-src 7 --reply-port-dst 5 -m 7 --label-add 3
-U -t 5 -p tcp -s 10.0.0.1 --state CLOSE
-F
`
	steps, err := readLoad("x", strings.NewReader(good))
	if err != nil || len(steps) != 5 || len(steps[0].records) != 2 || steps[0].line != 3 || steps[1].do == nil || len(steps[2].records) != 1 || steps[2].line != 6 || steps[4].do == nil {
		t.Fatalf("%+v, %v", steps, err)
	}
	if k := steps[0].records[0].Key(); k.Zone != 11 {
		t.Errorf("%v", k)
	}
	if left := steps[0].records[1].Left(); left != 1000 {
		t.Errorf("%d ms left", left)
	}
	for _, bad := range []string{"-L", "list", "-A", "-A -p tcp", "-A expect -p tcp", "-A -t 5 -s 10.0.0.1 -d 10.0.0.2 -p tcp --sport 5 --dport 7", // no state
		"-A -t 5 -s 10.0.0.0/8 -d 10.0.0.2 -p udp --sport 5 --dport 7", "-A -t x -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 5 --dport 7",
		"-A -t 5 -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.3 -p udp --sport 5 --dport 7", "-A -t 5 -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 5 --dport 7 --reply-port-src 8",
		"-A -t 5 -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 5 --dport 7 -n 1.2.3.4", "-A -t 5 -s 10.0.0.1 -d 10.0.0.2 -p gre --srckey 5",
		"-A -t 5 -s 10.0.0.1 -d 10.0.0.2 -p icmp --icmp-type 8", "-A -t 5 -s 10.0.0.1 -d 10.0.0.2 -p udp --sport 5 --dport 7 -u FOO", "-A -t 5 -s 10.0.0.1 -d 10.0.0.2 -p 50 --sport 5",
		"-A -t 5 -s 10.0.0.1 -d fd00::1 -p 50", "-A -t 5 -f ipv6 -s 10.0.0.1 -d 10.0.0.2 -p 50", "-U -p tcp", "-D --frobnicate", "\"", "-A -c 5"} {
		_, err := readLoad("x", strings.NewReader(good+bad+"\n"))
		if err == nil || !strings.HasPrefix(err.Error(), "x:9: ") || exitCode(err) != exitUsage {
			t.Errorf("%s: %v", bad, err)
		}
	}
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("-X\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, "conntrack", "-R", path, "--control-socket", "/nowhere"); exitCode(err) != exitUsage {
		t.Error(err)
	}
}

// FuzzReadLoad: no file crashes the reader, and what it makes is fit to be entered.
func FuzzReadLoad(f *testing.F) {
	f.Add("-A -t 99 -u UNSET -w 11 -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 -p tcp --sport 5 --dport 7 --state ESTABLISHED\n-D -p tcp")
	f.Add("-I -t 0 -s fd00::1 -d fd00::2 -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 -l \"a\"\n-U --label-del -m 5/7")
	f.Add("-A -t 5 -s 1.2.3.4 -d ::ffff:1.2.3.4 -p gre --srckey 0x5 --dstkey 0 --mask-src 255.0.0.0")
	f.Fuzz(func(t *testing.T, text string) {
		steps, err := readLoad("x", strings.NewReader(text))
		if err != nil {
			return
		}
		for i := range steps {
			for j := range steps[i].records {
				if err := steps[i].records[j].Check(); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func TestMaskLength(t *testing.T) {
	for text, want := range map[string]int{"255.255.255.0": 24, "0.0.0.0": 0, "255.255.255.255": 32, "255.128.0.0": 9, "ffff::": 16, "::": 0, "255.0.255.0": -1, "x": -1, "ffff:0:1::": -1} {
		if n, ok := maskLength(text); ok != (want >= 0) || ok && n != want {
			t.Errorf("%s: %d, %v", text, n, ok)
		}
	}
}
