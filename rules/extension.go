package rules

import (
	"fmt"
	"strings"
)

// loaded is a module in use by the rule.
type loaded struct {
	mod    *module
	m      Extension
	col    int
	target bool
	seen   uint64 // options given, by option.id
}

// module describes an extension: what stands after -m.
type module struct {
	name    string
	family  Family
	protos  []uint8 // it needs -p with one of these; nil: any
	make    func() Extension
	options []option
	// finish checks what the options add up to; nil: nothing to check.
	finish func(rp *ruleParser, l *loaded)
}

// option describes one option of a module.
type option struct {
	name string // without the dashes
	id   uint8  // options with the same id are spellings of one, or exclude one another
	args uint8  // words that follow
	not  bool   // "!" may stand before it
	set  func(rp *ruleParser, m Extension, not bool, args []token)
}

// load adds a module to the rule.
func (rp *ruleParser) load(mod *module, col int) {
	rp.loaded = append(rp.loaded, loaded{mod: mod, m: mod.make(), col: col})
}

// loadProtocol loads the module named after the rule's protocol, once, if there is one.
func (rp *ruleParser) loadProtocol(col int) bool {
	if rp.protoAuto || !rp.protoSet || rp.rule.Proto.Num == 0 {
		return false
	}
	rp.protoAuto = true
	for k := range modules {
		m := &modules[k]
		if len(m.protos) == 1 && m.protos[0] == rp.rule.Proto.Num && m.family&rp.rule.Family != 0 {
			for _, l := range rp.loaded {
				if l.mod == m {
					return false
				}
			}
			rp.load(m, col)
			return true
		}
	}
	return false
}

// maxMatches bounds the modules of one rule; iptables has no bound of its own but the size of an entry.
const maxMatches = 64

func (rp *ruleParser) setMatch(a token) {
	name := a.text
	if name == "icmpv6" {
		name = "icmp6"
	}
	for k := range modules {
		m := &modules[k]
		if m.name == name {
			rp.load(m, a.col)
			if len(rp.loaded) > maxMatches {
				rp.fail(a.col, a.text, fmt.Sprintf("at most %d matches in a rule", maxMatches), "")
				rp.i = len(rp.toks)
			}
			return
		}
	}
	names := make([]string, len(modules))
	for k := range modules {
		names[k] = modules[k].name
	}
	hint, ok := otherMatches[name]
	if !ok {
		hint = rp.didYouMean(name, names)
	}
	rp.fail(a.col, a.text, "a match module that can work on a transparent wire", hint)
	rp.skipOptions()
}

func (rp *ruleParser) setTarget(a token, v Verb) {
	if rp.jumpSet {
		rp.fail(a.col, a.text, "one target", "")
		return
	}
	rp.jumpSet = true
	t := Target{Pos: rp.p.pos(a.col), Verb: v}
	if v == VerbJump {
		switch a.text {
		case "ACCEPT":
			t.Verb = VerbAccept
		case "DROP":
			t.Verb = VerbDrop
		case "RETURN":
			t.Verb = VerbReturn
		}
	}
	if t.Verb == VerbJump || t.Verb == VerbGoto {
		t.Chain = a.text
		if _, ok := baseChains[rp.p.table.Name][a.text]; ok {
			rp.fail(a.col, a.text, "a user chain or a target", "base chains cannot be jumped to")
			return
		}
		if rp.p.chains[a.text] == nil && v == VerbJump {
			for k := range targets {
				if targets[k].name == a.text {
					rp.rule.Target = Target{Pos: t.Pos}
					rp.loaded = append(rp.loaded, loaded{mod: &targets[k], m: targets[k].make(), col: a.col, target: true})
					return
				}
			}
		}
		if reason, ok := otherTargets[a.text]; ok && rp.p.chains[a.text] == nil {
			rp.fail(a.col, a.text, "a target that can work on a transparent wire", reason)
			rp.rule.Target = Target{}
			rp.skipOptions()
			return
		}
	}
	rp.rule.Target = t
}

// skipOptions passes over the words that belong to a module or target that is not known.
func (rp *ruleParser) skipOptions() {
	for rp.i < len(rp.toks) {
		t := rp.toks[rp.i]
		if !t.quoted && len(t.text) == 2 && t.text[0] == '-' && shortOptions[t.text[1]] != "" || len(t.text) > 2 && rp.core(strings.TrimPrefix(t.text, "--")) != nil {
			if rp.i > 0 && rp.toks[rp.i-1].text == "!" {
				rp.i--
			}
			return
		}
		rp.i++
	}
}
