// Command demo shows on real traffic what corewire does, and fails unless it saw every bit of it.
//
//	make demo                     build corewire, then run this, as root
//	go run ./tools/demo --help    options
//
// It makes a lab of three network namespaces (see package lab), starts the corewire binary on the two ports in the
// middle, and then plays client and server itself: pings, HTTP downloads, datagrams that need fragments, and connection
// attempts that the rules forbid, over IPv4 and IPv6. Each step checks what it claims from both sides: what the
// applications saw, and what corewire's counters, rules and connection table say about it. Two things could fool it, so it
// checks them as well: that nothing passes before corewire runs and after it was killed (there is no other way through),
// and that the numbers of frames which the interfaces and corewire counted are the same (all of it went through).
//
// Exit status: 0 if every step was observed, 1 if not, 2 for a wrong command line, 130 after an interrupt. Everything that
// the demo made is removed in each of these cases.
package main
