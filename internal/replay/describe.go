package replay

import (
	"fmt"
	"net/netip"
	"strconv"

	"corewire/conntrack"
	"corewire/internal/packet"
)

// tcpFlagLetters are tcpdump's letters, from the lowest bit of the flags on.
const tcpFlagLetters = "FSRP.UEW"

// Describe says in a few words what a frame is: "tcp 10.0.0.1:1025 > 10.0.0.2:80 S".
func Describe(frame []byte) string {
	var p packet.Packet
	p.Frame = frame
	packet.Parse(&p)
	if p.Class > packet.ClassIPv6 {
		return p.Class.String()
	}
	if p.Problem.Header() {
		return p.Class.String() + " malformed"
	}
	name := conntrack.ProtoName(p.Proto)
	if name == "unknown" {
		name = "proto " + strconv.Itoa(int(p.Proto))
	}
	src, dst := p.Src.Netip(), p.Dst.Netip()
	if p.Flags&packet.Fragment != 0 {
		return fmt.Sprintf("%s %s > %s fragment at %d", name, src, dst, p.FragOff)
	}
	out := name + " "
	if p.Flags&packet.PortsValid != 0 {
		out += netip.AddrPortFrom(src, p.SrcPort).String() + " > " + netip.AddrPortFrom(dst, p.DstPort).String()
	} else {
		out += src.String() + " > " + dst.String()
	}
	switch p.Proto {
	case packet.ProtoTCP:
		flags := ""
		for i := range 8 {
			if p.TCPFlags>>i&1 != 0 {
				flags += tcpFlagLetters[i : i+1]
			}
		}
		if flags != "" {
			out += " " + flags
		}
	case packet.ProtoICMP, packet.ProtoICMPv6:
		out += fmt.Sprintf(" type %d code %d", p.ICMPType, p.ICMPCode)
	}
	if p.Problem != packet.ProblemNone {
		out += " (" + p.Problem.String() + ")"
	}
	return out
}
