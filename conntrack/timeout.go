package conntrack

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"corewire/internal/packet"
)

// A timeout policy gives the connections of some rules (-j CT --timeout NAME) timeouts of their own, by protocol state
// (net/netfilter/nfnetlink_cttimeout.c). It says some states of one protocol; the others follow the settings, also when
// these change while connections have the policy.
//
// Settings hold the policies as they are defined. A Table keeps for each name a snapshot of the settings with the
// policy's values written over them, so that a tracker takes its timeouts from one pointer or the other; an entry that has
// a policy holds its number in a side array. Numbers belong to names for the life of the Table: an entry whose policy is
// no longer defined has the settings' own timeouts (nf_ct_untimeout), and has the policy again when it is. GRE takes its
// timeouts when a connection begins, with a policy as without (nf_conntrack_proto_gre.c).

// Bounds of the definitions.
const (
	maxPolicies   = 256 // policies at a time: each is a snapshot of some hundred bytes in every shard
	maxPolicyName = 31  // bytes of a name: CTNL_TIMEOUT_NAME_MAX minus the final zero (uapi/linux/netfilter/nfnetlink_cttimeout.h)
	maxPolicyIDs  = 1<<16 - 1
)

// timeoutPolicy is one policy.
type timeoutPolicy struct {
	name  string
	proto *policyProto
	ms    []uint32 // by proto.states; 0: not said
}

// policyProto is a protocol that policies are made for, with its states by the names that nfct has for them.
type policyProto struct {
	name   string
	num    uint8
	states []policyState
}

type policyState struct {
	name  string
	field func(*Settings) *uint32
}

// policyProtos returns the protocols in the order of nfct's manual.
func policyProtos() []policyProto {
	tcp := func(name string, state uint8) policyState {
		return policyState{name, func(s *Settings) *uint32 { return &s.tcp[state] }}
	}
	sctp := func(name string, state uint8) policyState {
		return policyState{name, func(s *Settings) *uint32 { return &s.sctp[state] }}
	}
	udp := []policyState{{"unreplied", func(s *Settings) *uint32 { return &s.udp }}, {"replied", func(s *Settings) *uint32 { return &s.udpStream }}}
	return []policyProto{
		{"tcp", packet.ProtoTCP, []policyState{tcp("syn_sent", tcpSynSent), tcp("syn_recv", tcpSynRecv), tcp("established", tcpEstablished),
			tcp("fin_wait", tcpFinWait), tcp("close_wait", tcpCloseWait), tcp("last_ack", tcpLastAck), tcp("time_wait", tcpTimeWait),
			tcp("close", tcpClose), tcp("syn_sent2", tcpSynSent2), tcp("retrans", tcpTimeoutMaxRetrans), tcp("unacknowledged", tcpTimeoutUnack)}},
		{"udp", packet.ProtoUDP, udp},
		{"udplite", packet.ProtoUDPLite, udp},
		{"icmp", packet.ProtoICMP, []policyState{{"timeout", func(s *Settings) *uint32 { return &s.icmp }}}},
		{"icmpv6", packet.ProtoICMPv6, []policyState{{"timeout", func(s *Settings) *uint32 { return &s.icmpv6 }}}},
		{"sctp", packet.ProtoSCTP, []policyState{sctp("closed", sctpClosed), sctp("cookie_wait", sctpCookieWait), sctp("cookie_echoed", sctpCookieEchoed),
			sctp("established", sctpEstablished), sctp("shutdown_sent", sctpShutdownSent), sctp("shutdown_recd", sctpShutdownRecd),
			sctp("shutdown_ack_sent", sctpShutdownAckSent), sctp("heartbeat_sent", sctpHeartbeatSent)}},
		{"gre", packet.ProtoGRE, []policyState{{"unreplied", func(s *Settings) *uint32 { return &s.gre }}, {"replied", func(s *Settings) *uint32 { return &s.greStream }}}},
		{"generic", 0, []policyState{{"timeout", func(s *Settings) *uint32 { return &s.generic }}}},
	}
}

// WithTimeouts returns a copy of s with other timeout policies: a list with semicolons between them, each "NAME PROTOCOL
// STATE SECONDS [STATE SECONDS …]" with the words of `nfct add timeout`, such as "voip udp unreplied 10 replied 300";
// "" for none, the default. Protocols: tcp, udp, udplite, icmp, icmpv6, sctp, gre, and generic for all others.
func (s *Settings) WithTimeouts(list string) (*Settings, error) {
	c := *s
	c.policies = nil
	var out []timeoutPolicy
	protos := policyProtos()
	for item := range strings.SplitSeq(list, ";") {
		words := strings.Fields(item)
		if len(words) == 0 {
			continue
		}
		p, err := newTimeoutPolicy(protos, words)
		if err != nil {
			return nil, fmt.Errorf("define timeout policy %s: %w", words[0], err)
		}
		for i := range out {
			if out[i].name == p.name {
				return nil, fmt.Errorf("define timeout policy %s: it is defined twice", p.name)
			}
		}
		if len(out) == maxPolicies {
			return nil, fmt.Errorf("define timeout policy %s: more than %d policies", p.name, maxPolicies)
		}
		out = append(out, p)
	}
	if len(out) > 0 {
		c.policies = &out
	}
	return &c, nil
}

