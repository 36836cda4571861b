package rules

import (
	"strings"
	"testing"
)

// TestAbsent: matches about what no packet of a wire has are answered as net/netfilter/xt_owner.c and the like answer without
// it, printed as given, and told of. TestRare of tools/oracle asks the kernel the same, but for ipvs, which it may not have.
func TestAbsent(t *testing.T) {
	for rule, holds := range map[string]bool{
		"-m owner --uid-owner 0": false, "-m owner ! --uid-owner 0": true, "-m owner ! --socket-exists": true, "-m owner --socket-exists": false,
		"-m owner ! --uid-owner 1 ! --gid-owner 2-9": true, "-m owner ! --uid-owner 1 --gid-owner 2": false, "-m owner ! --gid-owner 2 --suppl-groups": true,
		"-m cgroup --cgroup 5": false, "-m cgroup ! --cgroup 5": false, "-m cgroup ! --path a/b": false,
		"-m socket": false, "-m socket --transparent --nowildcard --restore-skmark": false,
		"-m realm --realm 0x5": false, "-m realm ! --realm 0x5": true, "-m realm --realm 0x0": true, "-m realm ! --realm 0x0/0xf": false,
		"-m ipvs --ipvs": false, "-m ipvs ! --ipvs": true, "-m ipvs ! --vproto 6": false, "-m ipvs --vaddr 10.0.0.0/8 ! --vport 80 --vdir REPLY ! --vmethod MASQ --vportctl 21": false,
	} {
		f, err := Parse("t", []byte("*mangle\n-A FORWARD "+rule+"\nCOMMIT\n"), IPv4)
		if err != nil {
			t.Error(err)
			continue
		}
		r := f.Tables[0].Chains[0].Rules[0]
		if m := r.Matches[0].(*AbsentMatch); m.Holds != holds {
			t.Errorf("%s holds: %v", rule, m.Holds)
		}
		if got := string(r.AppendSave(nil, "FORWARD")); got != "-A FORWARD "+rule {
			t.Errorf("%s prints as %s", rule, got)
		}
		if len(f.Warnings) != 1 || f.Warnings[0].Pos.Line != 2 || !strings.Contains(f.Warnings[0].Text, rule+map[bool]string{true: " holds", false: " fails"}[holds]) {
			t.Errorf("%s: warnings %v", rule, f.Warnings)
		}
		rs, err := Compile([]*File{f}, Options{})
		if err != nil {
			t.Error(err)
			continue
		}
		g := newGenerator(1, 1)
		p, c := g.packet(g.Flow(4))
		m := rs.NewMatcher()
		m.Count(m.Match(p, c).Trace, 1)
		counts := make([]Counter, rs.Counters())
		if m.Counters(counts); (counts[0].Packets == 1) != holds {
			t.Errorf("%s counted %d packets", rule, counts[0].Packets)
		}
	}
	// What stands where no packet comes is not told of, and what is wrong there is no error.
	f, err := Parse("t", []byte("*filter\n-A OUTPUT -m owner --uid-owner 0 -j ACCEPT\n-A INPUT -m osf --genre Linux\nCOMMIT\n"), IPv4)
	if err != nil || len(f.Warnings) != 2 || !strings.Contains(f.Warnings[0].Text, "chain OUTPUT ignored") {
		t.Errorf("%v, %v", f, err)
	}
	for rule, want := range map[string]string{
		"-m owner --suppl-groups -j DROP":                          "--gid-owner with",
		"-m owner":                                                 "an option after -m owner",
		"-m nfacct --nfacct-name a -j DROP":                        "a rule without a target",
		"-m policy --pol none":                                     "--dir after -m policy",
		"-m policy --dir in --pol none --strict":                   "--pol ipsec with --strict",
		"-m policy --dir in --pol ipsec --strict":                  "something in each element",
		"-m policy --dir in --pol ipsec --reqid 1 --reqid 2":       "--reqid once",
		"-m cpu --cpu 0":                                           "which worker judges a packet",
		"-m osf --genre Linux":                                     "no fingerprints",
		"-m bpf --object-pinned /a":                                "a program as --bytecode",
		`-m bpf --bytecode "2,6 0 0 1"`:                            "as many instructions",
		`-m bpf --bytecode "1,0 0 0 1"`:                            "a return at the end",
		`-m bpf --bytecode "2,96 0 0 1,6 0 0 0"`:                   "a word of memory that was written",
		`-m bpf --bytecode "2,40 0 0 4294963208,6 0 0 0"`:          "a load of what the packet holds",
		`-m bpf --bytecode "3,5 0 0 2,6 0 0 0,6 0 0 0"`:            "a jump to an instruction",
		"-m cluster --cluster-total-nodes 2 --cluster-hash-seed 1": "--cluster-local-node or",
	} {
		_, err := Parse("t", []byte("*filter\n-A FORWARD "+rule+"\nCOMMIT\n"), IPv4)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", rule, err)
		}
	}
}
