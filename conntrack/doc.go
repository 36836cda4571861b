// Package conntrack follows connections as Linux nf_conntrack does: it says of every packet whether it is NEW,
// ESTABLISHED, RELATED, INVALID or UNTRACKED, keeps what it must know for that in a table, and puts fragments
// together. The reference is Linux 6.18 (net/netfilter/nf_conntrack_*.c); where a rule or a constant comes from there,
// the function is named beside it.
//
// # A packet's way
//
//	    packet.Parse
//	         |
//	   fragment? ----------> Defrag.Add ----> held / the whole datagram
//	         |
//	  Table.Hash   (burst)   keyed hash; begins to load the bucket of every packet
//	  Table.Touch  (burst)   begins to load the entry of every packet
//	         |
//	  Table.Track            look up, protocol tracker, state          nf_conntrack_in
//	         |
//	  the caller's rules     see state, mark, status; may cache a verdict in the entry
//	       /   \
//	 accept     drop
//	    |         |
//	  Help        |          reads announcements; may drop as well      nf_confirm
//	    |         |
//	Confirm    Discard       only for Conn.Fresh                        nf_conntrack_confirm
//
// A known connection changes its state in Track, before the rules, as in Linux; a new one is entered only when its
// first packet was accepted. Between Track and Confirm its entry is written to the lowest free index but belongs to
// nobody: Discard has nothing to undo but what a helper has read, and the right to an entry, which Track has taken.
//
// # One entry
//
//	hot line, 64 bytes                                   cold part, 48 bytes
//	+----------------------------------------+           +------------------------------+
//	| Key: two addresses, two ports, zone,   | 40        | tcpState, sctpState or       |
//	|      protocol, family                  |           | greState; UDP, ICMP and the  |
//	| deadline                               |  4        | others have none             |
//	| mark                                   |  4        +------------------------------+
//	| cached verdict of either direction     |  8        deadline bound, 4 bytes (see below)
//	| UDP: from when on it is a stream       |  4        bucket, 6 to 13 bytes: 8 for a power of two of entries
//	| status, protocol state, direction bits |  4        free index, 1/8 byte
//	+----------------------------------------+
//
// 124 bytes at a million entries, IPv4 and IPv6 alike (TestBytesPerEntry). One entry serves both directions: the key is
// canonical, and one bit tells which way the first packet ran. Packet and byte counts and the time of the beginning
// are arrays of their own, 32 and 8 bytes an entry, that exist once they were switched on; so is the number of a timeout
// policy, 2 bytes an entry, once a rule names one.
//
// # The buckets
//
//	bucket, one cache line
//	+----+----+----+--  --+----+------+-------+-------+--  --+--------+
//	| t0 | t1 | t2 |  ..  | t11| 4 B  | ref 0 | ref 1 |  ..  | ref 11 |
//	+----+----+----+--  --+----+------+-------+-------+--  --+--------+
//	  12 tags of one byte              12 references of four bytes
//
// A tag is a byte of the hash; all twelve are compared at once, so that an entry is looked at only when it is (with
// 97 % certainty) the wanted one. An established packet costs two cache misses, its bucket and its entry, and TCP its
// cold part; Hash and Touch have those of a whole burst under way together.
//
// Every key has two buckets. An entry goes to the first if there is room (96 % at eight to a bucket), else to the
// second; if both are full another one moves to its own other bucket, for which a third may have to move. A chain has
// therefore a bounded length, and an attacker, who does not know the secret, does no better than chance.
//
// The buckets are a linear hash table: it doubles by splitting bucket 0, then 1, and so on,
//
//	0 . . . . split . . . . . . mask | 0' . . . . split'
//	split already, half full         |  their other halves
//
// a few at each call of Expire (and Confirm in very long bursts), and halves in the same way. Two choices, instead of
// overflow into neighbours, make a split concern one bucket. While a level lasts, the buckets that were not split yet
// carry more than the others: so it is finished within the time in which the table grows by a tenth. A split costs 0.2
// to 0.4 µs at a million entries; a burst of nothing but new connections, 10 µs long, pays up to 30 µs meanwhile.
//
// # Time
//
// Ticks are milliseconds that wrap; the caller passes them in. Expire sweeps a compact array of one tick an entry at
// the pace of a pass a second. Its values are lower bounds: a packet moves the deadline in the hot line only, unless
// it brings it nearer; the sweep looks at an entry whose bound has passed, and either removes it or raises the bound.
// So refreshing touches no further line, there are no timer lists, and a pass over a million entries takes a
// millisecond, in slices. Expired entries are invisible at once (nf_ct_is_expired) and count until they are swept.
//
// # Capacity
//
// All shards draw from one Capacity. At the maximum, Track evicts for a packet that would begin a connection an entry that
// is not ASSURED from the eight buckets from its own on (early_drop), whatever its tracker or the rules will say of it;
// failing that Conn.Full says that it must be dropped, and every shard's next pass collects what Linux collects above
// 95 %: entries not ASSURED, and TCP and SCTP connections that are closing (gc_worker). Linux' next pass may be a minute
// away, ours a second.
//
// # Helpers and expectations
//
// Some protocols announce further connections within a connection: FTP its data connections, SIP its media, PPTP its GRE
// calls. A connection gets a helper by its port (Settings.WithHelpers) or from the caller (SetHelper, for -j CT --helper);
// Help lets it read packets that were accepted. What it finds becomes an expectation in Expectations, the one store
// of all shards: the connection that matches is RELATED, has StatusExpected and its master's mark, and a listing tells
// its master. The parsers are plain functions over the payload (ftp.go, tftp.go, irc.go, sip.go with sdp.go, pptp.go);
// what they lead to is beside them, for SIP in sipcall.go. Nothing is reassembled: see ftp.go for what that means.
// A connection without a helper pays one bit test a packet, a new connection one load while nothing is expected.
//
// # Memory
//
// Entries and buckets lie outside the Go heap, in address space reserved at the start, and hold no pointers: the
// collector never sees them, indices stay what they are, and growth copies nothing. New and Populate make memory
// present ahead of use. After the maximum was lowered, entries above it move down, a few at a time, and memory is given back.
//
// # Events and handover
//
// While somebody listens (Listen), what changes is pushed to an EventSink: NEW at Confirm, UPDATE where a packet or an
// operator changed state, status, mark or labels, DESTROY when an entry leaves. A full sink loses events, and they are
// counted; nobody waits. Unlike Linux by default (nf_conntrack_events=2) connections that began before anybody listened
// have events too. A Record is an entry for another process; handover.go says how they are written, and Capacity.Reserve,
// Import and Withdraw enter all of them or none.
//
// # Who may call what
//
// A Table and a Defrag belong to one goroutine, whose calls between Track and Confirm of one packet are no other's.
// Capacity, Settings, Expectations and Table.Populate may be used by any. A listing (Copy) is cut into slices that the
// owner answers between two bursts. Nothing here logs, sleeps or asks the time, and nothing on a packet's way allocates.
// Only what is announced takes a lock, and the connection that was announced: see Expectations.
//
// # References
//
//   - Linux: net/netfilter/nf_conntrack_core.c, nf_conntrack_proto_{tcp,udp,icmp,icmpv6,sctp,gre,generic}.c,
//     nf_conntrack_{expect,helper,ftp,tftp,irc,sip,pptp}.c
//   - Rooij, "Real stateful TCP packet filtering in IP Filter", 2000 (the TCP windows)
//   - Litwin, "Linear hashing: a new tool for file and table addressing", VLDB 1980
//   - Azar, Broder, Karlin, Upfal, "Balanced allocations", SIAM J. Comput. 29, 1999 (two choices)
//   - Bronson, Shi, "Open-sourcing F14 for faster, more memory-efficient hash tables", 2019 (tags)
package conntrack
