package rules

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func mustCompile(t testing.TB, text string) *Ruleset {
	t.Helper()
	f, err := Parse("t", []byte(text), Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := Compile([]*File{f}, Options{Clock: true, Wall: true, Counts: true})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func TestUnchanged(t *testing.T) {
	from := mustCompile(t, `*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp --dport 9 -j DROP
COMMIT
*filter
:FORWARD DROP [0:0]
:a - [0:0]
:b - [0:0]
-A FORWARD -p tcp --dport 80 -j a
-A FORWARD -p udp -j ACCEPT
-A FORWARD -p udp -j ACCEPT
-A FORWARD -s 10.0.0.0/8 -j b
-A a -p udp -j ACCEPT
-A b -m limit --limit 1/s -j ACCEPT
COMMIT
`)
	// Other order, other spelling, one of the twins gone, a rule of another chain, another policy.
	to := mustCompile(t, `*filter
:a - [0:0]
:b - [0:0]
:FORWARD ACCEPT [0:0]
-A b -m limit --limit 60/min -j ACCEPT
-A b -p udp -j ACCEPT
-A FORWARD --source 10.0.0.0/255.0.0.0 -j b
-A FORWARD -p 17 -j ACCEPT
-A FORWARD -p tcp -m tcp --destination-port http -j a
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp -m udp --dport 9 -j DROP
COMMIT
`)
	name := func(rs *Ruleset, id RuleID) string {
		if id == NoRule {
			return "gone"
		}
		return rs.RuleName(id)
	}
	m := Unchanged(from, to)
	var got []string
	for id := range from.Rules() {
		got = append(got, name(from, id)+" is "+name(to, m.New(id)))
	}
	want := []string{
		"raw PREROUTING 1 is raw PREROUTING 1", "FORWARD 1 is FORWARD 3", "FORWARD 2 is FORWARD 2", "FORWARD 3 is gone", "FORWARD 4 is FORWARD 1",
		"a 1 is gone", "b 1 is b 1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	for k := range idExtra {
		id := from.extra(k)
		gone := id == from.PolicyID(IPv4) || id == from.PolicyID(IPv6)
		if (m.New(id) == NoRule) != gone || !gone && from.RuleName(id) != to.RuleName(m.New(id)) {
			t.Errorf("%s is %s", from.RuleName(id), name(to, m.New(id)))
		}
	}
	old := make([]Counter, from.Counters())
	for id := range old {
		old[id] = Counter{uint64(id + 1), 10}
	}
	if now := m.Apply(old, to.Counters()); now[m.New(1)] != (Counter{2, 10}) || now[to.PolicyID(IPv4)] != (Counter{}) {
		t.Errorf("counters %v", now)
	}
	// What -m limit remembers goes along.
	to.Adopt(from, m)
	if g := &to.prog[filterPlace]; len(g.buckets) != 1 || g.buckets[0] != from.prog[filterPlace].buckets[0] {
		t.Error("the bucket is another one")
	}
}

func TestFileCounters(t *testing.T) {
	rs := mustCompile(t, `*filter
:FORWARD DROP [7:70]
[1:2] -A FORWARD -p tcp -j ACCEPT
-A FORWARD -p udp -j ACCEPT
-A FORWARD -p icmp -c 3 4 -j ACCEPT
COMMIT
`)
	n, has := rs.FileCounters()
	if n[0] != (Counter{1, 2}) || !has[0] || has[1] || n[2] != (Counter{3, 4}) || !has[2] || n[rs.PolicyID(IPv4)] != (Counter{7, 70}) || n[rs.PolicyID(IPv6)] != (Counter{}) {
		t.Errorf("%v %v", n, has)
	}
}

// TestMillionLines: a file of a million lines is loaded, or refused with the limit named.
func TestMillionLines(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds")
	}
	const head = "*filter\n:FORWARD DROP [0:0]\n"
	rule := strings.Repeat("-A FORWARD -j DROP\n", 1000)
	_, err := Parse("million", []byte(head+strings.Repeat(rule, 1000)+"COMMIT\n"), IPv4)
	if err == nil || !strings.Contains(err.Error(), "million:500003:1: expected at most 500000 rules in a file") {
		t.Errorf("a million rules: %v", err)
	}
	f, err := Parse("million", []byte(head+strings.Repeat("# nothing\n", 1000_000)+"-A FORWARD -p udp -j ACCEPT\nCOMMIT\n"), IPv4)
	if err != nil {
		t.Fatal(err)
	}
	if rs, err := Compile([]*File{f}, Options{}); err != nil || rs.Len() != 1 || rs.info(0).Rule.Pos.Line != 1000_003 {
		t.Errorf("a million comments: %v", err)
	}
	deep := head
	for i := range 1000 {
		deep += fmt.Sprintf(":c%d - [0:0]\n", i)
	}
	for i := range 999 {
		deep += fmt.Sprintf("-A c%d -j c%d\n", i, i+1)
	}
	if f, err = Parse("deep", []byte(deep+"-A FORWARD -j c0\nCOMMIT\n"), IPv4); err != nil {
		t.Fatal(err)
	}
	if _, err := Compile([]*File{f}, Options{}); err == nil || !strings.Contains(err.Error(), "deep:2:2: expected calls nested at most 256 deep") {
		t.Errorf("a thousand chains, each called by the one before: %v", err)
	}
	if _, err := Parse("long", []byte(head+"-A FORWARD -m comment --comment "+strings.Repeat("x", 1<<20)+"\nCOMMIT\n"), IPv4); err == nil || !strings.Contains(err.Error(), "long:3:1: expected a line of at most 65536 bytes") {
		t.Errorf("a line of a megabyte: %v", err)
	}
	bad := strings.Repeat("-A FORWARD -p tpc -j DORP\n", 1000_000) // a mistake in each: not each is looked at
	if _, err := Parse("million", []byte(head+bad+"COMMIT\n"), IPv4); err == nil || strings.Count(err.Error(), "\n") > 200 {
		t.Error("a million mistakes")
	}
}
