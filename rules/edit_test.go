package rules

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// saved is one version of a rule set as iptables-save prints it, without counters and comments.
func saved(rs *Ruleset, f Family) string {
	var out []string
	for line := range strings.Lines(string(rs.AppendSave(nil, f, make([]Counter, rs.Counters())))) {
		out = append(out, strings.TrimPrefix(line, "[0:0] "))
	}
	return strings.Join(out, "")
}

// edit carries a change out that is written as on iptables' command line: "-I FORWARD 2 -p tcp -j ACCEPT".
func edit(rs *Ruleset, text string) (*Ruleset, Mapping, error) {
	e := Edit{Family: Both, Source: "change", Line: 1}
	words := strings.Fields(text)
	for words[0] == "-4" || words[0] == "-6" || words[0] == "-t" {
		switch words[0] {
		case "-4":
			e.Family = IPv4
		case "-6":
			e.Family = IPv6
		default:
			e.Table = words[1]
			words = words[1:]
		}
		words = words[1:]
	}
	e.Op = map[string]EditOp{"-A": EditAppend, "-I": EditInsert, "-D": EditDelete, "-R": EditReplace, "-F": EditFlush, "-P": EditPolicy, "-N": EditNewChain, "-X": EditDeleteChain}[words[0]]
	if words = words[1:]; len(words) > 0 {
		e.Chain, words = words[0], words[1:]
	}
	if e.Op == EditPolicy && len(words) > 0 {
		e.Policy, words = words[0], nil
	}
	if len(words) > 0 && words[0][0] >= '0' && words[0][0] <= '9' {
		if _, err := fmt.Sscan(words[0], &e.Number); err != nil {
			return nil, Mapping{}, err
		}
		words = words[1:]
	}
	e.Rule = words
	return rs.Edit(e, rs.opt)
}

const editable = `*filter
:FORWARD DROP [0:0]
:INPUT ACCEPT [0:0]
:a - [0:0]
:in - [0:0]
-A FORWARD -p udp -j ACCEPT
-A FORWARD -s 10.0.0.0/8 -j a
-A FORWARD -s 2001:db8::/32 -j a
-A FORWARD -p tcp -j REJECT
-A INPUT -j in
-A in -p wrong -j DROP
-A a -j RETURN
COMMIT
`

