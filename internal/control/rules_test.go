package control

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/rules"
)

// saved is what rules save prints.
func (r *rig) saved(family int, counters rules.Counting) string {
	r.t.Helper()
	var b bytes.Buffer
	if err := r.client.SaveRules(r.ctx, &b, family, "", counters); err != nil {
		r.t.Fatal(err)
	}
	return b.String()
}

// TestChangeRules: single rules change in the running firewall; all other counters go on, and what is refused changes nothing.
func TestChangeRules(t *testing.T) {
	r := newRig(t, 2, nil)
	r.send(packet.Inside, dns(1), dns(2))
	change := func(c RuleChange) RuleChanged {
		t.Helper()
		done, err := r.client.ChangeRules(r.ctx, c)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		return done
	}
	done := change(RuleChange{Op: "insert", Chain: "FORWARD", Number: 2, Rule: strings.Fields("-p udp --dport 53 -i eth7 -j DROP")})
	if done.Rules != 5 || done.Changes != 1 || len(done.Warnings) != 1 || !strings.Contains(done.Warnings[0], "corewire rules insert:1:") || !strings.Contains(done.Warnings[0], "eth7") {
		t.Errorf("%+v", done)
	}
	change(RuleChange{Op: "delete", Chain: "FORWARD", Number: 2})
	change(RuleChange{Op: "insert", Chain: "FORWARD", Rule: []string{"-s", "10.0.0.3", "-m", "comment", "--comment", `two "words"`, "-j", "DROP"}})
	r.send(packet.Inside, dns(1), dns(2)) // the verdict of dns(2), from 10.0.0.3, was cached
	want := `*filter
:FORWARD DROP [0:0]
:web - [0:0]
[1:29] -4 -A FORWARD -s 10.0.0.3/32 -m comment --comment "two \"words\"" -j DROP
[0:0] -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[3:87] -4 -A FORWARD -s 10.0.0.0/8 -i inside -p udp -m udp --dport 53 -j ACCEPT
[0:0] -A FORWARD ! -i outside -p tcp -g web
[0:0] -A web -p tcp -m multiport --dports 80,443 -j ACCEPT
COMMIT
`
	got := r.saved(0, rules.WithCounters)
	if size := strings.Index(got, "[1:"); size > 0 { // the datagrams' length is the test's affair
		got = strings.NewReplacer(fmt.Sprintf("[1:%d]", len(dns(1))-14), "[1:29]", fmt.Sprintf("[3:%d]", 3*(len(dns(1))-14)), "[3:87]").Replace(got)
	}
	if got != want {
		t.Errorf("saved\n%swant\n%s", got, want)
	}
	if v6 := r.saved(6, rules.WithoutCounters); strings.Contains(v6, "10.0.0") || strings.Contains(v6, "-4") || !strings.Contains(v6, "\n-A FORWARD ! -i outside") {
		t.Errorf("of IPv6\n%s", v6)
	}
	// What is saved is a rule file that gives the same again.
	f, err := rules.Parse("saved", []byte(r.saved(0, rules.WithCounters)), rules.Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rules.Compile([]*rules.File{f}, rules.Options{Clock: true, Rejects: true})
	if err != nil {
		t.Fatal(err)
	}
	counters, _ := rs.FileCounters()
	if again, err := rs.AppendText(nil, rules.SaveForm{Family: rules.Both, Counters: rules.WithCounters}, counters); err != nil || string(again) != r.saved(0, rules.WithCounters) {
		t.Errorf("read again:\n%s%v", again, err)
	}
	change(RuleChange{Op: "zero", Chain: "FORWARD", Number: 3})
	if s := r.saved(0, rules.WithCounters); !strings.Contains(s, "\n[0:0] -4 -A FORWARD -s 10.0.0.0/8") || !strings.Contains(s, "\n[1:") {
		t.Errorf("after zeroing\n%s", s)
	}
	before := r.saved(0, rules.WithCounters)
	for _, tc := range []struct {
		change RuleChange
		status int
		why    string
	}{
		{RuleChange{Op: "insert", Chain: "FORWARD", Number: 9, Rule: []string{"-j", "DROP"}}, http.StatusConflict, "the chain has 4 rules"},
		{RuleChange{Op: "append", Chain: "FORWARD", Rule: []string{"-p", "tpc"}}, http.StatusConflict, "append FORWARD: expected a protocol's name or number up to 255, found \"tpc\"\n  -p tpc\n     ^^^\n"},
		{RuleChange{Op: "append", Chain: "FORWARD", Rule: []string{"-j", "nowhere"}}, http.StatusConflict, "a chain of this table"},
		{RuleChange{Op: "append", Table: "raw", Chain: "PREROUTING", Rule: []string{"-p", "udp", "-j", "CT", "--timeout", "none"}}, http.StatusConflict, "a timeout policy"},
		{RuleChange{Op: "zero", Chain: "nowhere"}, http.StatusConflict, "no such chain"},
		{RuleChange{Op: "zero", Chain: "web", Number: 2}, http.StatusConflict, "1 rule"},
		{RuleChange{Op: "drop", Chain: "web"}, http.StatusBadRequest, "no operation"},
		{RuleChange{Op: "append", Family: 5, Chain: "web"}, http.StatusBadRequest, "family"},
	} {
		_, err := r.client.ChangeRules(r.ctx, tc.change)
		if e, ok := errors.AsType[*RemoteError](err); !ok || e.Status != tc.status || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%+v: %v", tc.change, err)
		}
	}
	if now := r.saved(0, rules.WithCounters); now != before || r.firewall.Status().Changes != 3 {
		t.Errorf("what was refused changed\n%sto\n%s", before, now)
	}
	// A reload goes back to the files, and says what it drops; what stays goes on counting.
	again, err := r.client.Reload(r.ctx, ReloadOptions{})
	if err != nil || again.Discarded != 3 || again.Rules != 4 || r.firewall.Status().Changes != 0 {
		t.Errorf("%+v %v", again, err)
	}
	// Counters of the file, by the flag and by the setting.
	r.write(strings.Replace(ruleText, "-A web", "[7:8] -A web", 1))
	if _, err := r.client.Reload(r.ctx, ReloadOptions{}); err != nil || strings.Contains(r.saved(0, rules.WithCounters), "[7:8]") {
		t.Errorf("without being asked to, a reload takes the file's counters (%v)", err)
	}
	if _, err := r.client.Reload(r.ctx, ReloadOptions{Counters: "file"}); err != nil || !strings.Contains(r.saved(0, rules.WithCounters), "[7:8]") {
		t.Errorf("the file's counters are not taken (%v)", err)
	}
	if _, err := r.client.Reload(r.ctx, ReloadOptions{Counters: "all"}); err == nil {
		t.Error("counters from everywhere")
	}
}

