package rules

import (
	"fmt"
	"math/bits"
	"strconv"

	"corewire/internal/packet"
)

// maxClusterNodes is how many nodes a cluster has at most (XT_CLUSTER_NODES_MAX).
const maxClusterNodes = 32

// ClusterMatch is -m cluster: whether the hash of the address that began the connection is that of a node among several.
type ClusterMatch struct {
	Total uint32 // nodes
	Nodes uint32 // bits of those that match
	Not   bool
	Seed  uint32
}

var clusterModule = module{name: "cluster", family: Both, make: func() Extension { return &ClusterMatch{} }, options: []option{
	{"cluster-total-nodes", 1, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*ClusterMatch).Total = rp.clusterNode(a[0])
	}},
	{"cluster-local-node", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		m.(*ClusterMatch).Nodes, m.(*ClusterMatch).Not = 1<<(rp.clusterNode(a[0])-1), not
	}},
	// iptables reads no mask above 32, though it prints them.
	{"cluster-local-nodemask", 2, 1, true, func(rp *ruleParser, m Extension, not bool, a []token) {
		m.(*ClusterMatch).Nodes, m.(*ClusterMatch).Not = uint32(rp.number(a[0], 1<<32-1)), not
	}},
	{"cluster-hash-seed", 3, 1, false, func(rp *ruleParser, m Extension, _ bool, a []token) {
		m.(*ClusterMatch).Seed = uint32(rp.number(a[0], 1<<32-1))
	}},
}, finish: func(rp *ruleParser, l *loaded) {
	m := l.m.(*ClusterMatch)
	for id, name := range []string{1: "--cluster-total-nodes", 2: "--cluster-local-node or --cluster-local-nodemask", 3: "--cluster-hash-seed"} {
		if id > 0 && l.seen>>id&1 == 0 {
			rp.fail(l.col, "-m cluster", name+" after -m cluster", "")
			return
		}
	}
	if uint64(m.Nodes) >= 1<<m.Total || m.Nodes == 0 {
		rp.fail(l.col, "-m cluster", "a local node up to --cluster-total-nodes "+strconv.Itoa(int(m.Total)), "")
	}
}}

// clusterNode reads a number of nodes or of a node.
func (rp *ruleParser) clusterNode(a token) uint32 {
	v, err := parseNumber(a.text, maxClusterNodes)
	if err != nil || v == 0 {
		rp.fail(a.col, a.text, "a number from 1 to "+strconv.Itoa(maxClusterNodes), "")
		return 1
	}
	return uint32(v)
}

// Name returns "cluster".
func (m *ClusterMatch) Name() string { return "cluster" }

// AppendSave implements Extension.
func (m *ClusterMatch) AppendSave(b []byte) []byte {
	return fmt.Appendf(appendNot(b, m.Not), " --cluster-local-nodemask 0x%08x --cluster-total-nodes %d --cluster-hash-seed 0x%08x", m.Nodes, m.Total, m.Seed)
}

func (m *ClusterMatch) compile(c *compiler) {
	c.rs.needs |= NeedDir | NeedStatus | NeedMaster
	c.ask(pred{op: opCluster, not: m.Not, lo: uint16(m.Total), a: m.Nodes, b: m.Seed})
}

// cluster follows xt_cluster_mt of net/netfilter/xt_cluster.c, as on a little-endian machine, which all nodes of a cluster then
// are: the address that is hashed is that of the connection's original direction, or of the connection that announced this one.
// Of IPv6 it is the first four bytes: what Linux calls NF_CT_TUPLE_L3SIZE is a number of words, and it takes a quarter of that.
// Linux also takes a frame with a multicast MAC address and another IP address for one to this machine from then on, for
// -m pkttype; that is not done here.
func cluster(q *pred, p *packet.Packet, c *Context) outcome {
	if c.State == Invalid || c.State == Untracked {
		return no
	}
	src := c.Master
	if c.Status&StatusExpected == 0 {
		src = tupleOf(p, c).src
	}
	word := uint32(src.Lo)
	if p.Family == 6 {
		word = uint32(src.Hi >> 32)
	}
	hash := jhash3(bits.ReverseBytes32(word), 0, 0, q.b, 1)
	return answer((q.a>>scale(hash, uint32(q.lo))&1 == 1) != q.not)
}

// AppendList implements lister.
func (m *ClusterMatch) AppendList(b []byte) []byte {
	return fmt.Appendf(b, " cluster %snode_mask=0x%08x total_nodes=%d hash_seed=0x%08x", sign(m.Not), m.Nodes, m.Total, m.Seed)
}