func TestEdit(t *testing.T) {
	rs := mustCompile(t, editable)
	for _, tc := range []struct{ do, v4, v6 string }{
		{"-A FORWARD -p icmp -j ACCEPT", "udp a4 tcp icmp", "udp a6 tcp"},
		{"-I FORWARD -j a", "a udp a4 tcp", "a udp a6 tcp"},
		{"-I FORWARD 3 -j a", "udp a4 a tcp", "udp a a6 tcp"},
		{"-6 -I FORWARD 3 -j a", "udp a4 tcp", "udp a6 a tcp"},
		{"-I FORWARD 5 -j a", "udp a4 tcp a", "udp a6 tcp a"},
		{"-4 -I FORWARD 4 -j a", "udp a4 tcp a", "udp a6 tcp"},
		{"-D FORWARD 1", "a4 tcp", "a6 tcp"},
		{"-4 -D FORWARD 1", "a4 tcp", "udp a6 tcp"},
		{"-D FORWARD 3", "udp a4 tcp", "udp tcp"},
		{"-6 -D FORWARD 2", "udp a4 tcp", "udp tcp"},
		{"-D FORWARD -p tcp -j REJECT", "udp a4", "udp a6"},
		{"-4 -D FORWARD -p 6 -j REJECT --reject-with icmp-port-unreachable", "udp a4", "udp a6 tcp"},
		{"-D FORWARD --source 10.0.0.0/255.0.0.0 --jump a", "udp tcp", "udp a6 tcp"},
		{"-R FORWARD 4 -j a", "udp a4 a", "udp a6 a"},
		{"-4 -R FORWARD 1 -j a", "a a4 tcp", "udp a6 tcp"},
		{"-F FORWARD", "", ""},
		{"-6 -F FORWARD", "udp a4 tcp", ""},
		{"-A FORWARD -s 10.0.0.1,10.0.0.2 -j a", "udp a4 tcp -s 10.0.0.1/32 -j a -s 10.0.0.2/32 -j a", "udp a6 tcp"},
		{"-D FORWARD 5", "error: delete FORWARD 5: the chain has 4 rules (a number from 1 to 4 was expected)", ""},
		{"-4 -I FORWARD 5 -j a", "error: insert FORWARD 5: the chain has 3 rules (a number from 1 to 4 was expected)", ""},
		{"-D FORWARD -p tcp -j ACCEPT", "error: no such rule", ""},
		{"-A FORWARD -p tpc", "error: append FORWARD: expected a protocol's name or number up to 255, found \"tpc\"\n  -p tpc\n     ^^^", ""},
		{"-A FORWARD -j b", "error: append FORWARD: expected a target or a chain", ""},
		{"-A a -j a", "error: without a loop", ""},
		{"-A FORWRD -j a", "error: append FORWRD: there is no chain of this name (did you mean FORWARD?)", ""},
		{"-A INPUT -j a", "error: append INPUT: the chain is not judged: no packet is for the wire itself", ""},
		{"-A in -j a", "error: only INPUT or OUTPUT lead to it", ""},
		{"-A FORWARD -j in", "error: append FORWARD: chain in was not read", ""},
		{"-4 -P FORWARD ACCEPT", "error: one policy for both IP versions", ""},
		{"-P a ACCEPT", "error: policy a: only chains that the kernel calls", ""},
		{"-P FORWARD REJECT", "error: policy FORWARD: a policy is ACCEPT or DROP", ""},
		{"-t nat -A PREROUTING -j ACCEPT", "error: append PREROUTING in table nat: a transparent wire", ""},
		{"-R FORWARD 1 -s 10.0.0.1,10.0.0.2", "error: one rule is replaced by one rule", ""},
		{"-N a", "error: there is a chain of this name already", ""},
		{"-X a", "error: delete-chain a: the chain has 1 rule (flush it before)", ""},
		{"-X FORWARD", "error: cannot be deleted", ""},
		{"-A -x -j a", "error: is no chain's name", ""},
		{"-4 -A FORWARD -s 2001:db8::1 -j a", "error: append FORWARD: expected", ""},
	} {
		to, m, err := edit(rs, tc.do)
		if want, wrong := strings.CutPrefix(tc.v4, "error: "); wrong {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", tc.do, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.do, err)
			continue
		}
		for f, want := range map[Family]string{IPv4: tc.v4, IPv6: tc.v6} {
			net := map[Family]string{IPv4: "10.0.0.0/8", IPv6: "2001:db8::/32"}[f]
			reject := map[Family]string{IPv4: "icmp", IPv6: "icmp6"}[f]
			var got []string
			for line := range strings.Lines(saved(to, f)) {
				if rule, ok := strings.CutPrefix(strings.TrimSpace(line), "-A FORWARD "); ok {
					for text, short := range map[string]string{"-p udp -j ACCEPT": "udp", "-s " + net + " -j a": fmt.Sprintf("a%d", 2+2*f&^1), "-p tcp -j REJECT --reject-with " + reject + "-port-unreachable": "tcp", "-p icmp -j ACCEPT": "icmp", "-j a": "a"} {
						if rule == text {
							rule = short
						}
					}
					got = append(got, rule)
				}
			}
			have := strings.NewReplacer(fmt.Sprintf("a%d", 2+2*f&^1), map[Family]string{IPv4: "a4", IPv6: "a6"}[f], "-p tcp -j REJECT", "tcp").Replace(strings.Join(got, " "))
			if have != want {
				t.Errorf("%s, %s: %q, want %q", tc.do, f, have, want)
			}
		}
		checkMapping(t, tc.do, rs, to, m)
	}
	if now := saved(rs, IPv4); now != saved(mustCompile(t, editable), IPv4) {
		t.Error("the rule set that was changed is not what it was")
	}
	// Chains come and go; a table that no file has is made.
	for _, do := range []string{"-N b", "-A b -p tcp -j ACCEPT", "-I FORWARD 2 -j b", "-D FORWARD 2", "-F b", "-X b", "-t raw -A PREROUTING -p udp -j NOTRACK", "-P FORWARD ACCEPT", "-F"} {
		to, m, err := edit(rs, do)
		if err != nil {
			t.Fatalf("%s: %v", do, err)
		}
		checkMapping(t, do, rs, to, m)
		rs = to
	}
	want := "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -j NOTRACK\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n:a - [0:0]\nCOMMIT\n"
	if got := strings.ReplaceAll(saved(rs, IPv4), "-j CT --notrack", "-j NOTRACK"); got != want {
		t.Errorf("%s", got)
	}
}

