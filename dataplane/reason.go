package dataplane

import (
	"fmt"

	"corewire/conntrack"
	"corewire/internal/packet"
)

// DropReason says why a frame was dropped. Each has a counter, and one spelling in code, CLI, metrics and docs.
type DropReason uint8

const (
	DropNone      DropReason = iota
	DropRule                 // a rule or a chain's policy
	DropClass                // not IP, and its class is set to be blocked
	DropTableFull            // a new connection at the maximum of entries, and early drop found nothing; before the rules
	DropChain                // a new connection, accepted, whose two buckets are full below the maximum; Linux counts chaintoolong
	DropClash                // a new connection, accepted, that another packet had begun meanwhile; Linux counts insert_failed
	DropTxFull               // the TX ring of the other port stayed full
	DropHandoff              // the hand-off ring to the owner of the flow was full
	DropHelper               // a connection helper could not enter what the packet announces, or only half understood it
	dropFixed                // the fragment store's and the parser's reasons follow

	dropFragment = dropFixed
	dropHeader   = dropFragment + DropReason(conntrack.DefragReasons)

	// DropReasons is the number of reasons, DropNone included.
	DropReasons = dropHeader + DropReason(packet.Problems)
)

var dropNames = [dropFixed]string{"", "rule", "class-blocked", "table-full", "chain-too-long", "clash", "tx-full", "handoff-full", "helper"}

// String returns the spelling of the reason; "" for DropNone.
func (r DropReason) String() string {
	switch {
	case r < dropFixed:
		return dropNames[r]
	case r < dropHeader:
		return "fragment-" + conntrack.DefragReason(r-dropFragment).String()
	case r < DropReasons:
		return packet.Problem(r - dropHeader).String()
	}
	return fmt.Sprintf("reason-%d", uint8(r))
}

// headerReason is the reason for a malformed IP header.
func headerReason(p packet.Problem) DropReason { return dropHeader + DropReason(p) }

// fragmentReason is the reason of the fragment store.
func fragmentReason(r conntrack.DefragReason) DropReason { return dropFragment + DropReason(r) }