func newTimeoutPolicy(protos []policyProto, words []string) (p timeoutPolicy, err error) {
	p.name = words[0]
	if len(p.name) > maxPolicyName {
		return p, fmt.Errorf("its name is longer than %d bytes", maxPolicyName)
	}
	if len(words) < 2 {
		return p, fmt.Errorf("a protocol is missing (NAME PROTOCOL STATE SECONDS …)")
	}
	k := slices.IndexFunc(protos, func(q policyProto) bool { return q.name == strings.ToLower(words[1]) })
	if k < 0 {
		var names []string
		for _, q := range protos {
			names = append(names, q.name)
		}
		return p, fmt.Errorf("protocol %q is not known (%s)", words[1], strings.Join(names, ", "))
	}
	p.proto = &protos[k]
	p.ms = make([]uint32, len(p.proto.states))
	rest := words[2:]
	if len(rest) == 0 || len(rest)%2 != 0 {
		return p, fmt.Errorf("pairs of a state and seconds are to follow the protocol")
	}
	for ; len(rest) > 0; rest = rest[2:] {
		j := slices.IndexFunc(p.proto.states, func(q policyState) bool { return q.name == strings.ToLower(rest[0]) })
		if j < 0 {
			var names []string
			for _, q := range p.proto.states {
				names = append(names, q.name)
			}
			return p, fmt.Errorf("%s has no state %q (%s)", p.proto.name, rest[0], strings.Join(names, ", "))
		}
		n, err := strconv.ParseUint(rest[1], 10, 32)
		if err != nil || n == 0 || n > maxTimeout {
			return p, fmt.Errorf("%s %q is no number of seconds from 1 to %d", rest[0], rest[1], maxTimeout)
		}
		if p.ms[j] != 0 {
			return p, fmt.Errorf("state %s stands twice", rest[0])
		}
		p.ms[j] = uint32(n) * 1000
	}
	return p, nil
}

// Timeouts returns the list that WithTimeouts took, in one spelling.
func (s *Settings) Timeouts() string {
	if s.policies == nil {
		return ""
	}
	var b []byte
	for i := range *s.policies {
		p := &(*s.policies)[i]
		if i > 0 {
			b = append(b, "; "...)
		}
		b = append(append(append(b, p.name...), ' '), p.proto.name...)
		for j, ms := range p.ms {
			if ms != 0 {
				b = append(append(append(b, ' '), p.proto.states[j].name...), ' ')
				b = strconv.AppendUint(b, uint64(ms/1000), 10)
			}
		}
	}
	return string(b)
}

// TimeoutPolicies returns the names of the policies with the number of the protocol that each is for; 0 for generic. The
// map is the caller's.
func (s *Settings) TimeoutPolicies() map[string]uint8 {
	out := map[string]uint8{}
	if s.policies != nil {
		for i := range *s.policies {
			out[(*s.policies)[i].name] = (*s.policies)[i].proto.num
		}
	}
	return out
}

// override returns a copy of s in which the policy's timeouts hold; nil if there is no policy of that name.
func (s *Settings) override(name string) *Settings {
	if s.policies == nil {
		return nil
	}
	for i := range *s.policies {
		p := &(*s.policies)[i]
		if p.name != name {
			continue
		}
		c := *s
		for j, ms := range p.ms {
			if ms != 0 {
				*p.proto.states[j].field(&c) = ms
			}
		}
		return &c
	}
	return nil
}

// policies is what a Table knows of timeout policies.
type policies struct {
	names []string      // by number, from 1; names[0] is unused
	sets  []*Settings   // by number: the settings with the policy's timeouts; nil while it is not defined
	of    arena[uint16] // side array: numbers; reserved when a policy is first named
}

// follow makes the snapshots again, after the settings have changed.
func (t *Table) follow() {
	for id := range t.policies.names {
		if id > 0 {
			t.policies.sets[id] = t.set.override(t.policies.names[id])
		}
	}
}

// policy returns the number of a policy's name, making one when it is new; 0, no policy, if that is impossible.
func (t *Table) policy(name string) uint16 {
	x := &t.policies
	if x.of.items == nil {
		a, err := newArena[uint16](t.reserve)
		if err != nil {
			return 0 // as with helpers: connections go without
		}
		a.scattered()
		x.of, x.names, x.sets = a, []string{""}, []*Settings{nil}
	}
	if id := slices.Index(x.names[1:], name); id >= 0 {
		return uint16(id + 1)
	}
	if len(x.names) > maxPolicyIDs {
		return 0
	}
	x.names = append(x.names, name)
	x.sets = append(x.sets, t.set.override(name))
	return uint16(len(x.names) - 1)
}

// setOf returns the settings that hold for an entry.
func (t *Table) setOf(e *entry, ref uint32) *Settings {
	if e.flags&entryPolicy == 0 {
		return t.set
	}
	return t.policySet(ref)
}

// policySet is setOf for an entry that has a policy.
func (t *Table) policySet(ref uint32) *Settings {
	if s := t.policies.sets[t.policies.of.items[ref]]; s != nil {
		return s
	}
	return t.set
}
