package rules

// State is the connection state that -m state and -m conntrack --ctstate ask for. The order is that of the flow
// table's states; the caller converts.
type State uint8

const (
	Invalid     State = iota // no connection: the tracker refused the packet
	New                      // first packets of a connection, before a reply was seen
	Established              // the connection has seen packets in both directions
	Related                  // an ICMP error about a connection, or the first packets of an expected one
	Untracked                // exempt from tracking
	States                   // number of states
)

// stateNames are the spellings of iptables, by State.
var stateNames = [States]string{"INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED"}

// String returns iptables' spelling.
func (s State) String() string {
	if s < States {
		return stateNames[s]
	}
	return "?"
}

// Dir is the direction of a packet within its connection.
type Dir uint8

const (
	Original Dir = 0 // as the first packet of the connection ran
	Reply    Dir = 1
)

// Status bits of a connection, for --ctstatus: the values of enum ip_conntrack_status
// (include/uapi/linux/netfilter/nf_conntrack_common.h).
const (
	StatusExpected  = 1 << 0
	StatusSeenReply = 1 << 1
	StatusAssured   = 1 << 2
	StatusConfirmed = 1 << 3
)
