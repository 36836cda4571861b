package conntrack

import (
	"net/netip"
	"strings"
)

// Filter selects entries of a listing as conntrack -L does. The zero value selects all.
type Filter struct {
	Family           uint8 // 4 or 6; 0: both (-f)
	Proto            uint8 // transport protocol number (-p), where MatchProto says so
	MatchProto       Match
	Src, Dst         netip.Prefix // of the original direction (-s, -d); invalid: any
	ReplySrc         netip.Prefix // of the reply direction (-r)
	ReplyDst         netip.Prefix // of the reply direction (-q)
	SrcPort, DstPort uint16       // of the original direction (--sport, --dport); 0: any
	State            string       // TCP or SCTP state, in any case (--state); "": any
	Status           uint32       // Status… bits that must be set (-u)
	NoStatus         uint32       // Status… bits that must not be set (UNREPLIED: StatusSeenReply)
	Mark, MarkMask   uint32       // -m mark/mask; mask 0: any
	Zone             uint16       // --zone, where MatchZone says so
	MatchZone        Match
}

// Match says whether a field whose zero is a real value is compared.
type Match uint8

const (
	Any     Match = iota // the field is not looked at
	Exactly              // the field must be equal
)

// Match reports whether an entry is selected.
func (f *Filter) Match(i *Info) bool {
	if f.Family != 0 && f.Family != i.Key.Family ||
		f.MatchProto == Exactly && f.Proto != i.Key.Proto ||
		f.MatchZone == Exactly && f.Zone != i.Key.Zone ||
		i.Status&f.Status != f.Status || i.Status&f.NoStatus != 0 ||
		(i.Mark^f.Mark)&f.MarkMask != 0 ||
		f.State != "" && !strings.EqualFold(f.State, i.StateName()) {
		return false
	}
	o := i.Tuple(Original)
	if f.SrcPort != 0 && f.SrcPort != o.SrcPort || f.DstPort != 0 && f.DstPort != o.DstPort {
		return false
	}
	// Without address translation the reply's addresses are the original's, exchanged.
	return in(f.Src, o.Src) && in(f.Dst, o.Dst) && in(f.ReplySrc, o.Dst) && in(f.ReplyDst, o.Src)
}

// in reports whether a is in p, or p is not set.
func in(p netip.Prefix, a netip.Addr) bool { return !p.IsValid() || p.Contains(a) }
