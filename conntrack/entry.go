package conntrack

import "corewire/internal/packet"

// entry is the hot part of a tracked connection: one cache line, all that an established UDP packet needs. It serves
// both directions.
type entry struct {
	key      packet.Key // as in Packet.Key; written once when the entry is made
	deadline Tick       // when the entry expires; before Confirm the timeout in ms. Written by every packet accepted
	mark     uint32     // nfmark of the connection; the caller's
	verdict  [2]uint32  // cached verdicts by direction; opaque, 0 is none; the caller's
	stream   Tick       // UDP: from when on traffic in both directions makes a stream
	status   uint16     // Status… bits
	state    uint8      // the protocol tracker's state
	flags    uint8      // entry… bits
}

// Bits of entry.flags.
const (
	// entryFlipped: the original direction runs from Key.B to Key.A. The same bit as packet.Flipped, so that their
	// exclusive or is the direction.
	entryFlipped uint8 = 1 << 0
	// entrySelf: both directions have the same tuple (an end that talks to itself). The kernel finds the reply tuple
	// first, since it was linked last into the same chain: every later packet is a reply.
	entrySelf  uint8 = 1 << 1
	entryAcct  uint8 = 1 << 2 // began while nf_conntrack_acct was on: the side array counts
	entryStamp uint8 = 1 << 3 // began while nf_conntrack_timestamp was on
	entryLabel uint8 = 1 << 4 // has an element of the labels' side array
	// entryPolicy: a rule gave it a timeout policy, whose number is in a side array.
	entryPolicy uint8 = 1 << 5
	entryTicket uint8 = 1 << 6 // has tickets
	// entryOutside: the first packet came in on the outside port. packet.Port shifted by 7.
	entryOutside uint8 = 1 << 7
)

// dir returns the direction of a packet that belongs to e.
func (e *entry) dir(p *packet.Packet) Dir {
	return Dir((uint8(p.Flags)^e.flags)&entryFlipped | e.flags>>1&1)
}

// expired reports whether the entry's time is over (nf_ct_is_expired, include/net/netfilter/nf_conntrack.h).
func (e *entry) expired(now Tick) bool { return int32(e.deadline-now) <= 0 }

// cold is the room of a protocol tracker: tcpState, sctpState and greState lie in it (memory_unsafe.go).
type cold [coldSize / 4]uint32

// acct counts a connection's packets and bytes (of the IP datagrams) by direction.
type acct struct{ packets, bytes [2]uint64 }
