/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The part of the kernel's BPF interface that wire.c uses. The numbers are ABI: include/uapi/linux/bpf.h of Linux 6.12.
 * They stand here so that generating the objects needs clang and nothing else.
 */
#ifndef COREWIRE_BPF_H
#define COREWIRE_BPF_H

typedef unsigned char __u8;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef long long __s64;

/* enum xdp_action */
enum { XDP_ABORTED = 0, XDP_DROP = 1, XDP_PASS = 2, XDP_TX = 3, XDP_REDIRECT = 4 };

/* enum bpf_map_type */
enum { BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_ARRAY = 6, BPF_MAP_TYPE_DEVMAP = 14, BPF_MAP_TYPE_XSKMAP = 17 };

/* map_flags of BPF_MAP_CREATE */
enum { BPF_F_MMAPABLE = 1 << 10 };

/* The program's context; data and data_end are not used: the program reads no frame. */
struct xdp_md {
	__u32 data;
	__u32 data_end;
	__u32 data_meta;
	__u32 ingress_ifindex;
	__u32 rx_queue_index;
	__u32 egress_ifindex;
};

/* Helpers are called by number (enum bpf_func_id). None of these is reserved to GPL programs. */
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static __u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static long (*const bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)51;
static __u64 (*const bpf_ktime_get_coarse_ns)(void) = (void *)160; /* Linux 5.11 */

/* Map definitions are read from BTF: integers are encoded as the length of an array. */
#define SEC(name) __attribute__((section(name), used))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

#endif
