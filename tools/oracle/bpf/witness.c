/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The witness: a netfilter program in the FORWARD hook that writes down what connection tracking made of the packet that
 * passes, and accepts it. It runs after the trackers (PRE_ROUTING) and before the rules and the confirmation
 * (POST_ROUTING), so it sees what the rules will see, and every packet that they will drop.
 *
 * The log is one value of an array map that user space has mapped. A frame is written to the wire in one system call,
 * in which everything happens that will happen to it; between two calls the log is quiet, and no lock is needed.
 */
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name
#define CORE __attribute__((preserve_access_index))

enum { BPF_MAP_TYPE_ARRAY = 2, BPF_F_MMAPABLE = 1 << 10, NF_ACCEPT = 1 };

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_probe_read_kernel)(void *dst, __u32 size, const void *from) = (void *)113;
static __u64 (*const bpf_jiffies64)(void) = (void *)118;

/* The members that are read, of the structures of the running kernel: their places come from its BTF. */
struct sk_buff {
	unsigned long _nfct;
	unsigned int len;
} CORE;

struct nf_hook_state {
	__u8 hook;
	__u8 pf;
} CORE;

struct bpf_nf_ctx {
	const struct nf_hook_state *state;
	struct sk_buff *skb;
} CORE;

struct ip_ct_tcp_state {
	__u32 td_end, td_maxend, td_maxwin, td_maxack;
	__u8 td_scale, flags;
} CORE;

struct ip_ct_tcp {
	struct ip_ct_tcp_state seen[2];
	__u8 state, last_dir, retrans, last_index;
	__u32 last_seq, last_ack, last_end;
	__u16 last_win;
} CORE;

enum sctp_conntrack { SCTP_CONNTRACK_NONE };

struct ip_ct_sctp {
	enum sctp_conntrack state;
} CORE;

struct nf_ct_udp {
	unsigned long stream_ts;
} CORE;

union nf_conntrack_proto {
	struct nf_ct_udp udp;
	struct ip_ct_tcp tcp;
	struct ip_ct_sctp sctp;
} CORE;

struct nf_conn {
	__u32 timeout;
	unsigned long status;
	union nf_conntrack_proto proto;
} CORE;

/* What one side of a TCP connection may send. */
struct side {
	__u32 end, max_end, max_win, max_ack;
	__u8 scale, flags, unused[2];
};

/* One packet at the hook. */
struct sight {
	__u64 entry; /* address of the connection, a name for it while it lives; 0: none */
	__u32 info;  /* enum ip_conntrack_info */
	__u32 status;
	__u32 timeout; /* as in struct nf_conn: a time in jiffies once confirmed, before that a duration */
	__u32 jiffies; /* now */
	__u32 length;  /* of the packet, from the IP header on */
	__u8 family, tcp_state, sctp_state, unused;
	struct side side[2];
	__u32 last_seq, last_ack, last_end;
	__u16 last_win;
	__u8 last_dir, last_index;
	__u8 retrans, unused2[3];
	__u32 stream; /* UDP: from which jiffy on a reply makes it a stream */
};

enum { SIGHTS = 16 };

struct book {
	__u64 count; /* sights since the program was loaded; number n is in sight[n % SIGHTS] */
	struct sight sight[SIGHTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct book);
	__uint(max_entries, 1);
} notes SEC(".maps");

#define READ(dst, src) bpf_probe_read_kernel(&(dst), sizeof(dst), __builtin_preserve_access_index(&(src)))

SEC("netfilter")
int witness(struct bpf_nf_ctx *ctx)
{
	__u32 zero = 0;
	struct book *b = bpf_map_lookup_elem(&notes, &zero);
	if (!b)
		return NF_ACCEPT;
	struct sight *s = &b->sight[b->count % SIGHTS];
	b->count++;

	unsigned long nfct = ctx->skb->_nfct;
	struct nf_conn *ct = (struct nf_conn *)(nfct & ~7ul); /* NFCT_PTRMASK */
	s->entry = (__u64)ct;
	s->info = nfct & 7; /* NFCT_INFOMASK */
	s->family = ctx->state->pf;
	s->length = ctx->skb->len;
	s->jiffies = bpf_jiffies64();
	s->status = 0;
	s->timeout = 0;
	s->tcp_state = 0;
	s->sctp_state = 0;
	if (!ct)
		return NF_ACCEPT;
	__u64 status; /* an unsigned long of a 64-bit kernel */
	READ(status, ct->status);
	s->status = status;
	READ(s->timeout, ct->timeout);
	READ(s->tcp_state, ct->proto.tcp.state);
	enum sctp_conntrack sctp;
	READ(sctp, ct->proto.sctp.state);
	s->sctp_state = sctp;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		READ(s->side[i].end, ct->proto.tcp.seen[i].td_end);
		READ(s->side[i].max_end, ct->proto.tcp.seen[i].td_maxend);
		READ(s->side[i].max_win, ct->proto.tcp.seen[i].td_maxwin);
		READ(s->side[i].max_ack, ct->proto.tcp.seen[i].td_maxack);
		READ(s->side[i].scale, ct->proto.tcp.seen[i].td_scale);
		READ(s->side[i].flags, ct->proto.tcp.seen[i].flags);
	}
	READ(s->last_seq, ct->proto.tcp.last_seq);
	READ(s->last_ack, ct->proto.tcp.last_ack);
	READ(s->last_end, ct->proto.tcp.last_end);
	READ(s->last_win, ct->proto.tcp.last_win);
	READ(s->last_dir, ct->proto.tcp.last_dir);
	READ(s->last_index, ct->proto.tcp.last_index);
	READ(s->retrans, ct->proto.tcp.retrans);
	__u64 stream; /* as status */
	READ(stream, ct->proto.udp.stream_ts);
	s->stream = stream;
	return NF_ACCEPT;
}

/* bpf_probe_read_kernel is for programs under a licence compatible with the GPL. */
char _license[] SEC("license") = "Dual BSD/GPL";