// TestChangesAreCompiled: behind many changes the rules are compiled anew, by themselves and unseen: no change is refused for
// it, rules and counters stay, and changes go on.
func TestChangesAreCompiled(t *testing.T) {
	r := newRig(t, 2, nil)
	r.send(packet.Inside, dns(1), dns(2))
	insert := func(n int) {
		t.Helper()
		if _, err := r.client.ChangeRules(r.ctx, RuleChange{Op: "insert", Chain: "FORWARD", Number: 1, Rule: strings.Fields(fmt.Sprintf("-s 10.0.0.9 -p udp --dport %d -j DROP", n))}); err != nil {
			t.Fatal(err)
		}
	}
	const changes = 200
	for n := range changes {
		insert(1000 + n)
	}
	for n := 0; r.firewall.engine.Ruleset().Filled() < 30; n++ { // as much as is worth it at a quiet time
		insert(2000 + n)
	}
	before, changed := r.saved(0, rules.WithCounters), r.firewall.Status()
	if !strings.Contains(before, "[2:") {
		t.Errorf("nothing is counted\n%s", before)
	}
	r.eventually("rules without changes", func() bool { return r.firewall.engine.Ruleset().Filled() == 0 && r.firewall.Status().Recompiled > 0 })
	if now := r.saved(0, rules.WithCounters); now != before {
		t.Errorf("compiled anew\n%swere\n%s", now, before)
	}
	if s := r.firewall.Status(); s.Changes != changed.Changes || s.Reloads != 0 || s.Rules != changed.Rules {
		t.Errorf("%+v, before %+v", s, changed)
	}
	r.send(packet.Inside, dns(1), dns(2))
	insert(1)
	if s := r.saved(0, rules.WithCounters); !strings.Contains(s, "[4:") {
		t.Errorf("counting does not go on\n%s", s)
	}
}

