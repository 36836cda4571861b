package packet

// EtherTypes and protocol numbers that Parse tells apart (IANA registries "IEEE 802 Numbers" and "Protocol Numbers").
const (
	EtherTypeIPv4  = 0x0800
	EtherTypeARP   = 0x0806
	EtherTypeVLAN  = 0x8100 // 802.1Q customer tag
	EtherTypeQinQ  = 0x88a8 // 802.1ad service tag
	EtherTypeIPv6  = 0x86dd
	EtherTypeSlow  = 0x8809 // slow protocols, LACP among them
	EtherTypeEAPOL = 0x888e
	EtherTypePPPoE = 0x8864 // PPPoE session stage
	EtherTypeLLDP  = 0x88cc

	ProtoHopByHop = 0 // IPv6 hop-by-hop options
	ProtoICMP     = 1
	ProtoTCP      = 6
	ProtoUDP      = 17
	ProtoDCCP     = 33
	ProtoRouting  = 43 // IPv6 routing header
	ProtoFragment = 44 // IPv6 fragment header
	ProtoGRE      = 47
	ProtoESP      = 50
	ProtoAH       = 51
	ProtoICMPv6   = 58
	ProtoNone     = 59 // IPv6 no next header
	ProtoDestOpts = 60 // IPv6 destination options
	ProtoSCTP     = 132
	ProtoUDPLite  = 136
)

// Bits of Packet.TCPFlags, RFC 9293 section 3.1.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)
