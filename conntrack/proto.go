package conntrack

// The border between the table and the protocol trackers.
//
// A tracker is a pair of plain functions per protocol, called from Table.Track by a switch on the protocol number:
//
//	func xxxNew(s *xxxState, p *packet.Packet, now Tick, set *Settings) outcome
//	func xxxPacket(s *xxxState, state uint8, dir Dir, status uint32, p *packet.Packet, now Tick, set *Settings) outcome
//
// xxxNew judges the first packet of a connection that is not in the table; xxxPacket every later one. s is the
// entry's cold part (at most coldSize bytes, no pointers, no field wider than 4 bytes, since the stride of the cold
// array is a multiple of 4 only). For xxxNew it is all zero. A tracker may write to *s whatever it wants, also when
// it answers actInvalid, just as the kernel's trackers remember an ignored SYN. It never sees the key, the table or
// other entries, allocates nothing and keeps neither s nor p.
//
// Trackers do not verify checksums, do not count bytes and do not set StatusSeenReply: Track does so, at the places
// where nf_conntrack_in (net/netfilter/nf_conntrack_core.c) does.

// coldSize is the number of bytes that each entry has for its protocol tracker: what TCP needs. It keeps a whole entry
// within 128 bytes together with its hot line (64), its deadline (4) and its share of the buckets (8).
const coldSize = 48

// Status bits of an entry, with the values of enum ip_conntrack_status (uapi/linux/netfilter/nf_conntrack_common.h).
// Bits that belong to address translation are never set: corewire translates nothing.
const (
	StatusExpected     uint32 = 1 << 0  // the connection was expected by a helper
	StatusSeenReply    uint32 = 1 << 1  // packets were seen in both directions; without it a listing says [UNREPLIED]
	StatusAssured      uint32 = 1 << 2  // never taken by early drop
	StatusConfirmed    uint32 = 1 << 3  // the entry is in the table
	StatusDying        uint32 = 1 << 9  // the entry has left the table
	StatusFixedTimeout uint32 = 1 << 10 // packets do not refresh the timeout
	StatusHelper       uint32 = 1 << 13 // a helper was assigned
)

// action is what a tracker wants done with a packet.
type action uint8

const (
	// actAccept: the packet belongs to the connection (or begins it).
	actAccept action = iota
	// actInvalid: the packet's state is INVALID, for outcome.why. In a new connection nothing is left behind; in a
	// known one state and timeout of the outcome still hold (timeout 0 leaves the deadline), its status bits too, but
	// the packet is not accounted and does not set StatusSeenReply.
	actInvalid
	// actReopen: the entry is deleted and the packet tracked as the first one of a new connection (SYN in TIME_WAIT or
	// CLOSE; the kernel's -NF_REPEAT). Never from xxxNew.
	actReopen
	// actKill: the packet passes with the state that it has, and the entry leaves the table at once (RST before any
	// reply; the kernel's nf_ct_kill_acct). From xxxNew: accepted, but nothing is kept.
	actKill
)

// invalidShortens: with actInvalid a timeout is never longer than what is left, and holds only where at least this
// much is left, in ms (nf_tcp_handle_invalid): now+timeout becomes the deadline where left >= invalidShortens and
// left > timeout.
const invalidShortens = 120_000

// outcome is a tracker's answer about one packet.
type outcome struct {
	timeout uint32 // ms from now until the entry expires; 0 leaves the deadline; with actInvalid see invalidShortens
	status  uint32 // status bits to set (StatusAssured …); none are ever cleared
	act     action
	state   uint8  // the entry's protocol state from now on; the state passed in when it does not change
	why     Reason // actInvalid: which check failed; with actAccept why the segment passed without changing the connection
}
