// Package lab builds the smallest network in which a transparent firewall can be seen at work, out of Linux network
// namespaces and veth pairs, from Go alone: no ip, ethtool, sysctl or nsenter binary takes part.
//
//	 Client namespace            Wire namespace             Server namespace
//	┌────────────────┐       ┌──────────────────┐         ┌────────────────┐
//	│ 10.73.0.1/24   │ veth  │                  │  veth   │ 10.73.0.2/24   │
//	│ fd73::1/64     ├───────┤ in0  wire  out0  ├─────────┤ fd73::2/64     │
//	│ client0        │       │                  │         │ server0        │
//	└────────────────┘       └──────────────────┘         └────────────────┘
//
// Both ends are in one subnet, because the wire in the middle has no address: it hands frames from one port to the
// other, and nothing passes until somebody does that (the firewall, a test, or a Linux bridge, see Bridge).
//
// # Ownership and life cycle
//
// New makes the three namespaces and everything in them; Close removes them. The namespaces have no name in the file
// system: a file descriptor of this process and one locked thread each keep them alive, so that the kernel removes
// the namespaces, their interfaces and whatever was attached to them also when the process is killed. Commands started
// with Start are killed with SIGKILL at the latest when the lab is closed or the process dies. Nothing is left behind
// to be found by a later run, and nothing is ever created in the namespace that the process was started in.
//
// Each namespace comes with a mount namespace of its own, which has a sysfs that shows its interfaces and a fresh BPF
// file system at /sys/fs/bpf: pins made there are seen by every command and Do of the same namespace, and vanish with it.
// Everything else of the file system is shared with the process.
//
// # End hosts
//
// The ends compute their checksums in software (`tx off`) and send no segments larger than the MTU, because a frame
// that carries a partial checksum is worth nothing once AF_XDP has copied it: the receiver drops it. Generic receive
// offload is on at the ends, which makes veth use NAPI there; without it frames that an XDP program redirects into the
// veth pair are dropped (drivers/net/veth.c, veth_xdp_xmit). Addresses skip duplicate address detection.
//
// There are no VLAN interfaces: kernels without 8021q, such as those of small virtual machines, could not build them. Tagged
// frames are sent and received with packet sockets on the hosts' interfaces, which need no support.
//
// # Concurrency
//
// Do, Start, Listen and Dial may be called from any number of goroutines. Close must not run beside them.
package lab
