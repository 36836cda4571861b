// Command inline measures what forwarding a frame costs, inline between two interfaces, on this machine: corewire, beside
// a forwarder over the same AF_XDP sockets that tracks nothing and judges nothing, beside a Linux bridge with br_netfilter,
// connection tracking and the same rules in iptables, beside Open vSwitch with its userspace datapath over AF_XDP, its connection
// tracking and the same rules as OpenFlow's, and beside a plain Linux bridge. What is not installed is left out (Debian's
// packages: iptables, nftables, openvswitch-switch).
//
//	make bench-inline                          or: go run ./bench/inline --corewire bin/corewire
//	go run ./bench/inline --flows 1,1000,65536 --rounds 7
//	go run ./bench/inline --traffic new        every frame begins a connection
//	go run ./bench/inline --traffic new --rules 10,1000,10000 --rate 4000
//	                                           so many rules in front of the one that matches; also for iptables-legacy, nft, and
//	                                           nft with one rule and a set. The slowest subject has to take the rate
//
// # What is measured
//
// A generator in the client's namespace sends frames, a sink in the server's namespace counts and drops them (package
// traffic). Every measurement gets a new lab and a new subject. Established flows are opened first, by one frame each
// way, and the subject's own count of connections must then be right. Per subject and round:
//
//   - forwarded: frames a second at the sink while the generator sends as fast as it can;
//   - loss-free: the highest offered rate at which at most 1 in 2000 frames is lost, found by halving an interval;
//   - processor time per forwarded frame at a rate that all subjects forward without loss.
//
// Processor time is told by two clocks. One is the whole machine's from /proc/stat, softirqs included, less what the
// machine used before the measurement: it misses nothing, and is blurred by whatever else runs. The other is
// the run time of the tasks that take part: generator, subject, its NAPI threads, ksoftirqd. It is exact to a tick, and misses
// what the kernel does on the back of a third task. Where they disagree on a quiet machine, believe the first.
// From both the generator's own share is subtracted: what it and its veth used to deliver as many frames to a sink
// at the wire's near port. The sink's own work at the far end is in it, the same for all.
//
// # Where things run
//
// The generator has the last processor. The AF_XDP subjects' worker has the first one; the veth's reception up to the socket
// runs where the generator does, which flatters their forwarded rate but not their processor time. So it is with Open vSwitch,
// whose thread never sleeps: its processor time at a rate below full load is that of polling. For the bridges, the near
// port's NAPI gets a thread on the first processor, as if a NIC's interrupt were bound there, so that they have a
// processor to themselves as well.
//
// On a machine that others use as well, --realtime keeps them off: generator and subjects then run in the real-time class.
// Forwarded rates and the tasks' clock are right then; the machine's clock is not.
//
// # Reading the result
//
// Subjects are interleaved in rounds. Only ratios within a round are compared; what is printed is their median over
// the rounds, with the lowest and the highest. Absolute figures belong to one machine, which the output names; veth in a
// virtual machine copies every frame and has no interrupts, so neither figures nor ratios carry over to a NIC.
//
// Exit status: 0 after a complete measurement (a subject that is missing on this machine is named with the reason), 1 on an
// error, 2 for a wrong command line, 130 after an interrupt. Nothing is left behind in any case.
package main
