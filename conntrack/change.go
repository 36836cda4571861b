package conntrack

import (
	"slices"
	"strings"

	"corewire/internal/packet"
)

// Change is what an operator changes of connections beside mark and labels (`conntrack -U`).
type Change struct {
	Timeout uint32 // ms that are left from now on, until the next packet; 0: as it is
	// Status are the bits to be set, of StatusSeenReply, StatusAssured and StatusFixedTimeout. None can be taken back, as
	// with the first two in Linux (ctnetlink_change_status, net/netfilter/nf_conntrack_netlink.c).
	Status uint32
	// State is the protocol's state of connections of Proto, TCP or SCTP, as StateByName returns it; 0: as it is. The windows
	// of a TCP connection are not enforced from then on, as with the conntrack tool.
	State, Proto uint8
}

// StateByName returns the number of a state of TCP or SCTP, by its name in listings, in any case; false if there is none,
// or if no connection can be in it (NONE).
func StateByName(proto uint8, name string) (uint8, bool) {
	name = strings.ToUpper(name)
	n := -1
	switch proto {
	case packet.ProtoTCP:
		if name == "LISTEN" { // the name of SYN_SENT2 before Linux 2.6.31
			name = "SYN_SENT2"
		}
		n = slices.Index(tcpStateNames[:], name)
	case packet.ProtoSCTP:
		n = slices.Index(sctpStateNames[:], name)
	}
	return uint8(max(n, 0)), n > 0
}

// Changeable are the status bits that a Change may set.
const Changeable = StatusSeenReply | StatusAssured | StatusFixedTimeout

// MaxTimeout is the longest timeout, in seconds, that a setting, a Change or a Record may have.
const MaxTimeout = maxTimeout

// Change changes the entries that match (all, if match is nil). It is cut into slices like Delete, and forgets the entries'
// cached verdicts, which may depend on the status.
func (t *Table) Change(cursor uint64, budget int, match func(*Info) bool, c Change, now Tick) (n int, next uint64) {
	return t.visit(cursor, budget, match, now, func(ref uint32) {
		e := &t.hot.items[ref]
		if c.Timeout != 0 {
			t.refresh(e, ref, 0, min(c.Timeout, maxTimeout*1000), now)
		}
		if set := uint16(c.Status & Changeable); set&^e.status != 0 {
			e.status |= set
			e.verdict = [2]uint32{}
		}
		if c.State != 0 && c.Proto == e.key.Proto {
			e.state = c.State
			if c.Proto == packet.ProtoTCP {
				t.cold.items[ref].tcp().setMode(tcpModePickedUp)
			}
		}
		if t.events != nil { // ctnetlink_change_conntrack tells all of this, whatever it was
			t.emit(EventUpdate, ChangedState|ChangedStatus|ChangedMark, ref, now)
		}
	})
}

// Zero sets the counters of the entries that match (all, if match is nil) to zero, as IPCTNL_MSG_CT_GET_CTRZERO does. It
// is cut into slices like Delete.
func (t *Table) Zero(cursor uint64, budget int, match func(*Info) bool, now Tick) (n int, next uint64) {
	return t.visit(cursor, budget, match, now, func(ref uint32) {
		if t.hot.items[ref].flags&entryAcct != 0 {
			t.acct.items[ref] = acct{}
		}
	})
}
