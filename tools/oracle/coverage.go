package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"corewire/dataplane"
	"corewire/internal/packet"
	"corewire/rules"
)

// coverage counts what decided, with which outcome. The key is a match's option, as "tcp ! --dport", or a target.
type coverage struct {
	options map[string]*[2]int // no, yes
	areas   map[string]int     // frames, by what is special about them, see frame
	seen    map[*rules.Rule][]string
}

func newCoverage() *coverage {
	return &coverage{options: map[string]*[2]int{}, areas: map[string]int{}, seen: map[*rules.Rule][]string{}}
}

// frame counts a frame: IP version with state, protocol, kind of packet and extension headers, and what dropped it.
func (c *coverage) frame(p *packet.Packet, d *decision, rs *rules.Ruleset) {
	if p.Class > packet.ClassIPv6 || p.Problem.Header() {
		c.areas["no sound IP"]++
		return
	}
	version := fmt.Sprintf("IPv%d ", p.Family)
	add := func(kind string, there bool) {
		if there {
			c.areas[version+kind]++
		}
	}
	add(d.State.String(), d.Tracked)
	switch p.Proto {
	case 1, 6, 17, 33, 47, 50, 51, 58, 132, 135, 136:
		add(fmt.Sprint("protocol ", p.Proto), true)
	default:
		add("other protocol", true)
	}
	add("VLAN", p.L3 > packet.EthernetHeader)
	add("fragment", p.Flags&packet.Fragment != 0)
	add("later fragment by itself", p.Flags&packet.LaterFragment != 0)
	add("headers without end", p.Flags&packet.BrokenChain != 0)
	add("ICMP error "+d.State.String(), p.Flags&packet.ICMPError != 0 && d.Tracked)
	if p.Family == 6 {
		next := p.Frame[p.L3+6]
		for at := p.L3 + 40; at+8 <= p.End; {
			size := extSize(next, p.Frame[at:])
			if size == 0 {
				break
			}
			add(fmt.Sprint("header ", next), true)
			next = p.Frame[at]
			at += size
		}
	}
	if d.Verdict == dataplane.Drop && (d.Tracked || d.Early) {
		info, isRule := rs.Rule(d.Rule)
		switch name := rs.RuleName(d.Rule); {
		case isRule:
			add("dropped by a rule of "+info.Table, true)
		case strings.HasSuffix(name, "policy"):
			add("dropped by a policy", true)
		default:
			add("dropped by "+name, true)
		}
	}
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
		case refines[strings.Replace(o, "! ", "", 1)]:
		case decides != "":
			return
		default:
			decides = o
		}
	}
	if decides == "" {
		return
	}
	c.add(decides, 0)
	module, _, _ := strings.Cut(decides, " ")
	for _, o := range list {
		if refines[strings.Replace(o, "! ", "", 1)] && strings.HasPrefix(o, module+" ") {
			c.add(o, 0)
		}
	}
}

// refines are options that only say how another one of their module asks: they decide with it.
var refines = map[string]bool{
	"addrtype --limit-iface-in": true, "addrtype --limit-iface-out": true, "connbytes --connbytes-mode": true, "connbytes --connbytes-dir": true,
	"connlabel --set": true, "frag --fraglen": true, "ipv6header --soft": true, "limit --limit-burst": true, "rt --rt-0-res": true, "rt --rt-0-not-strict": true,
	"cluster --cluster-total-nodes": true, "cluster --cluster-hash-seed": true, "ipcomp --compres": true,
	"statistic --mode": true, "statistic --packet": true, "string --algo": true, "string --from": true, "string --to": true, "string --icase": true,
	"time --timestop": true, "time --kerneltz": true, "time --contiguous": true,
	"connlimit --connlimit-mask": true, "connlimit --connlimit-saddr": true, "connlimit --connlimit-daddr": true,
	"hashlimit --hashlimit-name": true, "hashlimit --hashlimit-mode": true, "hashlimit --hashlimit-burst": true, "hashlimit --hashlimit-srcmask": true,
	"hashlimit --hashlimit-dstmask": true, "hashlimit --hashlimit-htable-size": true, "hashlimit --hashlimit-htable-max": true,
	"hashlimit --hashlimit-htable-gcinterval": true, "hashlimit --hashlimit-htable-expire": true,
	"recent --name": true, "recent --mask": true, "recent --rsource": true, "recent --rdest": true, "recent --seconds": true, "recent --hitcount": true,
	"recent --reap": true, "recent --rttl": true,
}

