package main

import (
	"fmt"

	"corewire/conntrack"
	"corewire/rules"
)

// ruleFile is a rule set for both sides: compiled for corewire, and as what iptables-restore and ip6tables-restore take.
type ruleFile struct {
	ruleset      *rules.Ruleset
	text4, text6 []byte
}

// newRuleFile reads rules in iptables-save form.
//
// On a bridge the interface of a packet is the bridge, and its ports are matched by -m physdev: -i and -o are
// translated to that. The mangle table gets a rule that asks for the connection state and does nothing, because Linux
// tracks connections in a namespace only while somebody asks.
func newRuleFile(name string, src []byte) (*ruleFile, error) {
	return compileRules(name, src, conntrack.DefaultSettings())
}

// compileRules is newRuleFile for rules that name timeout policies of the settings.
func compileRules(name string, src []byte, settings *conntrack.Settings) (*ruleFile, error) {
	f, err := rules.Parse(name, src, rules.Both)
	if err != nil {
		return nil, err
	}
	rs, err := rules.Compile([]*rules.File{f}, rules.Options{Clock: true, Rejects: true, Timeouts: settings.TimeoutPolicies()})
	if err != nil {
		return nil, err
	}
	return &ruleFile{rs, save(f, rules.IPv4), save(f, rules.IPv6)}, nil
}

// save prints the rules of one family for the kernel.
func save(f *rules.File, family rules.Family) []byte {
	b := []byte("*mangle\n-A FORWARD -m conntrack --ctstate INVALID\nCOMMIT\n")
	for _, t := range f.Tables {
		b = fmt.Appendf(b, "*%s\n", t.Name)
		for _, c := range t.Chains {
			b = fmt.Appendf(b, ":%s %s [0:0]\n", c.Name, c.Policy)
		}
		for _, c := range t.Chains {
			if c.Ignored {
				continue
			}
			for _, r := range c.Rules {
				if r.Family&family != 0 {
					b = appendBridged(b, forFamily(r, family), c.Name)
				}
			}
		}
		b = append(b, "COMMIT\n"...)
	}
	return b
}

// forFamily returns a rule with the name that its timeout policy has for one family.
func forFamily(r *rules.Rule, family rules.Family) *rules.Rule {
	if r.Target.CT == nil || r.Target.CT.Timeout == "" {
		return r
	}
	named, ct := *r, *r.Target.CT
	ct.Timeout = timeoutName(ct.Timeout, family)
	named.Target.CT = &ct
	return &named
}

// appendBridged prints a rule with its interfaces as ports of the bridge.
func appendBridged(b []byte, r *rules.Rule, chain string) []byte {
	bare := *r
	bare.In, bare.Out, bare.Target = rules.InterfaceMatch{}, rules.InterfaceMatch{}, rules.Target{}
	b = bare.AppendSave(b, chain)
	for _, m := range []struct {
		rules.InterfaceMatch
		option string
	}{{r.In, "--physdev-in"}, {r.Out, "--physdev-out"}} {
		if m.Name == "" || m.Name == "+" && !m.Not {
			continue
		}
		b = append(b, " -m physdev"...)
		if m.Not {
			b = append(b, " !"...)
		}
		b = append(b, ' ')
		b = append(b, m.option...)
		b = append(b, ' ')
		b = append(b, m.Name...)
	}
	target := rules.Rule{Family: r.Family, Target: r.Target}
	b = append(b, target.AppendSave(nil, "x")[len("-A x"):]...)
	return append(b, '\n')
}
