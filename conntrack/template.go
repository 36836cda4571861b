package conntrack

// Template is what a rule of the raw table gives to a connection that begins (struct nf_conn with IPS_TEMPLATE,
// net/netfilter/xt_CT.c). It belongs to the Table that made it. The zero value gives nothing.
type Template struct {
	helper Helper
	policy uint16
}

// NewTemplate makes a template: a helper and the name of a timeout policy, each may be missing. A policy that is not
// defined yet has the settings' timeouts until it is. It is not for the packet path: it may allocate.
func (t *Table) NewTemplate(h Helper, timeout string) Template {
	x := Template{helper: h}
	if timeout != "" {
		x.policy = t.policy(timeout)
	}
	return x
}

// SetTemplate says what the next packets give to the connections that they begin, until it is called again; nil for
// nothing. The Table keeps the pointer. Connections that exist do not change.
func (t *Table) SetTemplate(x *Template) { t.template = x }

// give applies the template to a new connection. One that was expected has its helper from the expectation
// (init_conntrack: the template's is tried only otherwise).
func (t *Table) give(e *entry, ref uint32) {
	x := t.template
	if x.policy != 0 {
		t.policies.of.items[ref] = x.policy
		e.flags |= entryPolicy
	}
	if uint32(e.status)&(StatusExpected|StatusHelper) == 0 && x.helper.fits(e.key.Proto, e.key.Family) {
		t.assign(e, ref, x.helper)
	}
}
