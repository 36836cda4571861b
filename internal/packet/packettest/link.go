package packettest

// NewEther returns a frame of any EtherType around the payload.
func NewEther(typ uint16, options ...Option) []byte {
	f := collect(options)
	return f.finish(append(f.ether(typ), f.payload...))
}

// NewLLC returns an 802.3 frame: a length in place of the EtherType, and the payload, which starts with the LLC header.
func NewLLC(options ...Option) []byte {
	f := collect(options)
	return f.finish(append(f.ether(uint16(len(f.payload))), f.payload...))
}

// NewARP returns an ARP request of 10.0.0.1 for 10.0.0.2, RFC 826.
func NewARP(options ...Option) []byte {
	body := []byte{0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2}
	broadcast := Ether([6]byte{255, 255, 255, 255, 255, 255}, [6]byte{2, 0, 0, 0, 0, 1})
	return NewEther(0x0806, append([]Option{broadcast, Payload(body)}, options...)...)
}

// NewSTP returns a spanning tree configuration message, IEEE 802.1D section 9.3.1.
func NewSTP(options ...Option) []byte {
	group := Ether([6]byte{1, 0x80, 0xc2, 0, 0, 0}, [6]byte{2, 0, 0, 0, 0, 1})
	body := append([]byte{0x42, 0x42, 3}, make([]byte, 35)...)
	return NewLLC(append([]Option{group, Payload(body)}, options...)...)
}

// NewLLDP returns a frame with an LLDP data unit, IEEE 802.1AB.
func NewLLDP(options ...Option) []byte {
	group := Ether([6]byte{1, 0x80, 0xc2, 0, 0, 0x0e}, [6]byte{2, 0, 0, 0, 0, 1})
	body := []byte{2, 7, 4, 2, 0, 0, 0, 0, 1, 4, 2, 7, 'p', 6, 2, 0, 120, 0, 0}
	return NewEther(0x88cc, append([]Option{group, Payload(body)}, options...)...)
}

// NewLACP returns a frame with a link aggregation control data unit, IEEE 802.1AX section 6.4.2.
func NewLACP(options ...Option) []byte {
	group := Ether([6]byte{1, 0x80, 0xc2, 0, 0, 2}, [6]byte{2, 0, 0, 0, 0, 1})
	return NewEther(0x8809, append([]Option{group, Payload(append([]byte{1, 1, 1, 20}, make([]byte, 106)...))}, options...)...)
}

// NewEAPOL returns a frame with an EAPOL start, IEEE 802.1X section 11.
func NewEAPOL(options ...Option) []byte {
	group := Ether([6]byte{1, 0x80, 0xc2, 0, 0, 3}, [6]byte{2, 0, 0, 0, 0, 1})
	return NewEther(0x888e, append([]Option{group, Payload([]byte{2, 1, 0, 0})}, options...)...)
}