// checkMapping holds a mapping against what the rules say.
func checkMapping(t *testing.T, do string, from, to *Ruleset, m Mapping) {
	t.Helper()
	used := map[RuleID]bool{}
	for k := range from.Counters() {
		id := RuleID(k)
		if from.isRule(id) && from.at(id) < 0 {
			continue // it went before
		}
		now := m.New(id)
		if now == NoRule || !from.isRule(id) && k >= len(from.compiled)+idExtra {
			continue
		}
		if used[now] {
			t.Errorf("%s: two rules became %s", do, to.RuleName(now))
		}
		used[now] = true
		if from.isRule(id) {
			a, b := from.info(id), to.info(now)
			if to.at(now) < 0 {
				t.Errorf("%s: %s became one that has gone", do, a.Rule.Text)
			}
			if string(a.Rule.AppendSave(nil, a.Chain)) != string(b.Rule.AppendSave(nil, b.Chain)) && a.Family == b.Family {
				t.Errorf("%s: %s became %s", do, a.Rule.Text, b.Rule.Text)
			}
		} else if from.RuleName(id) != to.RuleName(now) {
			t.Errorf("%s: %s became %s", do, from.RuleName(id), to.RuleName(now))
		}
	}
}

// TestEditFiles: rules of two files, one for each version.
func TestEditFiles(t *testing.T) {
	var files []*File
	for _, f := range []Family{IPv4, IPv6} {
		x, err := Parse("r"+f.String(), []byte("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p udp -j ACCEPT\nCOMMIT\n"), f)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, x)
	}
	rs, err := Compile(files, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ do, want string }{
		{"-A FORWARD -p tcp -j ACCEPT", "2 2"}, {"-I FORWARD -p tcp -j ACCEPT", "2 2"}, {"-A FORWARD -s 10.0.0.1 -j ACCEPT", "2 1"},
		{"-A FORWARD -p icmpv6 -j ACCEPT", "1 2"}, {"-4 -I FORWARD 2 -p tcp", "2 1"}, {"-6 -D FORWARD 1", "1 0"}, {"-F FORWARD", "0 0"},
		{"-D FORWARD 1", "say -4 or -6"}, {"-6 -P FORWARD ACCEPT", "1 1"}, {"-t raw -A PREROUTING -j ACCEPT", "say -4 or -6"}, {"-4 -t raw -A PREROUTING -j ACCEPT", "2 1"},
	} {
		to, m, err := edit(rs, tc.do)
		got := ""
		if err == nil {
			got = fmt.Sprintf("%d %d", strings.Count(saved(to, IPv4), "-A"), strings.Count(saved(to, IPv6), "-A"))
			checkMapping(t, tc.do, rs, to, m)
		} else {
			got = err.Error()
		}
		if !strings.Contains(got, tc.want) {
			t.Errorf("%s: %s, want %s", tc.do, got, tc.want)
		}
	}
}

