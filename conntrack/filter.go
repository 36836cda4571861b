package conntrack

import (
	"net/netip"
	"strings"

	"corewire/internal/packet"
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
	ReplySrcPort     uint16       // of the reply direction (--reply-port-src); 0: any
	ReplyDstPort     uint16       // of the reply direction (--reply-port-dst); 0: any

	// ICMP and ICMPv6 (--icmp-type, --icmp-code, --icmp-id), GRE's keys (--srckey, --dstkey, and exchanged --reply-key-dst,
	// --reply-key-src), SCTP's verification tags by direction (--orig-vtag, --reply-vtag), each where its Match says so.
	// Connections of other protocols have none, and are not selected.
	Type, Code                    uint8
	QueryID                       uint16
	MatchType, MatchCode, MatchID Match
	SrcKey, DstKey                uint16
	MatchSrcKey, MatchDstKey      Match
	Tag                           [2]uint32
	MatchTag                      [2]Match

	Number      uint32 // Info.ID (--id), where MatchNumber says so
	MatchNumber Match
	None        bool // selects nothing: what asks for connections that cannot be, such as translated ones

	State          string // TCP or SCTP state, in any case (--state); "": any
	Status         uint32 // Status… bits that must be set (-u)
	NoStatus       uint32 // Status… bits that must not be set (UNREPLIED: StatusSeenReply)
	Mark, MarkMask uint32 // -m mark/mask; mask 0: any
	Zone           uint16 // --zone, where MatchZone says so
	MatchZone      Match
}

// Match says whether a field whose zero is a real value is compared.
type Match uint8

const (
	Any     Match = iota // the field is not looked at
	Exactly              // the field must be equal
)

// Match reports whether an entry is selected.
func (f *Filter) Match(i *Info) bool {
	if f.None || f.Family != 0 && f.Family != i.Key.Family ||
		f.MatchNumber == Exactly && f.Number != i.ID ||
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
	if f.ReplySrcPort != 0 && f.ReplySrcPort != o.DstPort || f.ReplyDstPort != 0 && f.ReplyDstPort != o.SrcPort || !f.matchProto(i, &o) {
		return false
	}
	// Without address translation the reply's addresses are the original's, exchanged.
	return in(f.Src, o.Src) && in(f.Dst, o.Dst) && in(f.ReplySrc, o.Dst) && in(f.ReplyDst, o.Src)
}

// matchProto looks at what only one protocol has.
func (f *Filter) matchProto(i *Info, o *Tuple) bool {
	if f.MatchType|f.MatchCode|f.MatchID != Any {
		_, _, _, query := i.Key.Query()
		if !query || f.MatchType == Exactly && f.Type != o.Type || f.MatchCode == Exactly && f.Code != o.Code || f.MatchID == Exactly && f.QueryID != o.ID {
			return false
		}
	}
	if f.MatchSrcKey|f.MatchDstKey != Any && (i.Key.Proto != packet.ProtoGRE ||
		f.MatchSrcKey == Exactly && f.SrcKey != o.SrcPort || f.MatchDstKey == Exactly && f.DstKey != o.DstPort) {
		return false
	}
	for d, m := range f.MatchTag {
		if m == Exactly && (i.Key.Proto != packet.ProtoSCTP || f.Tag[d] != i.Tags[d]) {
			return false
		}
	}
	return true
}

// MatchExpect reports whether an expectation is selected: by family, protocol, zone, and the addresses and ports of the
// connection that is expected. One whose source may be any is selected whatever source is asked for; a source port that
// may be any is 0, and no port asked for.
func (f *Filter) MatchExpect(x *ExpectInfo) bool {
	if f.None || f.Family != 0 && f.Family != x.Family || f.MatchProto == Exactly && f.Proto != x.Proto || f.MatchZone == Exactly && f.Zone != x.Zone ||
		f.SrcPort != 0 && f.SrcPort != x.SrcPort || f.DstPort != 0 && f.DstPort != x.DstPort {
		return false
	}
	return (x.AnySrc || in(f.Src, x.addr(x.Src))) && in(f.Dst, x.addr(x.Dst))
}

// in reports whether a is in p, or p is not set.
func in(p netip.Prefix, a netip.Addr) bool { return !p.IsValid() || p.Contains(a) }
