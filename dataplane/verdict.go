package dataplane

import "corewire/rules"

// Verdict is what became of a frame.
type Verdict uint8

const (
	Pending Verdict = iota // not decided yet; never seen outside a burst
	Accept                 // forwarded to the other port
	Drop                   // freed; a DropReason says why
	Hold                   // a fragment that waits for the rest of its datagram
	Moved                  // handed to the worker that owns its flow, which will decide
)

var verdictNames = [...]string{"pending", "accept", "drop", "hold", "moved"}

// String returns the verdict in the spelling of logs and JSON.
func (v Verdict) String() string { return verdictNames[v] }

// A verdict cached on an entry is one word: the number of the rule set above, the trace below; 0 is none. The number
// wraps after maxEpoch changes of the rule set, and the caches are cleared when it does.
const (
	traceMask = 1<<rules.TraceBits - 1
	maxEpoch  = 1<<(32-rules.TraceBits) - 1
)
