/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The XDP program of a port. It reads no frame. It answers one question: is there a worker behind this queue that will
 * decide about the frame?
 *
 *	frame on (port, rx queue)
 *	   │
 *	   ├─ the queue's heartbeat is older than `timeout` ─► stale ─────┐
 *	   ├─ the queue has no AF_XDP socket ────────────────► no_socket ─┤
 *	   │                                                              ▼
 *	   │                                            fail_open = 0: XDP_DROP
 *	   │                                            fail_open = 1: redirect to the other port
 *	   ▼
 *	AF_XDP socket of the queue
 *
 * Both ports run this program, each an instance with its own constants and its own `xsks` and `other`; `beats` and
 * `counts` are shared. Because the decision is taken here, it holds when no process is left: the kernel removes a
 * socket from its map when it is closed, and nobody writes heartbeats any more.
 *
 * What it cannot see: a socket whose receive ring is full. Such a frame is lost after the redirect, whatever the fail
 * mode (XDP_STATISTICS rx_ring_full counts it).
 */
#include "bpf.h"

/*
 * Constants of an instance, set before loading and seen as constants by the verifier, which drops the code that they
 * rule out. To change one, load another instance and update the link: atomic, no frame lost.
 */
volatile const __u32 port = 0;      /* index of this port in `counts` */
volatile const __u32 fail_open = 0; /* 0: drop what no worker can decide. 1: pass it to the other port */
volatile const __u32 coarse = 0;    /* 1: take the time of the last tick: up to 10 ms old, but 35 ns cheaper a frame (TSC guest); Linux 5.11 */
volatile const __u64 timeout = 0;   /* ns; a heartbeat older than this means that the worker hangs */

/* A queue's heartbeat, on a cache line of its own: each is written by one worker's core, once a loop. */
struct beat {
	__u64 at; /* ns of CLOCK_MONOTONIC; 0: the worker has not started, or has ended */
	__u64 unused[7];
};

/* Frames of one port on one CPU. to_socket + fail_open + fail_closed is every frame, stale + no_socket every failed one. */
struct counters {
	__u64 to_socket;   /* redirected to the queue's socket */
	__u64 stale;       /* no heartbeat in time */
	__u64 no_socket;   /* heartbeat in time, but no socket in the slot */
	__u64 fail_open;   /* redirected to the other port */
	__u64 fail_closed; /* dropped */
};

/* The number of entries of xsks and beats is the number of queues of a port; it is set before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} xsks SEC(".maps"); /* by queue: the socket */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct beat);
	__uint(max_entries, 1);
} beats SEC(".maps"); /* by queue: one worker serves a queue of both ports */

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} other SEC(".maps"); /* the other port; empty unless the fail mode is open */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct counters);
	__uint(max_entries, 2);
} counts SEC(".maps"); /* by port */

SEC("xdp.frags")
int corewire(struct xdp_md *ctx)
{
	__u32 queue = ctx->rx_queue_index, index = port;
	struct counters *count = bpf_map_lookup_elem(&counts, &index);
	struct beat *beat = bpf_map_lookup_elem(&beats, &queue);
	__u64 now, at;

	if (!count) /* cannot be: port is 0 or 1. The verifier wants to see it. */
		return XDP_ABORTED;
	at = beat ? *(volatile __u64 *)&beat->at : 0;
	now = coarse ? bpf_ktime_get_coarse_ns() : bpf_ktime_get_ns();
	/* Signed: the coarse clock may be behind the heartbeat, and a heartbeat on another CPU just after `now`. */
	if (!at || (__s64)(now - at) > (__s64)timeout) {
		count->stale++;
	} else {
		/* Without a socket in the slot the helper returns the flags' lowest bits and forgets the target. */
		if (bpf_redirect_map(&xsks, queue, XDP_ABORTED) == XDP_REDIRECT) {
			count->to_socket++;
			return XDP_REDIRECT;
		}
		count->no_socket++;
	}
	if (fail_open && bpf_redirect_map(&other, 0, XDP_DROP) == XDP_REDIRECT) {
		count->fail_open++;
		return XDP_REDIRECT;
	}
	count->fail_closed++;
	return XDP_DROP;
}

char licence[] SEC("license") = "Dual BSD/GPL";
