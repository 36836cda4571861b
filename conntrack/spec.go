package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"corewire/internal/packet"
)

// Spec says what a connection that an operator makes shall be (`conntrack -I`, ctnetlink_create_conntrack in
// net/netfilter/nf_conntrack_netlink.c).
type Spec struct {
	Src, Dst         netip.Addr // of the original direction, both of one family
	Proto            uint8
	SrcPort, DstPort uint16    // TCP, UDP, UDPLite, SCTP; GRE: the keys
	Type, Code       uint8     // ICMP, ICMPv6: of a request
	ID               uint16    // ICMP, ICMPv6
	State            string    // TCP and SCTP: as listings spell it; "" for others
	Tag              [2]uint32 // SCTP: verification tags by direction; 0: not known
	Timeout          uint32    // seconds, 1 to MaxTimeout
	Status           uint32    // of Changeable
	Mark             uint32
	Zone             uint16
	Labels           Labels
}

// NewRecord makes the record of a connection that an operator wants, for Import. As with the conntrack tool the windows
// of a TCP connection are not known and are judged liberally on both sides (final_check in
// extensions/libct_proto_tcp.c of conntrack-tools). A GRE connection has the timeouts of set for its later packets.
func NewRecord(s *Spec, set *Settings) (Record, error) {
	var r Record
	bad := func(what string) (Record, error) { return Record{}, errors.New(what) }
	family := uint8(4)
	switch {
	case !s.Src.IsValid() || !s.Dst.IsValid():
		return bad("source and destination are needed")
	case s.Src.Unmap().Is4() != s.Dst.Unmap().Is4():
		return bad("source and destination are of different families")
	case s.Src.Unmap().Is6():
		family = 6
	}
	if s.Timeout == 0 || s.Timeout > maxTimeout {
		return bad(fmt.Sprintf("the timeout is not from 1 to %d seconds", maxTimeout))
	}
	if s.Status&^Changeable != 0 {
		return bad("a status that cannot be set")
	}
	src, dst := packet.AddrFrom(s.Src.Unmap()), packet.AddrFrom(s.Dst.Unmap())
	var k packet.Key
	flags := uint8(0)
	query := s.Proto == packet.ProtoICMP && family == 4 || s.Proto == packet.ProtoICMPv6 && family == 6
	switch {
	case query:
		k = packet.Key{A: src, B: dst, APort: s.ID, BPort: uint16(s.Type)<<8 | uint16(s.Code), Proto: s.Proto, Family: family}
	default:
		if k.Set(src, dst, s.SrcPort, s.DstPort, s.Proto, family)&packet.Flipped != 0 {
			flags = stateFlipped
		}
	}
	k.Zone = s.Zone
	putKey(r[:], &k)
	r[stateFlags] = flags
	le.PutUint16(r[stateStatus:], uint16(s.Status|StatusConfirmed))
	le.PutUint32(r[stateMark:], s.Mark)
	r.SetLeft(s.Timeout * 1000)
	if s.Labels != (Labels{}) {
		r[stateFlags] |= stateHasLabels
		le.PutUint64(r[stateLabels:], s.Labels[0])
		le.PutUint64(r[stateLabels+8:], s.Labels[1])
	}
	state, ok := StateByName(s.Proto, s.State)
	b := r[stateTracker:stateCounters]
	switch s.Proto {
	case packet.ProtoTCP:
		if !ok {
			return bad(fmt.Sprintf("%q is no TCP state (%s)", s.State, strings.Join(tcpStateNames[1:], ", ")))
		}
		r[stateState] = state
		c := tcpState{flags: tcpModePickedUp | tcpSACK<<Original | tcpSACK<<Reply}
		if r[stateState] >= tcpTimeWait { // a SYN may begin anew (RFC 1122 section 4.2.2.13)
			c.last = tcpClosing
		}
		c.put(b)
	case packet.ProtoSCTP:
		if !ok {
			return bad(fmt.Sprintf("%q is no SCTP state (%s)", s.State, strings.Join(sctpStateNames[1:], ", ")))
		}
		r[stateState] = state
		le.PutUint32(b, s.Tag[Original])
		le.PutUint32(b[4:], s.Tag[Reply])
	case packet.ProtoGRE:
		le.PutUint32(b, set.gre)
		le.PutUint32(b[4:], set.greStream)
	}
	if s.State != "" && s.Proto != packet.ProtoTCP && s.Proto != packet.ProtoSCTP {
		return bad("only TCP and SCTP have states")
	}
	return r, r.Check()
}
