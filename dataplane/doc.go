// Package dataplane moves frames between the two ports of a wire and decides each of them.
//
// # Overview
//
// An Engine runs one Worker per queue pair. A worker owns, alone and without locks, what every packet touches: the two
// ports of its queue (ring.Wire), one shard of the connection table, its fragment stores, one rule matcher with its
// counters, its ring of logged packets, and its own statistics. What has to be known to all workers is shared, and touched
// only by packets that need it: the expectations of helpers (a lock where one is announced, see package conntrack), what
// rules remember (limit, hashlimit, recent, connlimit, quota: atomic words), IP sets (atomic slots; a packet that changes an
// element tries for the element's stripe and gives up), the bounds on ICMP answers. It runs to completion in bursts:
//
//	RX burst → parse all → steer (fragments, non-IP, other workers' flows) → hash all → touch all buckets
//	   → track → verdict (cached or matched) → confirm → TX of the other port or free list → one kick
//
// With a raw table every whole packet goes through it before the hash (raw.go), since it may choose the zone.
//
// That way is worker.go, read downwards. Nothing on it allocates, locks, logs, formats, calls through an interface
// per packet, or asks the time, but for what the paragraph above says is shared: the clock is read once a burst and passed in.
//
// # Shards
//
// The worker that owns a flow is the one that symmetric receive-side scaling would choose (packet.SymmetricHash
// over the usual 128-entry indirection table). Where the NIC brought the frame to another worker, its descriptor
// goes over a single-producer single-consumer ring and the owner transmits it on its own queue; the order within a
// flow is kept, because all its frames from one receive queue take the same way.
//
//	worker 0:  RX ──┬── own flows ──► judge ──► TX            hand-off rings: W × W, each with one
//	                └── W1's flows ─► ring[0→1] ─┐            producer and one consumer
//	worker 1:  RX ──┬── own flows ──► judge ──► TX
//	                └──────────── pop ◄──────────┘
//
// A fragment has no ports, so it goes to the worker that the hash over its addresses chooses; once its datagram is
// complete the whole group moves, all or nothing, to the worker that owns the datagram's flow. An ICMP error is
// steered by the flow that it quotes.
//
// # Ownership
//
// A frame belongs to exactly one place at any time: free list, fill ring, RX, the worker's burst, a hand-off ring,
// the fragment store, TX, completion ring. Engine.Ledger adds them up.
//
// # Control
//
// The control goroutine never touches a worker's state. It sends functions over the worker's command channel; the
// worker runs them between bursts. A new rule set therefore takes effect for a whole burst or not at all, and a
// dump of the table is answered in slices. Workers write their own heartbeat; nobody beats it for them.
//
// Behind changes of one rule it has the rules compiled anew, in a goroutine beside it: when no change has come for a second and a
// quarter of the room for changes is taken, or half of it at any time. Changes made meanwhile are made on the rules compiled anew
// as well, before these come into force. See recompile.go.
//
// # Failure
//
// A panic in a worker stops the whole engine: Run returns a *PanicError with the stack. The caller leaves the XDP
// program attached, so that the fail mode decides what happens to the wire.
package dataplane
