// Package control is the running firewall as its operator sees it, and the API over which they do.
//
// # Overview
//
// [Open] puts the parts together: settings, rules, the link over two interfaces, the engine. The result, a [Firewall],
// answers questions and takes changes; [Server] offers it as HTTP with JSON on a unix socket, and its metrics and health
// on a TCP address; [Client] is the other end, which the command's verbs use. [Manager] tells systemd.
//
//	corewire conntrack list ──► Client ══ unix socket, 0600 ══► Server ──► Firewall ──► Engine ──► workers
//	Prometheus ───────────────────── 127.0.0.1:9180/metrics ──► Server ──┘
//
// # Changes
//
// A change is checked whole before any of it is done: settings that need a restart, rule files that do not compile and
// values out of range refuse everything. Then it is done between two bursts of each worker; connections stay.
//
// # Bounds
//
// Requests are at most 1 MiB, headers 16 KiB, connections 64 a listener; peers that stand still are dropped after
// seconds. Listings are streamed in the slices in which the workers answer, so neither end holds the table, and a
// reader that is slow slows nobody else.
//
// # Security
//
// The socket's mode is 0600: whoever can open it is the user who runs the firewall, or root. The metrics address answers
// questions only; it should be one that the guarded networks cannot reach.
package control
