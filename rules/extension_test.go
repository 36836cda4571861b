package rules

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// data is where test data from outside may be; see its SOURCES.md.
const data = "../../shared/data"

// supported says that all modules and targets of a line are known here.
func supported(line string) bool {
	words := strings.Fields(line)
	for i := 0; i+1 < len(words); i++ {
		switch words[i] {
		case "-m":
			ok := false
			for _, m := range modules {
				ok = ok || m.name == words[i+1]
			}
			if !ok {
				return false
			}
		case "-j":
			switch words[i+1] {
			case "ACCEPT", "DROP", "RETURN", "REJECT", "LOG", "NFLOG":
			default:
				return false
			}
		}
	}
	return true
}

// TestExtensionLines parses the rule lines of netfilter's per-extension tests and compares how they print back.
func TestExtensionLines(t *testing.T) {
	files, _ := filepath.Glob(data + "/iptables/extensions/*.t")
	if len(files) == 0 {
		t.Skip("no test data at " + data + "/iptables/extensions")
	}
	tried := 0
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
		table := "filter"
		for n, line := range strings.Split(string(src), "\n") {
			if strings.HasPrefix(line, "*") {
				table = line[1:]
			}
			if line == "" || strings.ContainsAny(line[:1], "#:*%@") || !strings.Contains(line, ";") || table != "filter" {
				continue
			}
			f := strings.Split(line, ";")
			if len(f) < 3 || f[0] == "" {
				continue
			}
			in, want, ok := f[0], f[1], f[2] == "OK"
			if !supported(in) {
				continue
			}
			if want == "=" {
				want = in
			}
			tried++
			for _, fam := range fams {
				chains := ":c - [0:0]\n"
				file, err := Parse(base, []byte("*filter\n"+chains+"-A FORWARD "+in+"\nCOMMIT\n"), fam)
				if ok != (err == nil) {
					t.Errorf("%s:%d: %s: %s: want accepted %v, got error %v", base, n+1, fam, in, ok, err)
					continue
				}
				if !ok {
					continue
				}
				got := string(file.Tables[0].chain("FORWARD").Rules[0].AppendSave(nil, "FORWARD"))
				if got != "-A FORWARD "+want {
					t.Errorf("%s:%d: %s: %s: prints as\n%s, want\n-A FORWARD %s", base, n+1, fam, in, got, want)
				}
			}
		}
	}
	t.Logf("%d lines", tried)
}