// isolated moves the test's thread into a network namespace of its own, which ends with the thread, and skips where that
// or iptables is missing; in CI they must not be.
func isolated(t *testing.T) {
	t.Helper()
	missing := ""
	if _, err := exec.LookPath("iptables"); err != nil {
		missing = "iptables is not installed"
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if missing == "" {
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			missing = "no network namespace: " + err.Error()
		}
	}
	if missing != "" {
		if os.Getenv("CI") != "" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
}

// TestEditAsIptables makes the same random changes here and with iptables in a namespace: afterwards both hold the same
// rules, and what the one refuses the other refuses.
func TestEditAsIptables(t *testing.T) {
	isolated(t)
	rng := rand.New(rand.NewPCG(1, 2))
	rs := mustCompile(t, "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n")
	// A chain and a rule for it. Chains lead to later ones only: nft lets loops be that nothing leads to.
	with := func(number string) string {
		k := rng.IntN(4)
		rule := []string{"-p tcp -j ACCEPT", "-p udp -m udp --dport 53 -j DROP", "-s 10.0.0.0/8", "-j RETURN", "-j b", "! -p udp -g b", "-p tcp -m tcp --dport 80 -j a"}[rng.IntN([]int{7, 7, 6, 4}[k])]
		return []string{"FORWARD", "FORWARD", "a", "b"}[k] + number + " " + rule
	}
	chain := func() string { return []string{"FORWARD", "FORWARD", "a", "b"}[rng.IntN(4)] }
	refused := 0
	for i := range 150 {
		number := rng.IntN(4) + 1
		var do string
		switch rng.IntN(14) {
		case 0, 1, 2:
			do = "-A " + with("")
		case 3, 4:
			do = "-I " + with("")
		case 5, 6:
			do = "-I " + with(fmt.Sprintf(" %d", number))
		case 7:
			do = fmt.Sprintf("-D %s %d", chain(), number)
		case 8:
			do = "-D " + with("")
		case 9:
			do = "-R " + with(fmt.Sprintf(" %d", number))
		case 10:
			do = "-P FORWARD " + []string{"ACCEPT", "DROP"}[rng.IntN(2)]
		case 11:
			do = "-N " + []string{"a", "b"}[rng.IntN(2)]
		case 12:
			do = "-X " + []string{"a", "b"}[rng.IntN(2)]
		default:
			if do = "-F " + chain(); i%3 > 0 {
				do = "-N a"
			}
		}
		to, m, err := edit(rs, "-4 "+do)
		if f := strings.Fields(do); f[0] == "-P" || f[0] == "-N" || f[0] == "-X" {
			to, m, err = edit(rs, do) // the file is for both
		}
		text, kernel := exec.Command("iptables", append([]string{"-w"}, strings.Fields(do)...)...).CombinedOutput()
		if (err == nil) != (kernel == nil) {
			t.Fatalf("%d: %s: here %v, iptables %v %s\n%s", i, do, err, kernel, text, saved(rs, IPv4))
		}
		if err != nil {
			refused++
			continue
		}
		checkMapping(t, do, rs, to, m)
		rs = to
		out, err := exec.Command("iptables-save", "-t", "filter").Output()
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":FORWARD") {
				want = append(want, line)
			}
		}
		var got []string
		for line := range strings.Lines(saved(rs, IPv4)) {
			if strings.HasPrefix(line, "-A") || strings.HasPrefix(line, ":FORWARD") {
				got = append(got, line)
			}
		}
		if a, b := sortChains(got), sortChains(want); a != b {
			t.Fatalf("%d: %s: here\n%siptables\n%s", i, do, a, b)
		}
	}
	if refused < 10 || refused > 100 {
		t.Errorf("%d of 150 changes were refused: the test proves little", refused)
	}
}

// sortChains puts the rules chain by chain, in the alphabet's order of the chains, and in their own order within.
func sortChains(lines []string) string {
	by := map[string]string{}
	for _, line := range lines {
		f := strings.Fields(line)
		name := f[0]
		if name == "-A" {
			name = f[1]
		}
		by[name] += line
	}
	out := ""
	for _, name := range []string{":FORWARD", "FORWARD", "a", "b"} {
		out += by[name]
	}
	return out
}
