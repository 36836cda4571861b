package rules

import (
	"encoding/binary"
	"math/rand/v2"

	"corewire/internal/packet"
)

// op is the kind of a condition.
type op uint8

const (
	opNever      op = iota // matches nothing
	opSrc                  // addrs[a]
	opDst                  // addrs[a]
	opProto                // lo
	opPorts                // bits of the packet.Port it may come from in lo
	opSport                // lo..hi
	opDport                // lo..hi
	opHeader               // lo bytes of transport header are there, else the packet is dropped
	opFlags                // TCP flags & lo == hi
	opOption               // TCP option of kind lo
	opICMP                 // type lo; codes from hi>>8 to hi&0xff
	opMulti                // multiport: ports[a:a+n], side in lo
	opState                // bits of State in lo
	opTracked              // has a connection
	opDir                  // direction lo
	opCtProto              // lo
	opCtAddr               // addrs[a]; which one in lo
	opCtPort               // lo..hi; which one in a
	opCtStatus             // any of the bits a
	opCtExpire             // a..b seconds
	opRange                // address between addrs[a].addr and addrs[a].mask; lo 0 source, 1 destination
	opType                 // type of address among the bits hi; lo 0 source, 1 destination; a not 0: of one interface only
	opLength               // lo..hi bytes
	opTTL                  // lo..hi
	opTOS                  // TOS & hi == lo
	opCWR                  // TCP flags & lo != 0; a packet without them does not match, whatever not says
	opMark                 // mark & b == a
	opConnMark             // connection's mark & b == a
	opMAC                  // sender's MAC address is b<<32|a with b of 16 bits
	opLink                 // PacketType lo
	opRouting              // routes[a]
	opLimit                // buckets[a]
	opNth                  // counters[a]
	opRandom               // with probability a of 1<<31
	opMSS                  // maximum segment size lo..hi in the TCP options, and a header to read them from
	opVLAN                 // lo..hi id of the outermost VLAN tag
	opPCP                  // lo..hi priority of it
	opText                 // texts[a] in bytes lo to hi of the datagram
	opHashlimit            // within the rate of hashes[a]
	opRecent               // recents[a]
	opConnlimit            // more than b connections in conns[a]
	opSPI                  // a..b at hi of a header of lo bytes
	opAuth                 // spis[a]
	opFrag                 // frags[a]
	opHeaders              // headers[a]
	opOptions              // options[a]
	opMobility             // type lo..hi of a mobility header
	opU32                  // u32s[a]
	opTime                 // times[a]
	opQuota                // quotas[a]
	opBytes                // bytes[a]
	opHelper               // helpers[a]
	opLabel                // label lo; hi 1: set it
	opChunks               // chunks[a]
	opSet                  // in sets[a]
	opDCCPType             // bits of the DCCP packet's type in lo
	opDCCPOption           // DCCP option of kind lo
	opSegments             // segments[a]
	opEUI64                // the sender's address is made of its MAC address
	opCPI                  // a..b in an IPComp header
	opCluster              // the node of the connection, of lo with seed b, is among the bits a
	opBPF                  // bpfs[a]
)

// pred is one condition of a rule. All conditions of a rule must hold.
type pred struct {
	op     op
	not    bool
	n      uint16
	lo, hi uint16
	a, b   uint32
}

// outcome is the answer of a condition.
type outcome uint8

const (
	no    outcome = iota
	yes           // also the answer of a rule all of whose conditions hold
	short         // the packet lacks the header that was asked for: xtables drops it on the spot
	full          // what the rule remembers has no room for the packet's address: the same
	// doomed: the condition holds, and the packet is dropped once its rule, if that holds as well, is carried out. xtables
	// turns round what a negated match found, also that something is malformed.
	doomed
)

func answer(b bool) outcome {
	if b {
		return yes
	}
	return no
}

// volatile says that the condition may answer differently for packets of one connection, direction, state and port, as
// long as the connection's mark stays what it is: the packet's own begins at 0 and is what the rules before made of it.
func (o op) volatile(proto uint8) bool {
	switch o {
	case opFlags, opOption, opCtStatus, opCtExpire, opLength, opTTL, opTOS, opCWR, opMAC, opLink, opRouting, opLimit, opNth, opRandom, opMSS, opVLAN, opPCP, opText, opHashlimit, opRecent, opConnlimit,
		opSPI, opAuth, opFrag, opHeaders, opOptions, opMobility, opU32, opTime, opQuota, opBytes, opLabel, opChunks,
		opDCCPType, opDCCPOption, opSegments, opEUI64, opCPI, opBPF:
		return true
	case opHeader, opMulti, opSport, opDport:
		return !keyed(proto)
	}
	return false
}

