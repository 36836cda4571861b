package rules

import "corewire/internal/packet"

// VLANMatch is -m vlan, which iptables does not have: the outermost VLAN tag of the frame (IEEE 802.1Q section 9.6). A
// frame without a tag has id 0 and priority 0.
type VLANMatch struct {
	IDLo, IDHi   uint16 // 12 bits
	PCPLo, PCPHi uint16 // 3 bits
	ID, PCP      bool   // asked
	IDNot        bool
	PCPNot       bool
}

var vlanModule = module{name: "vlan", family: Both, make: func() Extension { return &VLANMatch{} }, options: []option{
	{"vlan-id", 1, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		lo, hi, _ := rp.span(a[0], 4095, "a VLAN id or a range of ids up to 4095")
		x := m.(*VLANMatch)
		x.IDLo, x.IDHi, x.ID, x.IDNot = uint16(lo), uint16(hi), true, not
	}},
	{"vlan-pcp", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		lo, hi, _ := rp.span(a[0], 7, "a priority or a range of priorities up to 7")
		x := m.(*VLANMatch)
		x.PCPLo, x.PCPHi, x.PCP, x.PCPNot = uint16(lo), uint16(hi), true, not
	}},
}, finish: func(rp *ruleParser, l *loaded) {
	if l.seen == 0 {
		rp.fail(l.col, "-m vlan", "--vlan-id or --vlan-pcp after -m vlan", "")
	}
}}

// Name returns "vlan".
func (m *VLANMatch) Name() string { return "vlan" }

// AppendSave implements Extension.
func (m *VLANMatch) AppendSave(b []byte) []byte {
	if m.ID {
		b = appendSpan(append(appendNot(b, m.IDNot), " --vlan-id "...), uint64(m.IDLo), uint64(m.IDHi))
	}
	if m.PCP {
		b = appendSpan(append(appendNot(b, m.PCPNot), " --vlan-pcp "...), uint64(m.PCPLo), uint64(m.PCPHi))
	}
	return b
}

func (m *VLANMatch) compile(c *compiler) {
	if m.ID {
		c.ask(pred{op: opVLAN, not: m.IDNot, lo: m.IDLo, hi: m.IDHi})
	}
	if m.PCP {
		c.ask(pred{op: opPCP, not: m.PCPNot, lo: m.PCPLo, hi: m.PCPHi})
	}
}

// priorityOf returns the priority of the frame's outermost tag, 0 without one.
func priorityOf(p *packet.Packet) uint16 {
	if p.L3 < packet.EthernetHeader+4 {
		return 0
	}
	return uint16(p.Frame[packet.EthernetHeader] >> 5)
}
