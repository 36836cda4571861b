package main

import (
	"fmt"
	"time"

	"corewire/internal/packet"
	"corewire/rules"
)

// burst is how many packets a worker has at once (dataplane.DefaultBurst).
const burst = 64

// own is corewire's side.
type own struct {
	rs             *rules.Ruleset
	m              *rules.Matcher
	headers        []header
	packets        [burst]packet.Packet
	parse, compile time.Duration
}

// header is a header as it lies in memory: 16 bytes, as dpdk-test-acl keeps them.
type header struct {
	src, dst     uint32
	sport, dport uint16
	proto        uint8
	flags        packet.Flags
}

// newOwn compiles a set.
func newOwn(name string, set, headers []tuple) (*own, error) {
	text := ruleText(set)
	start := time.Now()
	f, err := rules.Parse(name, text, rules.IPv4)
	if err != nil {
		return nil, err
	}
	o := &own{parse: time.Since(start)}
	start = time.Now()
	if o.rs, err = rules.Compile([]*rules.File{f}, rules.Options{}); err != nil {
		return nil, err
	}
	o.compile = time.Since(start)
	if o.rs.Len() != len(set) {
		return nil, fmt.Errorf("compile %s: %d rules of %d", name, o.rs.Len(), len(set))
	}
	o.m = o.rs.NewMatcher()
	o.headers = make([]header, len(headers))
	for i := range headers {
		x := &headers[i]
		o.headers[i] = header{src: x.lo[0], dst: x.lo[1], sport: uint16(x.lo[2]), dport: uint16(x.lo[3]), proto: x.proto}
		if x.proto == 6 || x.proto == 17 {
			o.headers[i].flags = packet.PortsValid
		}
	}
	for i := range o.packets {
		o.packets[i] = packet.Packet{Family: 4, Class: packet.ClassIPv4, End: 40}
	}
	return o, nil
}

// put writes a header into a packet.
func (h *header) put(p *packet.Packet) {
	p.Src.Lo, p.Dst.Lo, p.SrcPort, p.DstPort, p.Proto, p.Flags = 0xffff<<32|uint64(h.src), 0xffff<<32|uint64(h.dst), h.sport, h.dport, h.proto, h.flags
}

// burst writes the headers from one on into packets, a burst at most. It is a call, so that it is the same code that takes part
// in pass and that copies measures by itself.
//
//go:noinline
func (o *own) burst(at int) []packet.Packet {
	list := o.headers[at:min(at+burst, len(o.headers))]
	pkts := o.packets[:len(list)]
	for i := range list {
		list[i].put(&pkts[i])
	}
	return pkts
}

// copies writes all headers into packets once, burst by burst, and does nothing with them.
func (o *own) copies() {
	for at := 0; at < len(o.headers); at += burst {
		o.burst(at)
	}
}

// pass judges all headers once, burst by burst; found is called with each result unless it is nil.
func (o *own) pass(found func(i int, id rules.RuleID)) {
	c := rules.Context{State: rules.New}
	for at := 0; at < len(o.headers); at += burst {
		pkts := o.burst(at)
		o.m.Prepare(pkts)
		for i := range pkts {
			r := o.m.MatchPrepared(i, &pkts[i], &c)
			if found != nil {
				found(at+i, r.Rule)
			}
		}
	}
}

// answers returns the rule of each header; the number of rules stands for none.
func (o *own) answers() []int {
	out := make([]int, len(o.headers))
	n := o.rs.Len()
	o.pass(func(i int, id rules.RuleID) { out[i] = min(int(id), n) })
	return out
}

// measure returns nanoseconds a lookup over some passes, with and without the copies of headers into packets. After each pass come
// the copies alone.
func (o *own) measure(passes int) (with, without float64, err error) {
	var whole, copying time.Duration
	err = pinned(func() {
		o.pass(nil)
		for range passes {
			start := time.Now()
			o.pass(nil)
			judged := time.Now()
			o.copies()
			whole += judged.Sub(start)
			copying += time.Since(judged)
		}
	})
	n := float64(passes * len(o.headers))
	return float64(whole.Nanoseconds()) / n, float64((whole - copying).Nanoseconds()) / n, err
}

// work counts what a lookup costs, over the headers.
func (o *own) work() (total rules.Work, headers int) {
	c := rules.Context{State: rules.New}
	headers = min(len(o.headers), 16384)
	for i := range o.headers[:headers] {
		o.headers[i].put(&o.packets[0])
		total.Add(o.rs.Work(&o.packets[0], &c))
	}
	return total, headers
}
