package rules

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// data is where test data from outside may be; see its SOURCES.md.
const data = "../../shared/data"

// unsupported returns the first module or target of a line that is not known here, "" for none.
func unsupported(line string) string {
	words := strings.Fields(line)
	for i := 0; i+1 < len(words); i++ {
		name := words[i+1]
		known := func(list []module) bool {
			return slices.ContainsFunc(list, func(m module) bool { return m.name == name })
		}
		switch {
		case words[i] == "-m" && name != "icmpv6" && !known(modules):
			return "-m " + name
		case words[i] == "-j" && !known(targets) && !slices.Contains([]string{"ACCEPT", "DROP", "RETURN", "c"}, name):
			return "-j " + name
		}
	}
	return ""
}

// TestExtensionLines parses the rule lines of netfilter's per-extension tests and compares how they print back.
func TestExtensionLines(t *testing.T) {
	files, _ := filepath.Glob(data + "/iptables/extensions/*.t")
	if len(files) == 0 {
		t.Skip("no test data at " + data + "/iptables/extensions")
	}
	tried, refused := 0, make(map[string]int)
	for _, name := range files {
		base := filepath.Base(name)
		if strings.HasPrefix(base, "libebt") || strings.HasPrefix(base, "libarpt") {
			continue
		}
		fams := []Family{IPv4, IPv6}
		switch {
		case strings.HasPrefix(base, "libip6t"):
			fams = fams[1:]
		case strings.HasPrefix(base, "libipt") || base == "iptables.t":
			fams = fams[:1]
		}
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		table, chain := "filter", "FORWARD"
		for n, line := range strings.Split(string(src), "\n") {
			if strings.HasPrefix(line, "*") {
				table = line[1:]
			}
			if strings.HasPrefix(line, ":") {
				chain = ""
				for _, c := range strings.Split(line[1:], ",") {
					if meaning, ok := baseChains[table][c]; ok && meaning == "" && (chain == "" || c == "FORWARD") {
						chain = c
					}
				}
			}
			if line == "" || strings.ContainsAny(line[:1], "#:*%@") || !strings.Contains(line, ";") || chain == "" {
				continue
			}
			f := strings.Split(line, ";")
			if len(f) < 3 || f[0] == "" {
				continue
			}
			in, want, ok := f[0], f[1], f[2] == "OK"
			if strings.Contains(in, "--nfacct-name wrong") {
				continue // the kernel has no account of this name; here there is none by any
			}
			if len(f) > 3 && strings.Contains(f[3], "LEGACY") {
				ok = true // what one of the two backends takes, with fewer conditions of its own, is taken
			}
			if what := unsupported(in); what != "" {
				refused[what]++
				continue
			}
			if want == "=" {
				want = in
			}
			tried++
			for _, fam := range fams {
				chains := ":c - [0:0]\n"
				file, err := Parse(base, []byte("*"+table+"\n"+chains+"-A "+chain+" "+in+"\nCOMMIT\n"), fam)
				if err == nil && strings.Contains(in, "-set foo ") { // iptables asks the kernel for the set, Compile those that there are
					_, err = Compile([]*File{file}, Options{Clock: true})
				}
				if ok != (err == nil) {
					t.Errorf("%s:%d: %s: %s: want accepted %v, got error %v", base, n+1, fam, in, ok, err)
					continue
				}
				if !ok {
					continue
				}
				got := string(file.Tables[0].chain(chain).Rules[0].AppendSave(nil, chain))
				if got != "-A "+chain+" "+want {
					t.Errorf("%s:%d: %s: %s: prints as\n%s, want\n-A %s %s", base, n+1, fam, in, got, chain, want)
				}
			}
		}
	}
	t.Logf("%d lines; not known here, with the number of lines: %v", tried, refused)
}
