package rules

import "corewire/internal/packet"

// PhysdevMatch is -m physdev: the ports of a bridge. The wire is one with two ports, so that --physdev-is-in,
// --physdev-is-out and --physdev-is-bridged hold for every packet.
type PhysdevMatch struct {
	In, Out                      InterfaceMatch
	IsIn, IsOut, IsBridged       bool
	IsInNot, IsOutNot, BridgeNot bool
}

var physdevModule = module{name: "physdev", family: Both, make: func() Extension { return &PhysdevMatch{} }, options: []option{
	{"physdev-in", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		rp.setInterface(&m.(*PhysdevMatch).In, "--physdev-in", not, a[0])
	}},
	{"physdev-out", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		rp.setInterface(&m.(*PhysdevMatch).Out, "--physdev-out", not, a[0])
	}},
	{"physdev-is-in", 3, 0, true, func(_ *ruleParser, m Extension, not bool, _ []token) {
		m.(*PhysdevMatch).IsIn, m.(*PhysdevMatch).IsInNot = true, not
	}},
	{"physdev-is-out", 4, 0, true, func(_ *ruleParser, m Extension, not bool, _ []token) {
		m.(*PhysdevMatch).IsOut, m.(*PhysdevMatch).IsOutNot = true, not
	}},
	{"physdev-is-bridged", 5, 0, true, func(_ *ruleParser, m Extension, not bool, _ []token) {
		m.(*PhysdevMatch).IsBridged, m.(*PhysdevMatch).BridgeNot = true, not
	}},
}, finish: func(rp *ruleParser, l *loaded) {
	if l.seen == 0 {
		rp.fail(l.col, "-m physdev", "an option after -m physdev, such as --physdev-in", "")
	}
}}

// Name returns "physdev".
func (m *PhysdevMatch) Name() string { return "physdev" }

// AppendSave implements Extension.
func (m *PhysdevMatch) AppendSave(b []byte) []byte {
	if m.IsIn {
		b = append(appendNot(b, m.IsInNot), " --physdev-is-in"...)
	}
	if m.In.Name != "" {
		b = append(append(appendNot(b, m.In.Not), " --physdev-in "...), m.In.Name...)
	}
	if m.IsOut {
		b = append(appendNot(b, m.IsOutNot), " --physdev-is-out"...)
	}
	if m.Out.Name != "" {
		b = append(append(appendNot(b, m.Out.Not), " --physdev-out "...), m.Out.Name...)
	}
	if m.IsBridged {
		b = append(appendNot(b, m.BridgeNot), " --physdev-is-bridged"...)
	}
	return b
}

func (m *PhysdevMatch) compile(c *compiler) {
	noOut := baseTable[c.place/2].noOut
	in := c.devices(m.In, packet.Inside, packet.Outside)
	if !noOut {
		in &= c.devices(m.Out, packet.Outside, packet.Inside)
	}
	if m.never(noOut) {
		in = 0
	}
	if in != 3 {
		c.ask(pred{op: opPorts, lo: in})
	}
}

// never says that one of the questions that always have the same answer has the wrong one.
// Where the way out is not known yet, a packet neither leaves through a port nor is bridged (net/netfilter/xt_physdev.c).
func (m *PhysdevMatch) never(noOut bool) bool {
	return m.IsInNot || m.IsOut && m.IsOutNot != noOut || m.IsBridged && m.BridgeNot != noOut
}
