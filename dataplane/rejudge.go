package dataplane

import (
	"context"
	"sync/atomic"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/rules"
)

// Rejudged says what became of the connections.
type Rejudged struct {
	Judged int // connections that were judged
	Closed int // of these, those that the rules would not let begin: they are gone
}

// Rejudge closes the connections that the rules in force, rs, would not let begin: each is judged as its first packet, in
// state NEW (RELATED for one that a helper expected), from its original source to its original destination, on the port
// that it came in on, with the connection's mark, and for TCP as a SYN. What the table does not keep of that packet, its
// length, options and the like, and what limits would have said, is given the benefit of the doubt: see rules.Judge.
//
// It changes nothing about how packets are judged meanwhile. One of a connection that waits for its turn goes by the rules
// in force like every other, and one of a connection that was closed by those for a packet without a connection. Workers
// judge a few connections at a time between two bursts, and rest in between as for a change of connections. Listeners are
// told of each connection that is closed. It ends with ErrSuperseded when other rules come into force before it has gone
// through; what is closed stays closed.
//
// Whether an established connection could go on is not asked: rules that accept ESTABLISHED would keep everything. So rules
// that let nobody begin anything (--ctstate NEW -j DROP) close everything.
func (e *Engine) Rejudge(ctx context.Context, rs *rules.Ruleset) (Rejudged, error) {
	judge := rs.NewJudge()
	var judged atomic.Int64
	closed, err := e.change(ctx, func(w *Worker, cursor uint64, s *slice) {
		if w.matcher.Ruleset() != rs {
			s.err = ErrSuperseded
			return
		}
		refused := func(i *conntrack.Info) bool {
			judged.Add(1)
			return begins(judge, i, w.since(w.now)) == rules.Refused
		}
		_, s.next = w.table.Delete(cursor, dumpSlice, s.note(refused, nil), w.now)
	}, nil)
	return Rejudged{Judged: int(judged.Load()), Closed: closed}, err
}

// begins asks whether a connection would be let begin at a time, as rules count it.
func begins(j *rules.Judge, i *conntrack.Info, now int64) rules.Answer {
	p := packet.Packet{Key: i.Key, Src: i.Key.A, Dst: i.Key.B, SrcPort: i.Key.APort, DstPort: i.Key.BPort, Proto: i.Key.Proto, Family: i.Key.Family, In: i.In}
	if p.Family == 6 {
		p.Class = packet.ClassIPv6
	}
	if i.Flipped {
		p.Flags = packet.Flipped
		p.Src, p.Dst, p.SrcPort, p.DstPort = i.Key.B, i.Key.A, i.Key.BPort, i.Key.APort
	}
	switch i.Key.Proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoUDPLite, packet.ProtoSCTP:
		p.Flags |= packet.PortsValid
		if i.Key.Proto == packet.ProtoTCP {
			p.TCPFlags = 2 // SYN
		}
	default:
		p.SrcPort, p.DstPort = 0, 0
		if _, typ, code, ok := i.Key.Query(); ok {
			p.ICMPType, p.ICMPCode = typ, code
		}
	}
	c := rules.Context{Now: now, State: rules.New, ConnMark: i.Mark, Status: i.Status & conntrack.StatusExpected}
	if i.Status&conntrack.StatusExpected != 0 {
		c.State = rules.Related
	}
	return j.Judge(&p, &c)
}
