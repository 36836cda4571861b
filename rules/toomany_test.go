package rules

import (
	"fmt"
	"strings"
	"testing"
)

// TestTooManyRules: the line that passes the limit is named, whether it is seen before the file is read or, where lines say less by
// how they begin, while it is; what is not judged does not count.
func TestTooManyRules(t *testing.T) {
	many := func(line string, n int) string { return strings.Repeat(line+"\n", n) }
	const head, rule = "*filter\n:FORWARD DROP [0:0]\n", "-A FORWARD -p 6"
	for _, tc := range []struct {
		name, text string
		early      int // the line that is seen before
		want       string
	}{
		{"as saved", head + many(rule, MaxRules+1) + "COMMIT\n", MaxRules + 3, fmt.Sprintf("t:%d:1: expected at most %d rules in a file", MaxRules+3, MaxRules)},
		{"the last line", "*filter\n" + strings.TrimSuffix(many(rule, MaxRules+1), "\n"), MaxRules + 2, fmt.Sprintf("t:%d:1: expected at most", MaxRules+2)},
		{"indented", head + " " + strings.Repeat(rule+"\n ", MaxRules+1) + "\nCOMMIT\n", 0, fmt.Sprintf("t:%d:1: expected at most", MaxRules+3)},
		{"another table", "*nat\n" + many("-A PREROUTING -p 6", MaxRules+1) + "COMMIT\n" + head + rule + "\nCOMMIT\n", 0, ""},
		{"the other version", head + many("-6 -A FORWARD -p 6", MaxRules+1) + rule + "\nCOMMIT\n", 0, ""},
	} {
		if got := beyond(tc.text); got != tc.early {
			t.Errorf("%s: line %d is seen before, want %d", tc.name, got, tc.early)
		}
		switch _, err := Parse("t", []byte(tc.text), IPv4); {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tc.want)):
			t.Errorf("%s: error %v, want %s", tc.name, err, tc.want)
		}
	}
}

// TestChangeFull: where there are as many rules as there may be none comes, and those that are there are changed as ever.
func TestChangeFull(t *testing.T) {
	if testing.Short() {
		t.Skip("half a million rules take the race detector minutes, and nothing runs beside another here")
	}
	f, err := Parse("t", []byte("*filter\n:FORWARD DROP [0:0]\n"+strings.Repeat("-A FORWARD -p 6 -j ACCEPT\n", MaxRules)+"COMMIT\n"), IPv4)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := Compile([]*File{f}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		do   string
		full bool // and is refused
	}{{"-R FORWARD 7 -p 17", false}, {"-D FORWARD 7", false}, {"-A FORWARD -p 17", false}, {"-A FORWARD -p 17", true}} {
		to, _, err := edit(rs, tc.do)
		if tc.full {
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("at most %d rules", MaxRules)) {
				t.Errorf("%s: error %v", tc.do, err)
			}
			continue
		}
		if err != nil || !to.Follows(rs) {
			t.Fatalf("%s: compiled anew, error %v", tc.do, err)
		}
		rs = to
	}
}

// TestByteOrderMark: at the beginning it is no part of the text, and anywhere else it is.
func TestByteOrderMark(t *testing.T) {
	const text = "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"
	if _, err := Parse("t", []byte("\ufeff"+text), IPv4); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"\ufeff\ufeff" + text, text + "\ufeff"} {
		if _, err := Parse("t", []byte(bad), IPv4); err == nil {
			t.Errorf("%q is taken for rules", bad)
		}
	}
}
