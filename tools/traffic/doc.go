// Package traffic makes test traffic at millions of frames a second, and counts what arrives.
//
// The [Generator] runs an XDP program in the kernel with BPF_PROG_TEST_RUN and live frames
// (Documentation/bpf/bpf_prog_run.rst): the program is called once per frame, on pages of a page pool, writes the
// flow's addresses, ports and checksums over a template, and returns XDP_TX, which for live frames means
// transmission through the interface that the frame claims to have come from. No socket buffer is made and no byte crosses
// from user space. The [Sink] is an XDP program at the other end that counts and drops.
//
//	 generator's namespace                                  sink's namespace
//	┌───────────────────────────┐      ┌──────────┐      ┌─────────────────────┐
//	│ BPF_PROG_TEST_RUN → XDP_TX├ veth ┤ subject  ├ veth ┤ XDP: count, XDP_DROP│
//	└───────────────────────────┘      └──────────┘      └─────────────────────┘
//
// A veth takes redirected frames only where its peer uses NAPI: the subject's port needs an XDP program or GRO
// (drivers/net/veth.c, veth_xdp_xmit). The peer's NAPI runs on the processor that generates, so the cost of
// receiving is part of a generator's processor time; measure a generator into a sink at the near port to know its share.
//
// # Flows
//
// A flow number f between 0 and Flows-1 becomes the source port 1024 + f mod 32768 and the source address
// base + f div 32768, which stays within the low 16 bits of the address: 2³¹ flows at most. Replies swap both ends, so
// that a generator of replies at the other side answers exactly the flows of the first.
//
// The program is assembled here, instruction by instruction: no compiler is needed to run it.
package traffic
