package conntrack

// Tick is the tracker's time: milliseconds since an origin that the caller chose, wrapping at 2³². Two ticks are
// compared by their signed difference, as jiffies are (include/linux/jiffies.h), so no timeout may exceed 2³¹-1 ms
// (24.8 days). The caller reads its clock once a burst and passes it in; this package never asks the time.
type Tick uint32

// State is the connection state as the rules see it (-m state, -m conntrack --ctstate).
type State uint8

const (
	StateInvalid State = iota
	StateNew
	StateEstablished
	StateRelated
	StateUntracked
	States // number of states
)

// stateNames are iptables' spellings.
var stateNames = [States]string{"INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED"}

// String returns the state as iptables spells it.
func (s State) String() string {
	if s < States {
		return stateNames[s]
	}
	return "unknown"
}

// Dir is the direction of a packet within its connection.
type Dir uint8

const (
	Original Dir = 0
	Reply    Dir = 1
)

// Ref names an entry of one Table: its index, from 1; 0 is no entry. A Ref is valid until the next call of Track,
// Expire or Flush.
type Ref uint32

// Conn is what Track says of one packet. It is a value; nothing in it outlives the next Track.
//
// It has four fields because the compiler keeps no struct of more in registers: with a fifth every copy of it waits for
// the single stores that wrote it, which takes as long as a good part of the lookup.
type Conn struct {
	Ref   Ref // the entry; 0 for INVALID and UNTRACKED packets without one
	State State
	Dir   Dir
	Fresh bool // the entry is new and unconfirmed: the caller must call Confirm or Discard next, unless Full
}

// Full reports that a connection would have begun but there was no room for it: the maximum is reached and nothing could be
// evicted. Linux drops the packet on the spot, before any rule (nf_conntrack_in, "too stressed to deal").
func (c *Conn) Full() bool { return c.Fresh && c.Ref == 0 }
