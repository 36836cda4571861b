// Package ring moves frames between network ports and memory.
//
// A [Wire] is one worker's two ports. Behind it are frames in the chunks of a [Pool], which all workers and both ports
// share, and a driver:
//
//   - AF_XDP sockets with one UMEM for all of them, which is the pool: a frame that came in at one port is sent out of
//     the other one, by the same worker or another, without a copy in user space;
//   - AF_XDP sockets of github.com/asavie/xdp, a UMEM each, for kernels that cannot share one across devices (before
//     5.10): one copy on the way in and one on the way out;
//   - [Memory], for tests and benchmarks;
//   - [Capture], for pcap and pcapng files.
//
// [Open] makes the wires of two network interfaces, with the XDP program in front of them that decides what becomes of
// frames when no worker can.
//
// # A chunk's way
//
// Every chunk has exactly one owner at any time:
//
//	             ┌──────────────── Release ───────────────┐
//	             ▼                                        │
//	free list ──Flush──► fill ring ► kernel ► RX ring ──Receive──► caller ──hand-off──► another worker's caller
//	   ▲  └──────────────────── Alloc ──────────────────────────────►│                            │
//	   │                                                           Send                         Send
//	   │                                                             ▼                            ▼
//	   ├───────Flush──── completion ring ◄ kernel ◄ TX ring ◄────────┘           its own TX ring, and so on
//	   └───────Flush──── return ring ◄── completed or released by a worker that is not the chunk's home
//
// [Account] counts the chunks in each place. Summed over all wires they are always all chunks; whatever a program does,
// a test can check afterwards that none was lost or used twice. A build with the tag cwdebug checks every single step.
//
// A fill ring that runs empty costs frames, and on some devices makes the driver pass frames to the host's own stack. So
// a port may only hold its share of a worker's chunks for reception, and a port that cannot transmit only its share of
// them for transmission: neither keeps the other's fill ring from being filled. What does not fit into a transmit ring
// stays with the caller, who drops it.
//
// # Concurrency
//
// A Wire belongs to one goroutine. Workers meet in two kinds of [SPSC] rings only: those that the data plane hands frames
// over with, and the pool's return rings. Wake and Stats may be called by anybody.
//
// # Closing
//
// First no more frames may be redirected to the sockets (the Link empties the XSKMAP's slots), then workers stop using
// their wires, then the wires are closed. Sockets that are closed under load have crashed kernels. The pool's memory is
// unmapped with the last wire.
//
// # Sources
//
// include/uapi/linux/if_xdp.h, net/xdp/xsk.c, net/xdp/xsk_queue.h and net/xdp/xsk_buff_pool.c of Linux 6.12 to 6.18;
// Documentation/networking/af_xdp.rst; https://www.tcpdump.org/linktypes.html; draft-ietf-opsawg-pcapng.
package ring
