package rules

import (
	"slices"
	"strconv"
	"strings"
)

// IgnoredTarget is a target that has nothing to do on a wire: it counts, and the packet goes on. A warning says so.
type IgnoredTarget struct {
	target string
	parts  []string // options, as iptables-save prints them, by their place in the module
}

// ignoredOption is an option of such a target. read makes of its argument what iptables prints, "" for nothing; nil: there is
// none.
type ignoredOption struct {
	name string
	must bool
	read func(rp *ruleParser, a token) string
}

// Name returns the target's name.
func (t *IgnoredTarget) Name() string { return t.target }

// AppendSave implements Extension.
func (t *IgnoredTarget) AppendSave(b []byte) []byte { return append(b, strings.Join(t.parts, "")...) }

// AppendList implements lister. Each of these prints in a way of its own.
func (t *IgnoredTarget) AppendList(b []byte) []byte {
	text := strings.Join(t.parts, "")
	switch t.target {
	case "TRACE":
		return b
	case "IDLETIMER":
		return append(b, strings.NewReplacer(" --timeout ", " timeout:", " --label ", " label:", " --", " ").Replace(text)...)
	case "LED":
		delay := " led-delay:0ms"
		if t.parts[1] != "" {
			if delay = strings.Replace(t.parts[1], " --led-delay ", " led-delay:", 1); !strings.HasSuffix(delay, "inf") {
				delay += "ms"
			}
		}
		b = append(append(b, strings.Replace(t.parts[0], " --led-trigger-id ", " led-trigger-id:", 1)...), delay...)
		return append(b, strings.Replace(t.parts[2], "--", "", 1)...)
	case "RATEEST":
		return append(b, strings.ReplaceAll(text, " --rateest-", " ")...)
	case "TEE":
		return append(append(b, " TEE"...), strings.NewReplacer(" --gateway ", " gw:", " --oif ", " oif=").Replace(text)...)
	}
	return append(append(append(b, ' '), t.target...), strings.NewReplacer(" --type", "", " --checksum-", " ", " --", " ").Replace(text)...)
}

func (t *IgnoredTarget) compile(*compiler) effect { return effect{kind: effectNone} }

// ignoredTarget makes the module of a target. table is the one that it may stand in, "" for any.
func ignoredTarget(name, reason, table string, options ...ignoredOption) module {
	m := module{name: name, family: Both, make: func() Extension { return &IgnoredTarget{target: name, parts: make([]string, len(options))} }}
	for i, o := range options {
		args := uint8(1)
		if o.read == nil {
			args = 0
		}
		m.options = append(m.options, option{o.name, uint8(i + 1), args, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
			text := " --" + o.name
			if o.read != nil {
				v := o.read(rp, a[0])
				if v == "" {
					return
				}
				text += " " + v
			}
			m.(*IgnoredTarget).parts[i] = text
		}})
	}
	m.finish = func(rp *ruleParser, l *loaded) {
		for i, o := range options {
			if o.must && l.seen>>(i+1)&1 == 0 {
				rp.fail(l.col, "-j "+name, "--"+o.name+" after -j "+name, "")
			}
		}
		if table != "" && rp.p.table.Name != table && !(table == "security" && rp.p.table.Name == "mangle") {
			rp.fail(l.col, "-j "+name, "it in table "+table, "")
		}
		rp.note(l.col, "-j "+name+" only counts: "+reason)
	}
	return m
}

// alternatives makes the options of a target exclude one another; one must be given.
func alternatives(m module) module {
	finish := m.finish
	m.finish = func(rp *ruleParser, l *loaded) {
		if l.seen == 0 {
			rp.fail(l.col, "-j "+m.name, "--"+m.options[0].name+" after -j "+m.name, "")
		}
		finish(rp, l)
	}
	for i := range m.options {
		m.options[i].id = 1
	}
	return m
}

// only returns a module that is for one IP version.
func (m module) only(f Family) module {
	m.family = f
	return m
}