// TestReloadRejudges: connections that the new rules would not let begin are closed when that is asked for, by flag or
// setting, and only then.
func TestReloadRejudges(t *testing.T) {
	r := newRig(t, 2, nil)
	r.send(packet.Inside, dns(1), dns(2), dns(3))
	r.write(strings.Replace(ruleText, "-s 10.0.0.0/8", "-s 10.0.0.2", 1))
	if got, err := r.client.Reload(r.ctx, ReloadOptions{}); err != nil || got.Rejudged != nil || r.firewall.Count().Count != 3 {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := r.client.Reload(r.ctx, ReloadOptions{Connections: "drop"}); err == nil {
		t.Error("a word that is no choice")
	}
	got, err := r.client.Reload(r.ctx, ReloadOptions{Connections: "rejudge"})
	if err != nil || got.Rejudged == nil || got.Rejudged.Judged != 3 || got.Rejudged.Closed != 2 || r.firewall.Count().Count != 1 {
		t.Errorf("%+v %+v %v", got, got.Rejudged, err)
	}
	r.settings["reload-connections"] = "rejudge"
	r.write(strings.Replace(ruleText, "-s 10.0.0.0/8", "-s 10.0.0.1", 1))
	if got, err := r.client.Reload(r.ctx, ReloadOptions{}); err != nil || got.Rejudged == nil || got.Rejudged.Closed != 1 {
		t.Errorf("%+v %v", got, err)
	}
}

// TestRefusedRuleFiles: whatever is wrong with a rule file, and wherever it is found, the rules in force stay as they are.
func TestRefusedRuleFiles(t *testing.T) {
	r := newRig(t, 1, nil)
	r.send(packet.Inside, dns(1))
	before := r.saved(0, rules.WithCounters)
	for what, tc := range map[string]struct{ text, why string }{
		"parse":         {"*filter\n:FORWARD DROP [0:0]\n-A FORWARD -x\nCOMMIT\n", ":3:"},
		"no COMMIT":     {"*filter\n:FORWARD DROP [0:0]\n", "COMMIT"},
		"compile":       {"*filter\n:FORWARD DROP [0:0]\n:a - [0:0]\n-A FORWARD -j a\n-A a -j a\nCOMMIT\n", "loop"},
		"timeouts":      {"*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -j CT --timeout none\nCOMMIT\n", "timeout policy"},
		"helpers":       {"*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -j CT --helper none\nCOMMIT\n", "helper"},
		"not text":      {"\x00\xff\x7fELF", ":1:"},
		"too many":      {"*filter\n:FORWARD DROP [0:0]\n" + strings.Repeat("-A FORWARD -s 10.0.0.1 -j DROP\n", rules.MaxRules+1) + "COMMIT\n", fmt.Sprintf("at most %d rules", rules.MaxRules)},
		"too many once": {"*filter\n:FORWARD DROP [0:0]\n-A FORWARD -s " + strings.Repeat("10.0.0.1,", 300) + "10.0.0.1 -d " + strings.Repeat("10.0.0.1,", 300) + "10.0.0.1 -j DROP\nCOMMIT\n", "pairs of addresses"},
	} {
		r.write(tc.text)
		_, err := r.client.Reload(r.ctx, ReloadOptions{})
		if e, ok := errors.AsType[*RemoteError](err); !ok || e.Status != http.StatusConflict || !strings.Contains(err.Error(), tc.why) || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%s: %v", what, err)
		}
		if now := r.saved(0, rules.WithCounters); now != before {
			t.Errorf("%s: the rules in force are\n%s", what, now)
		}
	}
	if err := os.Remove(r.rules); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.Reload(r.ctx, ReloadOptions{}); err == nil || r.saved(0, rules.WithCounters) != before {
		t.Errorf("without the file: %v", err)
	}
	r.send(packet.Inside, dns(1))
	if r.saved(0, rules.WithCounters) == before {
		t.Error("the rules do not count any more")
	}
}

// TestExplain: the running firewall explains by its rules and connections, and nothing changes by it.
func TestExplain(t *testing.T) {
	r := newRig(t, 2, nil)
	ask := func(in, state string) Explained {
		t.Helper()
		x, err := r.client.Explain(r.ctx, ExplainRequest{Frame: dns(1), In: in, State: state})
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	if x := ask("inside", ""); x.Verdict != "accept" || x.Rule != "FORWARD 2" || x.State != "NEW" || x.Connection != "" || len(x.Steps) != 2 || x.Steps[0].Why != "connection state" || !x.Steps[1].Matched || !strings.HasSuffix(x.Steps[1].Place, "rules:6") {
		t.Errorf("%+v", x)
	}
	r.send(packet.Inside, dns(1))
	before := r.saved(0, rules.WithCounters)
	if x := ask("inside", ""); x.Connection == "" || x.Cached != "FORWARD 2" || !strings.Contains(x.Connection, "dport=53") {
		t.Errorf("%+v", x)
	}
	if x := ask("outside", "new"); x.Verdict != "drop" || x.Rule != "FORWARD policy" || x.Why != "as given" || x.Connection != "" {
		t.Errorf("%+v", x)
	}
	for _, q := range []ExplainRequest{{Frame: dns(1), In: "up"}, {Frame: dns(1), In: "inside", State: "old"}} {
		if _, err := r.client.Explain(r.ctx, q); err == nil {
			t.Errorf("%+v was explained", q)
		}
	}
	if x, err := r.client.Explain(r.ctx, ExplainRequest{In: "inside"}); err != nil || x.Rule != "" {
		t.Errorf("no frame at all: %+v %v", x, err)
	}
	if now := r.saved(0, rules.WithCounters); now != before || r.firewall.Count().Count != 1 {
		t.Errorf("explaining changed\n%sto\n%s", before, now)
	}
}
