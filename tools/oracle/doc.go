// Command oracle compares corewire with the running kernel, frame by frame.
//
//	go run ./tools/oracle [flags] capture…          (root)
//	go run ./tools/oracle [flags] --generate tcp
//
// It sends every frame of a capture, or of a generated stream, through Linux as a transparent firewall and through corewire,
// in the same order and at the same time, and compares after each frame: whether it passed; the connection state that the
// rules saw; the connection itself, with its direction, [UNREPLIED] and [ASSURED], its TCP or SCTP state, its timeout, and for
// TCP both windows with all that decides about the next segment. At the end it compares the two tables. It prints the first
// difference (--differences says how many) with the frame and what both sides held before and after it.
//
// # Rule sets
//
//	go run ./tools/oracle rulesets [--seed N] [--pairs N] [--dumps DIR] [--differences N] [--json]
//
// It compares what rules mean: generated rule sets (package rulestest) or rule files from the field, each with frames made
// for its own rules (shape.go). After every frame the verdicts are compared, and packets and bytes of every rule and policy
// of all tables, which are read from the kernel's tables as iptables-save -c reads them; and with those the rules that
// Explain says the packet matched. The first difference ends a rule set: then rules and frames are left out as long as there
// still is one, and what remains is printed with both sides' counters. A table says which options decided how often, with
// which outcome.
//
// Each side reads the rules for itself; only -i and -o are rewritten for the kernel (kernelText).
//
// Rules with IP sets (sets.go, TestSets) are compared in the same way, and at the end what ipset save prints. In sets with
// interfaces the kernel looks for the bridge, whichever port a packet came by: there corewire's ports are both called br0
// as well, and rules that ask for interfaces in another way are not generated beside them. Elements with physdev: are left
// out, for no rule of iptables can ask for them, and elements with a wildcard are in sets that rules do not change: to the
// kernel what such a name begins is the same element.
//
// # Exit status
//
//	0  equal, but for differences that the table of known ones explains (known.go)
//	1  a difference was found
//	2  usage: flags, rules, settings, or no stream named
//	3  something could not be compared: no privileges, no such file, not a capture
//
// With --json every stream is one JSON object on a line: see type summary.
//
// # How the kernel is asked
//
//	          ┌──────────── network namespace ─────────────┐
//	write ──► │ tap "inside" ── bridge br0 ── tap "outside" │ ──► read
//	          │         br_netfilter: PRE_ROUTING           │
//	          │   fragments, nf_conntrack ► FORWARD         │
//	          │                      witness ► rules        │
//	          │                      ► POST_ROUTING confirm │
//	          └─────────────┬──────────────────────────────┘
//	                        └── notes, mapped memory
//
// The ports are taps. Writing a frame to a tap is one system call within which the kernel does everything to it, up to the
// queue of the other tap (tun_get_user calls netif_receive_skb; a bridge has no queue): when write returns, the frame
// can be read from the other tap or it is gone. So there is no waiting, no matching of frames to answers, and no doubt about
// which frame caused what; a frame takes about 10 µs.
//
// The state is told by the witness (bpf/witness.c), a BPF program in the FORWARD hook between connection tracking and the
// rules. It reads the packet's struct nf_conn by the kernel's type information and writes what it finds to memory that this
// process has mapped. It changes nothing. Counters of iptables rules would tell the state, too, but only of batches
// and without the connection; marking the frame would change it.
//
// The rules are loaded by iptables-legacy-restore, so that they run in ip_tables and ip6_tables, whose meaning corewire's rules
// have. (iptables-nft differs in one point that shows here: its -p does not look behind an IPv6 authentication header,
// nft_set_pktinfo_ipv6 in include/net/netfilter/nf_tables_ipv6.h.) Interfaces in rules become -m physdev.
//
// The machine needs: root access, /dev/net/tun, br_netfilter, CONFIG_NETFILTER_BPF_LINK and BTF (6.4), iptables.
//
// # Time
//
// Both sides live in the kernel's own time, the jiffies at which it saw each packet. Pauses in a capture are not waited for
// but made: see pacer.
//
// # What is not compared
//
// Frames that a bridge or a tap treats in a way of its own have rows in known.go with the reason. Link-layer addresses that a
// bridge takes for its own business are replaced (unicast). Timeouts of fragments are driven only if the stream waits for
// them. A full table is compared by tests of its own (full_test.go): nf_conntrack_max belongs to the machine, so they fill
// the namespace to that, and which entry goes depends on either side's secret. Not compared is the collection above 95 %,
// which comes within a minute in Linux and within a second here.
package main