// volatile says that a condition of the program may answer differently for packets of one connection, as op.volatile does.
func (g *program) volatile(q *pred, proto uint8) bool {
	return q.op.volatile(proto) || q.op == opSet && g.sets[q.a].volatile()
}

// effect says that asking changes something, drops a packet whose TCP options are broken, or that the answer differs each
// time: what stands before it must be asked before, and what stands behind it only if it holds.
func (o op) effect() bool {
	switch o {
	case opLimit, opNth, opRandom, opOption, opMSS, opQuota, opLabel, opSet: // a set's element counts the packets that are looked up
		return true
	}
	return false
}

// hot says that the condition may find a header malformed and drop the packet on the spot: what stands behind it must not
// be asked before.
func (o op) hot() bool {
	switch o {
	case opOption, opMSS, opSPI, opAuth, opFrag, opOptions, opMobility, opChunks, opRouting, opDCCPOption, opCPI:
		return true
	}
	return false
}

// keyed says that a flow key of the protocol holds what stands in the transport header's first bytes (ports, or type
// and identifier), and that connection tracking refuses packets whose header is short: then these are alike for all
// packets of one connection and direction. Other protocols are tracked by their addresses alone
// (net/netfilter/nf_conntrack_proto_generic.c; DCCP since Linux 6.16).
func keyed(proto uint8) bool {
	switch proto {
	case protoTCP, protoUDP, protoUDPLite, protoICMP, protoICMPv6, protoSCTP:
		return true
	}
	return false
}

