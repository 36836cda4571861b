package rules

// Family says for which IP versions a file, a rule or a chain is. The values are bits.
type Family uint8

const (
	IPv4 Family = 1 << 0      // iptables-save
	IPv6 Family = 1 << 1      // ip6tables-save
	Both Family = IPv4 | IPv6 // one file for both: a line that has -4 or -6, an address, or an ICMP match is for one
)

// String returns "IPv4", "IPv6", "IPv4 and IPv6" or "none".
func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	case Both:
		return "IPv4 and IPv6"
	}
	return "none"
}
