package rules

// AccountMatch is -m nfacct: Linux counts the packet by a name, and it matches. A name may have a quota, which then makes it
// match only beyond that; no rule file says whether one has. So it is taken where a rule does nothing else: there its own
// counter is what is counted, and no verdict can differ.
type AccountMatch struct{ Account string }

var nfacctModule = module{name: "nfacct", family: Both, make: func() Extension { return &AccountMatch{} }, options: []option{
	{"nfacct-name", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		if a[0].text == "" || len(a[0].text) > 31 { // NFACCT_NAME_MAX
			rp.fail(a[0].col, a[0].text, "a name of 1 to 31 bytes", "")
		}
		m.(*AccountMatch).Account = a[0].text
	}},
}, finish: func(rp *ruleParser, l *loaded) {
	needOption("nfacct-name")(rp, l)
	if rp.acts() {
		rp.fail(l.col, "-m nfacct", "a rule without a target with -m nfacct", "its name may have a quota, of which the rules say nothing; without a target the rule's own counter counts as well")
		return
	}
	rp.note(l.col, "-m nfacct keeps no counter by name: it holds for every packet, and the rule's own counter counts them")
}}

// Name returns "nfacct".
func (m *AccountMatch) Name() string { return "nfacct" }

// AppendSave implements Extension.
func (m *AccountMatch) AppendSave(b []byte) []byte {
	return appendQuoted(append(b, " --nfacct-name "...), m.Account)
}

func (m *AccountMatch) compile(*compiler) {}

// acts says that the rule has a target that decides, changes or leads to something.
func (rp *ruleParser) acts() bool {
	for i := range rp.loaded {
		if l := &rp.loaded[i]; l.target {
			switch l.m.(type) {
			case *LogTarget, *IgnoredTarget:
				return false
			}
		}
	}
	return rp.jumpSet
}

// AppendList implements lister.
func (m *AccountMatch) AppendList(b []byte) []byte {
	return appendQuoted(append(b, " nfacct-name "...), m.Account)
}
