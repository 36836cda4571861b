// Package ipset keeps IP sets as Linux's ipset does: what `create`, `add`, `del`, `test`, `flush`, `swap` and their like
// say, what `ipset save` prints, and what `-m set` and `-j SET` ask and do for a packet.
//
//	r := ipset.New(ipset.Options{})
//	err := r.Restore("sets", text, false, now)       // what ipset save printed; all of it or nothing
//	h := r.Lookup("blocked")                         // a rule keeps h
//	ok := h.Match(&query, &p, now, mark)             // a packet's question: no lock, no allocation
//	h.Add(&query, &p, now, mark, timeout, false)     // a packet's addition: seen by the next packet
//
// All of Linux's types are here: hash:ip, hash:mac, hash:ip,mac, hash:net, hash:net,net, hash:ip,port, hash:net,port,
// hash:ip,port,ip, hash:ip,port,net, hash:net,port,net, hash:ip,mark, hash:net,iface, bitmap:ip, bitmap:ip,mac, bitmap:port
// and list:set, with timeout, counters, comment, skbinfo, forceadd, nomatch, netmask, bitmask, markmask and wildcard.
// Names of hosts and services are not resolved. hashsize, bucketsize, initval and a list's size are kept and printed and
// mean nothing.
//
// # How elements are kept
//
//	Handle ─► Set ─► table: | state key… | state key… | state key… | …     open addressing, linear probing
//	  ▲ swap           ext: | counters, skbinfo | …                        by slot, where the set has them
//	                   tags: | 7 bits of the hash | …                      by slot, of networks and of large tables
//	  rules         chunks: | prefix lengths below 10.1.0.0/16 | …         sets of networks
//
// A hash type is one array of slots of fixed width: a state word (expiry, flags, phase, version) and one to five words of
// key, two cache lines' worth at most. It needs no pointer, so that the collector has nothing to look at. Networks of all
// lengths are in the same table; the lengths to try come from a word per chunk of the address space, so that in a set with
// twenty lengths an address is asked for three or four (the kernel tries all that occur anywhere), and the tags, small
// enough for the processor's caches, leave one of these, or none. Against a trie with lock-free readers by copying paths,
// such as bart, spoke: an insertion by a packet would allocate, an exception or an expired element must let the search go
// on with the next shorter network, and keys with ports need a table anyhow. A bitmap type is a bit per element.
//
// # Concurrency
//
// Readers wait for nobody: they read a slot's state, the key, and the state again. Writers of the same key take turns by
// one of sixteen spin locks, held for the time of one search; slots are claimed by compare-and-swap. A packet's addition
// goes into room that is there already, and is given up, and counted, when the lock is not free in some microseconds or
// the table is full: no frame waits for control. Tables are made larger by control (Maintain, at the latest when they are
// at three quarters of what they take): elements move to a second table while writers write to both; then the second takes
// the place of the first. Expired elements do not match from their tick on, and are collected by and by.
//
// Everything that is no packet's goes through the Registry, one at a time.
//
// # Where the kernel is otherwise
//
//   - A new element never begins with the counters of a deleted one whose place it takes.
//   - An element of bitmap:ip,mac whose MAC address is not known yet is never late; the kernel takes its seconds for a time.
//   - The name of an interface and a wildcard that it begins with are two elements; the kernel takes what comes second for
//     the first, or not, by their order.
//   - An expired element of hash:net,iface no longer hides shorter networks.
//   - A packet's addition can make a table larger by and by, where the kernel's is lost.
//   - An interface's name in hash:net,iface is that of the wire's port; physdev: names are the same ports, asked after the
//     others.
//   - save prints forceadd, which ipset 7.17 forgets.
//   - A command that fails midway leaves nothing, where `ipset add` leaves the first of its addresses.
//
// # References
//
// net/netfilter/ipset and net/netfilter/xt_set.c of Linux 6.12; ipset(8) 7.17.
package ipset
