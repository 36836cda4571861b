package rules

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestDocTable: the lists of matches and targets in doc.go are those that there are.
func TestDocTable(t *testing.T) {
	src, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string][]string{}
	kind := ""
	for _, line := range strings.Split(string(src), "\n") {
		text, ok := strings.CutPrefix(line, "//\t")
		if !ok {
			kind = ""
			continue
		}
		for _, k := range []string{"matches carried out", "matches answered", "matches refused", "targets carried out", "targets that count", "targets refused"} {
			if rest, ok := strings.CutPrefix(text, k); ok {
				kind, text = k, rest
			}
		}
		text, _, _ = strings.Cut(text, ",")
		if kind != "" && !strings.Contains(text, "(") {
			listed[kind] = append(listed[kind], strings.Fields(text)...)
		}
	}
	names := func(list []module) (out []string) {
		for _, m := range list {
			out = append(out, m.name)
		}
		return out
	}
	keys := func(m map[string]string) (out []string) {
		for k := range m {
			out = append(out, k)
		}
		return out
	}
	ignored := names(ignoredTargets)
	carried := slices.DeleteFunc(names(targets), func(n string) bool { return slices.Contains(ignored, n) })
	answered := append(names(absentModules), nfacctModule.name)
	matches := slices.DeleteFunc(names(modules), func(n string) bool { return slices.Contains(answered, n) })
	for kind, want := range map[string][]string{
		"matches carried out": matches, "matches answered": answered, "matches refused": keys(otherMatches), "targets that count": ignored,
		"targets carried out": append(carried, "ACCEPT", "DROP", "RETURN"), "targets refused": keys(otherTargets),
	} {
		got := listed[kind]
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%v, there are\n%v", kind, got, want)
		}
	}
}
