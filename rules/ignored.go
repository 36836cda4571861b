package rules

// IgnoredTarget is a target that has nothing to do on a wire: it counts, and the packet goes on. A warning says so.
type IgnoredTarget struct {
	target string
	text   string // options, as iptables-save writes them
}

// Name returns the target's name.
func (t *IgnoredTarget) Name() string { return t.target }

// AppendSave implements Extension.
func (t *IgnoredTarget) AppendSave(b []byte) []byte { return append(b, t.text...) }

func (t *IgnoredTarget) compile(*compiler) effect { return effect{kind: effectNone} }

// ignoredTarget makes the module of a target with options that exclude one another; one must be given. table is the
// one that it may stand in, "" for any. With words the options take one
// of them, any word when there are none; with nil nothing.
func ignoredTarget(name, reason, table string, words []string, options ...string) module {
	m := module{name: name, family: Both, make: func() Extension { return &IgnoredTarget{target: name} }}
	for _, o := range options {
		m.options = append(m.options, option{o, 1, 0, false, func(_ *ruleParser, m Extension, _ bool, _ []token) { m.(*IgnoredTarget).text = " --" + o }})
		if words == nil {
			continue
		}
		x := &m.options[len(m.options)-1]
		x.args = 1
		x.set = func(rp *ruleParser, m Extension, _ bool, a []token) {
			ok := len(words) == 0 && a[0].text != ""
			for _, w := range words {
				ok = ok || w == a[0].text
			}
			if !ok {
				rp.fail(a[0].col, a[0].text, "an argument that --"+o+" takes", rp.didYouMean(a[0].text, words))
			}
			m.(*IgnoredTarget).text = string(appendQuotedName([]byte(" --"+o+" "), a[0].text))
		}
	}
	m.finish = func(rp *ruleParser, l *loaded) {
		if l.seen == 0 {
			rp.fail(l.col, "-j "+name, "--"+options[0]+" after -j "+name, "")
		}
		if table != "" && rp.p.table.Name != table && !(table == "security" && rp.p.table.Name == "mangle") {
			rp.fail(l.col, "-j "+name, "it in table "+table, "")
		}
		rp.p.warn(rp.p.pos(l.col), "-j "+name+" only counts: "+reason)
	}
	return m
}

var ignoredTargets = []module{
	ignoredTarget("CHECKSUM", "a frame that came from a wire has its checksum", "mangle", nil, "checksum-fill"),
	ignoredTarget("AUDIT", "there is no audit log of the wire", "", []string{"accept", "drop", "reject"}, "type"),
	ignoredTarget("SECMARK", "a wire has no security labels", "security", []string{}, "selctx"),
	ignoredTarget("CONNSECMARK", "a wire has no security labels", "security", nil, "save", "restore"),
}