// always are options that hold for every packet, negated or not, or for none, with the reason; and such as are no question.
var always = map[string]string{
	"comment --comment":            "it says nothing",
	"physdev --physdev-is-in":      "every packet comes in by a port",
	"physdev --physdev-is-out":     "but before the way out is known every packet leaves by a port",
	"physdev --physdev-is-bridged": "every packet is, but where --physdev-is-out does not hold",
	"tcp --tcp-option":             "seldom alone in a rule",
	"connlimit --connlimit-above":  limitsNew, "connlimit --connlimit-upto": limitsNew, "connlimit --connlimit-mask": limitsNew,
	"connlimit --connlimit-saddr": limitsNew, "connlimit --connlimit-daddr": limitsNew,
	"recent --set":    "it always holds",
	"recent --remove": fewRules, "tcp --syn": fewRules, "hbh --hbh-len": fewRules, "hbh --hbh-opts": fewRules,
	"time --datestart": ownTime, "time --datestop": ownTime, "time --timestart": ownTime, "time --timestop": ownTime, "time --kerneltz": ownTime,
	"time --monthdays": ownTime, "time --weekdays": ownTime,
	"rt --rt-segsleft": "seldom alone in a rule", "rt --rt-len": "seldom alone in a rule",
	"frag --fragres": fragSeldom, "frag --fragfirst": fragSeldom, "frag --fragmore": fragSeldom, "frag --fraglast": fragSeldom, "frag --fragid": fragSeldom,
	"frag --fraglen":   "nobody looks at it",
	"statistic --mode": turnTold, "statistic --every": turnTold, "statistic --packet": turnTold,
	"time --contiguous": "rules that have it have hours that are the whole day, or ask for weekdays as well",
}

const (
	ownTime    = "what is asked is made of the time of the run, and with it the chance that all packets are answered alike"
	fewRules   = "few rules have it, and few packets come there: by chance all are answered alike"
	limitsNew  = "never alone in a rule: it asks what begins connections"
	fragSeldom = "fragments that are judged by themselves are few, and not explained"
	turnTold   = "whether it was a packet's turn is not told afterwards; that it counts as in Linux is"
)

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

// print writes the tables.
func (c *coverage) print(w io.Writer) {
	for _, a := range slices.Sorted(maps.Keys(c.areas)) {
		fmt.Fprintf(w, "%-44s %7d frames\n", a, c.areas[a])
	}
	for _, o := range slices.Sorted(maps.Keys(c.options)) {
		n := c.options[o]
		fmt.Fprintf(w, "%-36s yes %7d   no %7d\n", o, n[1], n[0])
	}
}

// missing returns the options of the language that never decided, and questions that were only ever answered in one way.
// An option has several names for the same, or several of which a rule may have one.
func (c *coverage) missing() (never, oneSided []string) {
	for _, o := range rules.Language() {
		for _, name := range o[1:] {
			if synonyms[name] && len(o) > 2 {
				continue
			}
			var n [2]int
			for _, not := range []string{"", "! "} {
				if m, ok := c.options[o[0]+" "+not+name]; ok {
					n[0], n[1] = n[0]+m[0], n[1]+m[1]
				}
			}
			switch {
			case n[0]+n[1] == 0:
				never = append(never, o[0]+" "+name)
			case strings.HasPrefix(o[0], "-j ") || always[o[0]+" "+name] != "":
			case n[0] == 0:
				oneSided = append(oneSided, o[0]+" "+name+" always held")
			case n[1] == 0:
				oneSided = append(oneSided, o[0]+" "+name+" never held")
			}
		}
	}
	return never, oneSided
}

// synonyms are the names of options that have a shorter or a more usual one.
var synonyms = map[string]bool{
	"--source-port": true, "--destination-port": true, "--source-ports": true, "--destination-ports": true, "--localtz": true, "--utc": true,
}