// test evaluates one condition.
func (g *program) test(q *pred, p *packet.Packet, c *Context) outcome {
	var ok bool
	switch q.op {
	case opNever:
		return no
	case opSrc:
		ok = g.addrs[q.a].has(p.Src)
	case opDst:
		ok = g.addrs[q.a].has(p.Dst)
	case opProto:
		ok = uint16(p.Proto) == q.lo
	case opPorts:
		return answer(q.lo>>p.In&1 != 0)
	case opSport:
		ok = p.SrcPort >= q.lo && p.SrcPort <= q.hi
	case opDport:
		ok = p.DstPort >= q.lo && p.DstPort <= q.hi
	case opHeader:
		if int(p.End)-int(p.L4) < int(q.lo) {
			return short
		}
		return yes
	case opFlags:
		ok = uint16(p.Frame[int(p.L4)+13])&q.lo == q.hi
	case opOption:
		return tcpOption(p, uint8(q.lo), q.not)
	case opMSS:
		return tcpMSS(p, q)
	case opText:
		ok = g.texts[q.a].in(window(p.Frame[p.L3:p.End], q.lo, q.hi))
	case opVLAN:
		ok = p.VLAN >= q.lo && p.VLAN <= q.hi
	case opPCP:
		v := priorityOf(p)
		ok = v >= q.lo && v <= q.hi
	case opICMP:
		l4 := int(p.L4)
		code := uint16(p.Frame[l4+1])
		ok = uint16(p.Frame[l4]) == q.lo && code >= q.hi>>8 && code <= q.hi&0xff
	case opMulti:
		ok = g.multi(q, p)
	case opState:
		ok = q.lo>>c.State&1 != 0
	case opTracked:
		return answer(c.State != Invalid && c.State != Untracked)
	case opDir:
		ok = uint16(c.Dir) == q.lo
	case opCtProto:
		ok = uint16(p.Key.Proto) == q.lo
	case opCtAddr:
		t := tupleOf(p, c)
		ok = g.addrs[q.a].has(t.addr(q.lo))
	case opCtPort:
		t := tupleOf(p, c)
		v := t.port(q.a, p.Key.Proto)
		ok = v >= q.lo && v <= q.hi
	case opCtStatus:
		ok = c.Status&q.a != 0
	case opCtExpire:
		ok = c.Expires >= q.a && c.Expires <= q.b
	case opRange:
		a, r := p.Src, &g.addrs[q.a]
		if q.lo == 1 {
			a = p.Dst
		}
		ok = !lessAddr(a, r.addr) && !lessAddr(r.mask, a)
	case opType:
		a := p.Src
		if q.lo == 1 {
			a = p.Dst
		}
		ok = typeOf(a, p.Family, q.a != 0).oneOf(AddrTypes(q.hi), p.Family)
	case opLength:
		n := p.End - p.L3
		ok = n >= uint32(q.lo) && n <= uint32(q.hi)
	case opTTL:
		ok = uint16(p.TTL) >= q.lo && uint16(p.TTL) <= q.hi
	case opTOS:
		ok = uint16(p.TOS)&q.hi == q.lo
	case opCWR:
		h := supposedTCP(p)
		if len(h) < 20 {
			return no
		}
		ok = uint16(h[13])&q.lo != 0
	case opMark:
		ok = c.Mark&q.b == q.a
	case opConnMark:
		if c.State == Invalid || c.State == Untracked {
			return no // net/netfilter/xt_connmark.c: without a connection
		}
		ok = c.ConnMark&q.b == q.a
	case opMAC:
		if p.L3 < 12 {
			return no
		}
		ok = binary.BigEndian.Uint32(p.Frame[8:]) == q.a && uint32(binary.BigEndian.Uint16(p.Frame[6:])) == q.b
	case opLink:
		ok = uint16(linkType(p)) == q.lo
	case opRouting:
		return g.routes[q.a].test(p)
	case opSPI:
		return spi(q, p)
	case opAuth:
		return g.spis[q.a].auth(p)
	case opFrag:
		return g.frags[q.a].test(p)
	case opHeaders:
		return g.headers[q.a].test(p)
	case opOptions:
		return g.options[q.a].test(p)
	case opMobility:
		return mobility(q, p)
	case opU32:
		return answer(g.u32s[q.a].test(p.Frame[p.L3:p.End]))
	case opTime:
		return answer(g.times[q.a].test(c.Wall))
	case opQuota:
		if k := g.quotas[q.a]; c.looking {
			ok = k.has(uint64(p.End - p.L3))
		} else {
			ok = k.take(uint64(p.End - p.L3))
		}
	case opBytes:
		return answer(g.bytes[q.a].test(c))
	case opHelper:
		return answer(g.helpers[q.a].test(c))
	case opLabel:
		return label(q, c)
	case opChunks:
		return g.chunks[q.a].test(p)
	case opDCCPType:
		ok = q.lo>>dccpType(p.Frame[p.L4:])&1 != 0
	case opDCCPOption:
		return dccpOption(p, uint8(q.lo), q.not)
	case opSegments:
		return g.segments[q.a].test(p)
	case opEUI64:
		ok = eui64(p)
	case opCPI:
		return cpi(q, p)
	case opCluster:
		return cluster(q, p, c)
	case opBPF:
		ok = g.bpfs[q.a].run(p, c) != 0
	case opLimit:
		if b := g.buckets[q.a]; c.looking {
			ok = b.has(c.Now)
		} else {
			ok = b.take(c.Now)
		}
	case opSet:
		s := &g.sets[q.a]
		ask := &s.query
		if c.looking {
			ask = &s.look
		}
		ok = s.handle.Match(ask, p, tickOf(c.Now), c.Mark)
	case opHashlimit:
		o := g.hashes[q.a].take(p, c.Now, c.looking)
		if o > yes {
			return o
		}
		ok = o == yes
	case opRecent:
		x := &g.recents[q.a]
		return x.list.match(x.rule, p, c.Now/1e6, x.forwarded, c.looking)
	case opConnlimit:
		n := g.conns[q.a].count(p, c, c.looking)
		if n == 0 {
			return full
		}
		ok = n > uint64(q.b)
	case opNth:
		if k := g.counters[q.a]; c.looking {
			ok = k.n.Load() == k.every-1
		} else {
			ok = k.next()
		}
	case opRandom:
		ok = rand.Uint32()>>1 < q.a
	}
	return answer(ok != q.not)
}

func (x *prefix) has(a packet.Addr) bool {
	return (a.Hi^x.addr.Hi)&x.mask.Hi|(a.Lo^x.addr.Lo)&x.mask.Lo == 0
}

