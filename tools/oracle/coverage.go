package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"corewire/internal/packet"
	"corewire/rules"
)

// coverage counts what decided, with which outcome. The key is a match's option, as "tcp ! --dport", or a target.
type coverage struct {
	options map[string]*[2]int // no, yes
	seen    map[*rules.Rule][]string
}

func newCoverage() *coverage {
	return &coverage{options: map[string]*[2]int{}, seen: map[*rules.Rule][]string{}}
}

// note counts a rule that was asked about a packet. A rule that held says yes for all its options and its target. One that
// did not says no for its option, if it has only one: then that one decided.
func (c *coverage) note(r *rules.Rule, p *packet.Packet, held bool) {
	list, ok := c.seen[r]
	if !ok {
		list = optionsOf(r.Text)
		c.seen[r] = list
	}
	if held {
		for _, o := range list {
			c.add(o, 1)
		}
		return
	}
	decides := ""
	for _, o := range list {
		switch {
		case strings.HasPrefix(o, "-j "), strings.HasPrefix(o, "-g "), strings.HasPrefix(o, "comment "):
		case o == "-p" && len(list) > 1 && p.Proto == r.Proto.Num:
		case decides != "":
			return
		default:
			decides = o
		}
	}
	if decides != "" {
		c.add(decides, 0)
	}
}

func (c *coverage) add(option string, outcome int) {
	n := c.options[option]
	if n == nil {
		n = new([2]int)
		c.options[option] = n
	}
	n[outcome]++
}

// optionsOf returns the options of a rule's line, each with its module: "tcp ! --dport", "-s", "! -p", "-j DROP",
// "-j CT --zone".
func optionsOf(text string) (out []string) {
	module, not := "", ""
	list := words(text)
	for i := 0; i < len(list); i++ {
		w := list[i]
		arg := ""
		if i+1 < len(list) {
			arg = list[i+1]
		}
		switch {
		case i == 0 && strings.HasPrefix(w, "["):
		case w == "!":
			not = "! "
			continue
		case w == "-A" || w == "-I" || w == "-c" || w == "-4" || w == "-6":
			i++
		case w == "-m" || w == "--match":
			module = arg
			i++
		case w == "-j" || w == "--jump" || w == "-g" || w == "--goto":
			module = "-" + strings.TrimLeft(w, "-")[:1] + " "
			if arg != strings.ToUpper(arg) || module == "-g " {
				arg = "CHAIN"
			}
			module += arg
			out = append(out, module)
			i++
		case strings.HasPrefix(w, "--"):
			out = append(out, strings.TrimSpace(module+" "+not+w))
		case len(w) == 2 && w[0] == '-':
			out = append(out, not+w)
			i++
		}
		not = ""
	}
	return out
}

// print writes the table.
func (c *coverage) print(w io.Writer) {
	for _, o := range slices.Sorted(maps.Keys(c.options)) {
		n := c.options[o]
		fmt.Fprintf(w, "%-36s yes %7d   no %7d\n", o, n[1], n[0])
	}
}

// missing returns the options of the language that never decided.
func (c *coverage) missing() (out []string) {
	for _, o := range rules.Language() {
		found := false
		for _, spelling := range o[1:] {
			for _, not := range []string{"", "! "} {
				_, ok := c.options[o[0]+" "+not+spelling]
				found = found || ok
			}
		}
		if !found {
			out = append(out, o[0]+" "+o[1])
		}
	}
	return out
}
