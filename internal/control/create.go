package control

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"corewire/conntrack"
	"corewire/internal/packet"
)

// Create says what a connection that is to be entered shall be (`conntrack -I`): the fields of Filter that say what a
// connection is. Needed are source, destination and protocol, what the protocol has (ports, keys, or type and code; a
// state), and a timeout. The reply may be said in place of the original direction, or besides.
type Create struct {
	Filter
	Timeout  string // seconds
	LabelAdd string // names or numbers with commas
}

// Record makes the record of the connection.
func (c *Create) Record() (conntrack.Record, error) {
	fail := func(format string, args ...any) (conntrack.Record, error) {
		return conntrack.Record{}, fmt.Errorf(format, args...)
	}
	f := c.Filter
	f.Status = "" // it says what is to be set, not what is looked for
	s, err := parseFilter(f.query())
	if err != nil {
		return fail("%w", err)
	}
	x := &s.filter
	if x.MatchProto != conntrack.Exactly {
		return fail("a protocol is needed (-p)")
	}
	spec := conntrack.Spec{Proto: x.Proto, State: f.State, Mark: x.Mark, Zone: x.Zone, SrcPort: x.SrcPort, DstPort: x.DstPort,
		Type: x.Type, Code: x.Code, ID: x.QueryID, Tag: x.Tag}
	if spec.Src, err = one("source", x.Src, x.ReplyDst); err != nil {
		return fail("%w", err)
	}
	if spec.Dst, err = one("destination", x.Dst, x.ReplySrc); err != nil {
		return fail("%w", err)
	}
	if x.Family == 4 != spec.Src.Is4() && x.Family != 0 {
		return fail("the addresses are not of the family that is asked for")
	}
	if f.Status = strings.TrimSpace(c.Filter.Status); f.Status != "" {
		words := strings.Split(strings.ToUpper(f.Status), ",")
		kept := words[:0]
		for _, w := range words {
			if w != "EXPECTED" && w != "CONFIRMED" { // a saved line has the first; nobody expects the connection here
				kept = append(kept, w)
			}
		}
		if len(kept) > 0 {
			if spec.Status, err = changeable(strings.Join(kept, ",")); err != nil {
				return fail("status is %q: %w", f.Status, err)
			}
		}
	}
	n, err := strconv.ParseUint(c.Timeout, 10, 32)
	if err != nil || n > conntrack.MaxTimeout {
		return fail("timeout is %q: expected seconds from 0 to %d", c.Timeout, conntrack.MaxTimeout)
	}
	spec.Timeout = uint32(max(n, 1)) // a listing prints 0 for what is left of the last second
	if c.LabelAdd != "" {
		if spec.Labels, err = loadLabels().parse(c.LabelAdd); err != nil {
			return fail("labels: %w", err)
		}
	}
	// What is said of both directions must be the same: nothing is translated on a wire.
	both := func(what string, there *uint16, back uint16) error {
		if *there == 0 {
			*there = back
		}
		if back != 0 && *there != back {
			return fmt.Errorf("%s differs between the directions (a wire translates nothing)", what)
		}
		return nil
	}
	if err := errors.Join(both("the source port", &spec.SrcPort, x.ReplyDstPort), both("the destination port", &spec.DstPort, x.ReplySrcPort)); err != nil {
		return fail("%w", err)
	}
	switch spec.Proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoUDPLite, packet.ProtoSCTP:
		if spec.SrcPort == 0 || spec.DstPort == 0 {
			return fail("source and destination port are needed (--sport, --dport)")
		}
	case packet.ProtoGRE:
		if x.MatchSrcKey == conntrack.Any || x.MatchDstKey == conntrack.Any {
			return fail("both keys are needed (--srckey, --dstkey)")
		}
		spec.SrcPort, spec.DstPort = x.SrcKey, x.DstKey
	case packet.ProtoICMP, packet.ProtoICMPv6:
		if x.MatchType == conntrack.Any || x.MatchCode == conntrack.Any {
			return fail("type and code are needed (--icmp-type, --icmp-code)")
		}
	default:
		if spec.SrcPort|spec.DstPort != 0 {
			return fail("the protocol has no ports")
		}
	}
	return conntrack.NewRecord(&spec, conntrack.DefaultSettings())
}

// one returns the address that was said of either direction, or of both alike.
func one(what string, there, back netip.Prefix) (netip.Addr, error) {
	for _, p := range [...]netip.Prefix{there, back} {
		if p.IsValid() && !p.IsSingleIP() {
			return netip.Addr{}, fmt.Errorf("the %s is a network (one address is needed)", what)
		}
	}
	switch {
	case !there.IsValid() && !back.IsValid():
		return netip.Addr{}, fmt.Errorf("a %s is needed", what)
	case !there.IsValid():
		return back.Addr(), nil
	case back.IsValid() && back != there:
		return netip.Addr{}, fmt.Errorf("the %s differs between the directions (a wire translates nothing)", what)
	}
	return there.Addr(), nil
}
