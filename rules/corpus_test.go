package rules

import (
	"os"
	"strings"
	"testing"
)

// TestCorpus parses and compiles real rule files. What iptables-restore or iptables-nft-restore accepts is accepted,
// and what both refuse is refused, but for these: a part of the first error, or "" for accepted.
func TestCorpus(t *testing.T) {
	index, err := os.ReadFile(data + "/iptables/INDEX.tsv")
	if err != nil {
		t.Skip("no test data at " + data + "/iptables")
	}
	const semantics = "iptables-semantics/thy__Iptables_Semantics__Examples__"
	except := map[string]string{
		// Needs what a wire does not have.
		semantics + "IPPartEval__medium-sized-company__iptables-save": `found "rpfilter" (a transparent wire has no routes by which`,
		// The mistake is in table nat, which is not read.
		semantics + "IPPartEval__configs_ugent__iptables-save.v1.4.21": "",
		// Chains of other files; iptables-nft-restore --test does not look for them.
		"ufw/jbq__conf__after.rules":       `found "ufw-skip-to-policy-input"`,
		"ufw/jbq__conf__after6.rules":      `found "ufw6-skip-to-policy-input"`,
		"ufw/jbq__conf__before.rules":      `found "ufw-logging-deny"`,
		"ufw/veridit__conf__after6.rules":  `found "ufw6-skip-to-policy-input"`,
		"ufw/veridit__conf__before.rules":  `found "ufw-logging-deny"`,
		"ufw/veridit__conf__before6.rules": `found "ufw6-logging-deny"`,
	}
	files, rules := 0, 0
	for _, line := range strings.Split(string(index), "\n")[1:] {
		f := strings.Split(line, "\t")
		if len(f) < 7 || f[1] != "save" {
			continue
		}
		family := IPv4
		if f[2] == "6" {
			family = IPv6
		}
		src, err := os.ReadFile(data + "/iptables/" + f[0])
		if err != nil {
			t.Error(err)
			continue
		}
		files++
		file, err := Parse(f[0], src, family)
		if err == nil {
			var rs *Ruleset
			if rs, err = Compile([]*File{file}, Options{Clock: true, Wall: true, Counts: true}); err == nil {
				rules += rs.Len()
				rs.NewMatcher()
			}
		}
		want, special := except[f[0]]
		switch {
		case special && want == "" && err != nil, !special && err != nil && (f[5] == "0" || f[6] == "0"):
			t.Errorf("%s: %v", f[0], err)
		case special && want != "" && (err == nil || !strings.Contains(err.(*Errors).List[0].Error(), want)):
			t.Errorf("%s: want %s, got %v", f[0], want, err)
		case !special && err == nil && f[5] != "0" && f[6] != "0":
			t.Errorf("%s is accepted; iptables says: %s", f[0], f[7])
		}
	}
	t.Logf("%d files, %d rules judged", files, rules)
}