var ignoredTargets = []module{
	alternatives(ignoredTarget("CHECKSUM", "a frame that came from a wire has its checksum", "mangle", ignoredOption{"checksum-fill", false, nil})),
	ignoredTarget("AUDIT", "there is no audit log of the wire", "", ignoredOption{"type", true, oneWord("accept", "drop", "reject")}),
	ignoredTarget("SECMARK", "a wire has no security labels", "security", ignoredOption{"selctx", true, anyWord}),
	alternatives(ignoredTarget("CONNSECMARK", "a wire has no security labels", "security", ignoredOption{"save", false, nil}, ignoredOption{"restore", false, nil})),
	ignoredTarget("IDLETIMER", "nobody is told when an interface is idle", "", ignoredOption{"timeout", true, numberUpTo(1<<32-1, 1<<32)},
		ignoredOption{"label", true, bareWord(27)}, ignoredOption{"alarm", false, nil}, ignoredOption{"send_nl_msg", false, nil}),
	ignoredTarget("LED", "there are no lamps here", "", ignoredOption{"led-trigger-id", true, ledName}, ignoredOption{"led-delay", false, ledDelay}, ignoredOption{"led-always-blink", false, nil}),
	ignoredTarget("RATEEST", "there are no rate estimators here", "", ignoredOption{"rateest-name", true, bareWord(15)}, ignoredOption{"rateest-interval", true, bareWord(maxLine)},
		ignoredOption{"rateest-ewmalog", true, bareWord(maxLine)}),
	ignoredTarget("TEE", "a wire has no route to a third host, and sends no copy there; NFLOG copies packets to corewire log", "", ignoredOption{"gateway", true, gateway}, ignoredOption{"oif", false, bareWord(15)}),
	ignoredTarget("TRACE", "there is no trace in a log; corewire explain tells a packet's way through the rules", "raw"),
	ignoredTarget("ULOG", "Linux has it no more; use NFLOG", "", ignoredOption{"ulog-prefix", false, ulogPrefix}, ignoredOption{"ulog-nlgroup", false, numberUpTo(32, 1)},
		ignoredOption{"ulog-cprange", false, numberUpTo(1<<32-1, 0)}, ignoredOption{"ulog-qthreshold", false, numberUpTo(50, 1)}).only(IPv4),
}

// oneWord reads one of some words; anyWord any that is not empty.
func oneWord(words ...string) func(*ruleParser, token) string {
	return func(rp *ruleParser, a token) string {
		if !slices.Contains(words, a.text) {
			rp.fail(a.col, a.text, "one of "+strings.Join(words, ", "), rp.didYouMean(a.text, words))
		}
		return a.text
	}
}

func anyWord(rp *ruleParser, a token) string { return bareWord(maxLine)(rp, a) }

// bareWord reads a word of at most so many bytes, which iptables prints without quotes.
func bareWord(most int) func(*ruleParser, token) string {
	return func(rp *ruleParser, a token) string {
		if a.text == "" || len(a.text) > most {
			rp.fail(a.col, a.text, "a word of 1 to "+strconv.Itoa(most)+" bytes", "")
		}
		return string(appendQuotedName(nil, a.text))
	}
}

// numberUpTo reads a number that is printed unless it is what holds without the option.
func numberUpTo(limit, usual uint64) func(*ruleParser, token) string {
	return func(rp *ruleParser, a token) string {
		if v := rp.number(a, limit); v != usual {
			return strconv.FormatUint(v, 10)
		}
		return ""
	}
}

func ledName(rp *ruleParser, a token) string {
	if len(a.text) > 16 { // struct xt_led_info without "netfilter-"
		rp.fail(a.col, a.text, "a name of at most 16 bytes", "")
	}
	return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(a.text) + `"`
}

func ledDelay(rp *ruleParser, a token) string {
	if strings.HasPrefix(strings.ToLower(a.text), "inf") {
		return "inf"
	}
	return numberUpTo(1<<32-1, 0)(rp, a)
}

func gateway(rp *ruleParser, a token) string {
	m, f, ok := rp.address(a)
	if !ok || strings.Contains(a.text, "/") {
		rp.fail(a.col, a.text, "an address without a mask", "")
		return ""
	}
	rp.restrict(f, a.col, a.text)
	return string(appendAddr(nil, m, false))
}

func ulogPrefix(rp *ruleParser, a token) string {
	if a.text == "" || len(a.text) > 31 { // struct ipt_ulog_info
		rp.fail(a.col, a.text, "a prefix of 1 to 31 bytes", "")
	}
	return string(appendQuoted(nil, a.text))
}
