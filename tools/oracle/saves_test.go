package main

import (
	"os"
	"strings"
	"testing"

	"corewire/rules"
)

// Every option of every match and target that is carried out prints as iptables-save prints it, and reads back as the same.
func TestSaves(t *testing.T) {
	need(t)
	src, err := os.ReadFile("testdata/saves.rules")
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range []struct {
		restore, save, digit string
		fam                  rules.Family
	}{{"iptables-legacy-restore", "iptables-legacy-save", "4", rules.IPv4}, {"ip6tables-legacy-restore", "ip6tables-legacy-save", "6", rules.IPv6}} {
		tables := map[string][]string{}
		names := []string{"raw", "mangle", "filter"}
		for line := range strings.Lines(string(src)) {
			where, rest, ok := strings.Cut(strings.TrimSpace(line), ": ")
			f := strings.Fields(where)
			if strings.HasPrefix(line, "#") || !ok || !strings.Contains(f[2], tool.digit) {
				continue
			}
			tables[f[0]] = append(tables[f[0]], "-A "+f[1]+" "+rest)
		}
		text := ""
		for _, name := range names {
			text += "*" + name + "\n" + strings.Join(tables[name], "\n") + "\nCOMMIT\n"
		}
		out, err := namespaced(text, "sh", "-c", tool.restore+" && for t in raw mangle filter; do "+tool.save+" -t $t; done")
		if err != nil {
			t.Fatal(err)
		}
		var theirs, want []string
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "-A") {
				theirs = append(theirs, strings.TrimSpace(line))
			}
		}
		for _, name := range names {
			want = append(want, tables[name]...)
		}
		if len(theirs) != len(want) {
			t.Fatalf("%s prints %d rules of %d", tool.save, len(theirs), len(want))
		}
		file, err := rules.Parse("saves.rules", []byte(text), tool.fam)
		if err != nil {
			t.Fatal(err)
		}
		var ours []string
		for _, table := range file.Tables {
			for _, c := range table.Chains {
				for _, r := range c.Rules {
					ours = append(ours, string(r.AppendSave(nil, c.Name)))
				}
			}
		}
		if len(ours) != len(want) {
			t.Fatalf("%d rules are read of %d", len(ours), len(want))
		}
		for i := range want {
			if theirs[i] != want[i] {
				t.Errorf("%s prints\n%s\nof\n%s", tool.save, theirs[i], want[i])
			}
			if ours[i] != theirs[i] {
				t.Errorf("%s prints\n%s\nhere it is\n%s", tool.save, theirs[i], ours[i])
			}
		}
		t.Logf("%s: %d lines", tool.save, len(want))
	}
}