// linkType returns how the frame is addressed.
func linkType(p *packet.Packet) PacketType {
	if p.L3 < 12 || p.Frame[0]&1 == 0 {
		return LinkUnicast
	}
	if binary.BigEndian.Uint32(p.Frame) == 1<<32-1 && binary.BigEndian.Uint16(p.Frame[4:]) == 1<<16-1 {
		return LinkBroadcast
	}
	return LinkMulticast
}

// multi is xt_multiport's test. The ports are read from the frame: a packet may have them without having a whole
// transport header.
func (g *program) multi(q *pred, p *packet.Packet) bool {
	l4 := int(p.L4)
	src := binary.BigEndian.Uint16(p.Frame[l4:])
	dst := binary.BigEndian.Uint16(p.Frame[l4+2:])
	for _, r := range g.ports[q.a : q.a+uint32(q.n)] {
		s := src >= r.Lo && src <= r.Hi
		d := dst >= r.Lo && dst <= r.Hi
		switch PortSide(q.lo) {
		case PortSource:
			d = false
		case PortDestination:
			s = false
		}
		if s || d {
			return true
		}
	}
	return false
}

// tcpOption looks for an option as xt_tcpudp does (tcp_find_option): a walk that steps over each option by its length
// byte. A data offset below 5, or a header that the packet does not hold, drops the packet.
func tcpOption(p *packet.Packet, kind uint8, not bool) outcome {
	h := p.Frame[p.L4:p.End]
	size := int(h[12]>>4) * 4
	if size < 20 || size > len(h) {
		return short
	}
	return findOption(h[20:size], kind, not)
}

// findOption says whether an option is among those of a TCP or DCCP header, whose lengths it follows: kinds 0 and 1 have none
// (tcp_find_option of net/netfilter/xt_tcpudp.c, dccp_find_option of net/netfilter/xt_dccp.c).
func findOption(o []byte, kind uint8, not bool) outcome {
	for i := 0; i < len(o); {
		if o[i] == kind {
			return answer(!not)
		}
		if o[i] < 2 || i == len(o)-1 {
			i++
		} else {
			i += max(1, int(o[i+1]))
		}
	}
	return answer(not)
}

// tuple is the original direction of the packet's connection.
type tuple struct {
	src, dst         packet.Addr
	srcPort, dstPort uint16
}

// tupleOf derives the connection's original tuple from the canonical key. The key's ends run as the packet ran unless
// Flipped; an ICMP error's key is that of the packet it quotes, which ran against the error's own direction.
func tupleOf(p *packet.Packet, c *Context) tuple {
	k := &p.Key
	t := tuple{k.A, k.B, k.APort, k.BPort}
	turn := p.Flags&packet.Flipped != 0
	if icmpQuery(k.Proto) {
		turn = false // A is the end that asked, and who asked began the connection
	} else {
		if p.Flags&packet.ICMPError != 0 {
			turn = !turn
		}
		if c.Dir == Reply {
			turn = !turn
		}
	}
	if turn {
		t = tuple{k.B, k.A, k.BPort, k.APort}
	}
	return t
}

func icmpQuery(proto uint8) bool { return proto == protoICMP || proto == protoICMPv6 }

// addr returns ctorigsrc (0), ctorigdst (1), ctreplsrc (2), ctrepldst (3). Nothing is translated: the reply runs
// between the same ends.
func (t *tuple) addr(which uint16) packet.Addr {
	if which == 0 || which == 3 {
		return t.src
	}
	return t.dst
}

// port returns the port, or what stands in a port's place, of the same four. An ICMP query's identifier is the source
// of both directions and its type and code are the destination (nf_conntrack_proto_icmp.c).
func (t *tuple) port(which uint32, proto uint8) uint16 {
	if icmpQuery(proto) {
		switch which {
		case 0, 2:
			return t.srcPort
		case 1:
			return t.dstPort
		}
		return uint16(replyType(uint8(t.dstPort>>8), proto))<<8 | t.dstPort&0xff
	}
	if which == 0 || which == 3 {
		return t.srcPort
	}
	return t.dstPort
}

// replyType returns the type that answers an ICMP query (nf_conntrack_proto_icmp.c and _icmpv6.c, invmap).
func replyType(t, proto uint8) uint8 {
	if proto == protoICMPv6 {
		switch t {
		case 128:
			return 129
		case 139:
			return 140
		}
		return t
	}
	switch t {
	case 8:
		return 0
	case 13:
		return 14
	case 15:
		return 16
	case 17:
		return 18
	}
	return t
}
