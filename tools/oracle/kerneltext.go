package main

import (
	"fmt"
	"strings"

	"corewire/rules"
)

// kernelText prints the rules of a file for iptables-legacy-restore, or ip6tables-legacy-restore: every line as it stands
// in the file, so that each side reads it for itself, except that
//
//   - the table nat, and chains that no packet of a transparent wire passes, are left out;
//   - -i and -o become -m physdev, and stand first: on a bridge the interface of a packet is the bridge;
//   - counters begin at zero, and -I lines stand where their rule has come to.
//
// In INPUT of the table mangle stands what keeps connection tracking on: Linux tracks connections in a namespace only while
// somebody asks for them. No packet comes there.
func kernelText(f *rules.File, family rules.Family) []byte {
	var b []byte
	for _, name := range tableNames {
		b = fmt.Appendf(b, "*%s\n", name)
		policies := map[string]rules.Policy{}
		for _, base := range xtBases[name] {
			policies[base] = rules.PolicyAccept
		}
		var chains []*rules.Chain
		for _, t := range f.Tables {
			if t.Name == name {
				chains = t.Chains
			}
		}
		for _, c := range chains {
			if c.Policy != rules.PolicyNone {
				policies[c.Name] = c.Policy
			}
		}
		for _, base := range xtBases[name] {
			b = fmt.Appendf(b, ":%s %s\n", base, policies[base])
		}
		for _, c := range chains {
			if c.Policy == rules.PolicyNone {
				b = fmt.Appendf(b, ":%s -\n", c.Name)
			}
		}
		for _, c := range chains {
			if c.Ignored {
				continue
			}
			line := 0
			for _, r := range c.Rules {
				if r.Family&family == 0 || r.Pos.Line == line { // a line with several addresses is several rules
					continue
				}
				line = r.Pos.Line
				b = append(appendKernelRule(b, r.Text, c.Name), '\n')
			}
		}
		if name == "mangle" {
			b = append(b, keepTracking...)
		}
		b = append(b, "COMMIT\n"...)
	}
	return b
}

// keepTracking is a rule that asks for connections and does nothing.
const keepTracking = "-A INPUT -m conntrack --ctstate INVALID\n"

// xtBases are the base chains of the tables (net/ipv4/netfilter/iptable_raw.c, iptable_mangle.c, iptable_filter.c).
var xtBases = map[string][]string{
	"raw":      {"PREROUTING", "OUTPUT"},
	"mangle":   {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	"filter":   {"INPUT", "FORWARD", "OUTPUT"},
	"security": {"INPUT", "FORWARD", "OUTPUT"},
}

// words splits a rule's line at blanks outside of double quotes. The words keep their quotes.
func words(line string) (out []string) {
	for i := 0; i < len(line); {
		if line[i] == ' ' || line[i] == '\t' || line[i] == '\r' {
			i++
			continue
		}
		from, quoted := i, false
		for ; i < len(line) && (quoted || line[i] != ' ' && line[i] != '\t' && line[i] != '\r'); i++ {
			switch {
			case line[i] == '"':
				quoted = !quoted
			case line[i] == '\\' && quoted:
				i++
			}
		}
		out = append(out, line[from:min(i, len(line))])
	}
	return out
}

// appendKernelRule prints a rule's line for the kernel. The place of the rule is the order of the lines.
func appendKernelRule(b []byte, text, chain string) []byte {
	var ports, rest []string
	not := ""
	list := words(text)
	for i := 0; i < len(list); i++ {
		w := list[i]
		next := func() string {
			i++
			if i < len(list) {
				return list[i]
			}
			return ""
		}
		switch {
		case i == 0 && strings.HasPrefix(w, "["):
		case w == "-4" || w == "-6" || w == "--ipv4" || w == "--ipv6":
		case w == "-c" || w == "--set-counters":
			next()
			next()
		case w == "-A" || w == "--append":
			next()
		case w == "-I" || w == "--insert":
			next()
			if i+1 < len(list) && list[i+1] != "" && list[i+1][0] >= '0' && list[i+1][0] <= '9' {
				i++
			}
		case w == "!":
			not = "! "
			continue
		case w == "-i" || w == "--in-interface":
			ports = append(ports, "-m physdev "+not+"--physdev-in "+next())
		case w == "-o" || w == "--out-interface":
			ports = append(ports, "-m physdev "+not+"--physdev-out "+next())
		default:
			rest = append(rest, not+w)
		}
		not = ""
	}
	b = fmt.Appendf(b, "-A %s", quoteName(chain))
	for _, w := range append(ports, rest...) {
		b = append(append(b, ' '), w...)
	}
	return b
}

func quoteName(s string) string {
	if strings.ContainsAny(s, " \"\\") {
		return fmt.Sprintf("%q", s)
	}
	return s
}
