package rules

// PortsMatch is -m sctp and -m dccp with --sport and --dport. It needs a whole 12-byte header, as TCPMatch needs its.
type PortsMatch struct {
	Src, Dst       PortRange
	srcSet, dstSet bool
	module         string
}

func portsModule(name string, proto uint8) module {
	src := func(rp *ruleParser, m Match, not bool, a []token) {
		m.(*PortsMatch).srcSet = true
		rp.ports(&m.(*PortsMatch).Src, not, a[0])
	}
	dst := func(rp *ruleParser, m Match, not bool, a []token) {
		m.(*PortsMatch).dstSet = true
		rp.ports(&m.(*PortsMatch).Dst, not, a[0])
	}
	return module{name: name, family: Both, protos: []uint8{proto}, make: func() Match { return &PortsMatch{Src: anyPort, Dst: anyPort, module: name} }, options: []option{
		{"source-port", 1, 1, true, src},
		{"sport", 1, 1, true, src},
		{"destination-port", 2, 1, true, dst},
		{"dport", 2, 1, true, dst},
	}}
}

// Name returns "sctp" or "dccp".
func (m *PortsMatch) Name() string { return m.module }

// AppendSave implements Match.
func (m *PortsMatch) AppendSave(b []byte) []byte {
	// Unlike tcp and udp, these print what was given even if it is every port.
	if m.srcSet {
		b = m.Src.append(append(appendNot(b, m.Src.Not), " --sport "...))
	}
	if m.dstSet {
		b = m.Dst.append(append(appendNot(b, m.Dst.Not), " --dport "...))
	}
	return b
}
