package dataplane

import (
	"sync/atomic"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/ring"
	"corewire/rules"
)

// Worker decides the frames of one queue pair. Only its own goroutine calls its methods; Engine gives the exceptions
// their own words.
type Worker struct {
	id      int
	wire    ring.Wire
	table   *conntrack.Table
	defrag  *conntrack.Defrag // fragments from the wire
	regroup *conntrack.Defrag // complete datagrams that other workers handed over, put together again
	matcher *rules.Matcher
	crowded bool          // Matcher.Crowded when rules last changed; Engine.reload guards it
	raw     *raw          // nil without a raw table; changes with matcher
	context rules.Context // of the packet being matched; reused
	tickets tickets       // room for the context's
	mark    uint32        // of the packet being decided, from the raw table; else 0
	epochs  epochs        // of the cached verdicts that count

	policy    [packet.Classes]Policy // for frames that are not IP
	zones     Zones                  // what goes into packets' keys
	deepest   uint32                 // largest Packet.L3 of a frame that is taken for IP
	recording bool                   // keep Results of the last step, for replay

	// The burst: frames[i] is parsed in packets[i]. Both have the length of the burst and are reused.
	frames  []packet.Frame
	packets []packet.Packet
	lane    int              // of the packet being decided, as Matcher.Prepare was shown it; of another one where it was not
	whole   [1]packet.Packet // the datagram that a fragment completed

	// Frames that leave the burst. Fixed capacity; a full list is carried out early.
	tx   [packet.Ports][]packet.Frame
	free []packet.Frame

	// Frames that this worker made itself, by the port they leave through: what REJECT rules answer. Fixed capacity.
	answers [packet.Ports][]packet.Frame
	fresh   [1]packet.Frame // room for Wire.Alloc

	icmp *icmpLimiter // of all workers

	logs logs // what LOG and NFLOG rules tell

	commands chan func()    // from control, run between bursts
	now      conntrack.Tick // of the last turn
	seen     conntrack.Tick // the latest that since was asked for
	rounds   int64          // how often the tick had begun again by then
	wall     *atomic.Int64  // Engine.wallOffset
	turns    atomic.Uint64  // published for control: turns of the loop
	full     atomic.Uint64  // published for control: new connections dropped at the maximum
	entries  atomic.Int64   // published for control: entries in the shard

	exchange                  // hand-off between workers
	late     []conntrack.Late // room for fragments whose datagram was given up
	err      error            // of the ports, in this turn

	c       Counters
	result  Result   // of the frame being judged; written only for what follows it in this turn
	results []Result // of the last turn, if recording
}

// Result is what became of one frame of the last Step. It is recorded for replay and tests only.
type Result struct {
	In      packet.Port
	Verdict Verdict
	Reason  DropReason
	Tracked bool // State and Rule are valid: the packet went through connection tracking and the rules
	Early   bool // Rule is valid: the raw table dropped the packet, which was not tracked
	Rule    rules.RuleID
	State   conntrack.State
	Dir     conntrack.Dir // with State, where the packet has a connection

	HasInfo bool           // Info is valid: the packet's connection is in the table
	Info    conntrack.Info // the connection after the packet
	HasTCP  bool           // TCP is valid
	TCP     conntrack.TCPInfo
}

// Step makes one turn: a burst from each port, the frames that other workers handed over, expiry, and one kick.
// now is the time of every packet in it. It returns the number of frames handled and allocates nothing.
func (w *Worker) Step(now conntrack.Tick) (int, error) {
	w.results = w.results[:0]
	n := w.receive(packet.Inside, now)
	n += w.receive(packet.Outside, now)
	n += w.takeOver(now)
	w.expire(now)
	w.transmit(packet.Inside)
	w.transmit(packet.Outside)
	w.answer(packet.Inside)
	w.answer(packet.Outside)
	w.release()
	w.flush()
	w.c.Loops++
	if n > 0 {
		w.c.Busy++
	}
	err := w.err
	w.err = nil
	return n, err
}

// receive takes a burst from a port: parse all, keep those that are this worker's to judge.
func (w *Worker) receive(port packet.Port, now conntrack.Tick) int {
	n := w.wire.Receive(port, w.frames)
	if n == 0 {
		return 0
	}
	bytes, mine := 0, 0
	for i := range n {
		f := w.frames[i]
		bytes += len(f.Data)
		p := &w.packets[mine]
		p.Frame, p.In = f.Data, port
		w.parse(p)
		w.c.Class[p.Class]++
		switch {
		case p.Problem.Header():
			w.settle(f, port, headerReason(p.Problem))
		case p.Class > packet.ClassIPv6:
			why := DropNone
			if w.policy[p.Class] == Block {
				why = DropClass
			}
			w.settle(f, port, why)
		case w.foreign(p):
			w.handOff(f, port, w.owner(p))
		default:
			w.frames[mine] = f
			mine++
		}
	}
	w.c.Port[port].RxFrames += uint64(n)
	w.c.Port[port].RxBytes += uint64(bytes)
	w.c.MaxBurst = max(w.c.MaxBurst, uint64(n))
	w.judge(mine, now)
	w.post()
	return n
}

// parse parses a packet and gives its key the zone. What lies behind more VLAN tags than are looked behind is not known
// to be IP.
func (w *Worker) parse(p *packet.Packet) {
	packet.Parse(p)
	if p.L3 > w.deepest {
		p.Hide()
	}
	if w.zones == ZoneVLAN {
		p.Key.Zone = p.VLAN
	}
}

// takeOver takes the frames that other workers handed over. They are this worker's to judge, whatever the hash says:
// a frame moves once.
func (w *Worker) takeOver(now conntrack.Tick) int {
	total := 0
	for _, from := range w.from {
		n := from.Pop(w.inbox)
		single := 0
		for i := range n {
			h := &w.inbox[i]
			p := &w.packets[single]
			p.Frame, p.In = h.frame.Data, h.in
			w.parse(p)
			if h.grouped { // one of a datagram's fragments, all of which are here
				w.fragment(w.regroup, p, h.frame, now)
				continue
			}
			w.frames[single] = h.frame
			single++
		}
		w.judge(single, now)
		w.c.Taken += uint64(n)
		total += n
	}
	if total > 0 {
		w.post()
	}
	return total
}

// judge decides the first n packets of the burst in order: hash all, touch all buckets, then all entries, and look up the
// rules for those that have none, so that the cache misses of a burst overlap; then track, match and place one after the other.
func (w *Worker) judge(n int, now conntrack.Tick) {
	if w.raw != nil {
		w.judgeRaw(n, now)
		return
	}
	burst := w.packets[:n]
	w.table.Hash(burst)
	w.table.Touch(burst)
	w.matcher.Prepare(burst)
	for i := range burst {
		p := &burst[i]
		w.lane = i
		if fragmented(p) {
			w.fragment(w.defrag, p, w.frames[i], now)
			continue
		}
		why := w.decide(p, now)
		w.settle(framed(w.frames[i], p), p.In, why)
	}
}

// framed returns the frame of a packet, which rules may have made longer.
func framed(f packet.Frame, p *packet.Packet) packet.Frame {
	if len(f.Data) != len(p.Frame) {
		f.Data = p.Frame
	}
	return f
}

// notAlike are packets whose verdict is never that of their connection's others: an ICMP error has the connection of the
// packet that it quotes, and may have the same state and direction as that connection's own packets; where extension
// headers are broken, rules see another protocol than connection tracking; what has a mark already meets other rules.
const notAlike = packet.ICMPError | packet.BrokenChain | packet.LaterFragment | packet.Marked

// decide is the firewall: connection, rules, confirmation. It is the same for a frame and for a datagram put
// together from fragments. The order is netfilter's: a known connection changes state before the rules see the
// packet, a new one enters the table only when they have accepted it.
//
// What it found is left in w.result, field by field: a struct of small fields that is returned by value costs more than
// the whole lookup, since its copy waits for all the single stores.
func (w *Worker) decide(p *packet.Packet, now conntrack.Tick) DropReason {
	conn := w.table.Track(p, now)
	if conn.Full() {
		w.full.Add(1)
		return DropTableFull
	}
	w.c.State[conn.State]++
	r := &w.result
	r.Tracked, r.State = true, conn.State
	if conn.State == conntrack.StateInvalid && w.table.Tells(p.Proto) {
		w.tell(p, now)
	}
	why := DropNone
	length := int(p.End - p.L3)

	if p.Flags&packet.LateHopByHop != 0 {
		if conn.Fresh {
			w.table.Discard(&conn)
		}
		w.result.Tracked = false
		return headerReason(packet.ProblemHopByHop)
	}

	cached := w.table.Verdict(&conn)
	if w.epochs.counts(cached) && p.Flags&notAlike == 0 && rules.TraceValid(cached&traceMask, p.In, rules.State(conn.State)) {
		w.c.Cached++
		m := w.matcher.TraceResult(cached & traceMask)
		r.Rule = m.Rule
		if m.Verdict != rules.Accept {
			why = DropRule
		}
		w.matcher.Count(m.Trace, length)
	} else {
		w.c.Matched++
		w.connection(p, &conn, now)
		m := w.matcher.MatchPrepared(w.lane, p, &w.context)
		if needs := w.matcher.Ruleset().Needs(); needs&(rules.WritesConnMark|rules.WritesLabels) != 0 {
			w.written(&conn, needs)
		}
		r.Rule = m.Rule
		if passed := w.matcher.Logged(); len(passed) != 0 {
			w.log(p, passed, true, now)
		}
		if m.Verdict != rules.Accept {
			why = DropRule
		}
		w.matcher.Count(m.Trace, length)
		if m.Cacheable() && p.Flags&packet.Marked == 0 {
			w.table.SetVerdict(&conn, w.epochs.verdict(m))
		}
	}
	if why == DropRule {
		if with := w.matcher.Ruleset().Reject(r.Rule); with != rules.RejectNone {
			w.reject(p, &conn, with, now)
		}
	}

	if why == DropNone && !w.table.Help(&conn, p, now) {
		why = DropHelper
	}
	if conn.Fresh {
		if why != DropNone {
			w.table.Discard(&conn)
		} else {
			switch w.table.Confirm(&conn, now) {
			case conntrack.Clash:
				why = DropClash
			case conntrack.TooLong:
				why = DropChain
			}
		}
		if why != DropNone {
			conn.Ref = 0 // there is no entry
		}
	}
	if len(w.context.Taken) > 0 {
		w.tieTickets(&conn)
	}
	if w.recording {
		r.Dir = conn.Dir
		r.HasInfo = w.table.Info(&conn, &r.Info, now)
		r.HasTCP = r.HasInfo && w.table.TCPInfo(&conn, &r.TCP)
	}
	return why
}

// connection writes what the rules ask about the packet's connection. Each part costs a load from the entry, so it is
// done only if the rule set needs it.
func (w *Worker) connection(p *packet.Packet, conn *conntrack.Conn, now conntrack.Tick) {
	c := &w.context
	c.State, c.Mark = rules.State(conn.State), w.mark
	needs := w.matcher.Ruleset().Needs()
	if needs&rules.NeedDir != 0 {
		c.Dir = rules.Dir(conn.Dir)
	}
	if needs&rules.NeedStatus != 0 {
		c.Status = w.table.Status(conn)
	}
	if needs&rules.NeedExpires != 0 {
		c.Expires = w.table.Left(conn, now)
	}
	if needs&rules.NeedConnMark != 0 {
		c.ConnMark = w.table.Mark(conn)
	}
	if needs&rules.NeedNow != 0 {
		c.Now = w.since(now)
	}
	if needs&rules.NeedTickets != 0 {
		w.showTickets(p, conn)
	}
	if needs&(rules.NeedWall|rules.NeedCounts|rules.NeedHelper|rules.NeedLabels|rules.NeedMaster) != 0 {
		w.more(conn, needs, now)
	}
}

// since returns the time of the rules, in ns: that of the tick, which does not begin again after 49 days.
func (w *Worker) since(now conntrack.Tick) int64 {
	if w.seen == 0 && w.rounds == 0 {
		w.seen = now
	}
	if int32(now-w.seen) > 0 {
		if now < w.seen {
			w.rounds++
		}
		w.seen = now
	}
	return (w.rounds<<32 + int64(now)) * 1e6
}

// more writes what few rule sets ask.
func (w *Worker) more(conn *conntrack.Conn, needs rules.Needs, now conntrack.Tick) {
	c := &w.context
	if needs&rules.NeedWall != 0 {
		c.Wall = w.timeOfDay(now)
	}
	if needs&rules.NeedCounts != 0 {
		c.Packets, c.Bytes, c.Counted = w.table.Counts(conn)
	}
	if needs&rules.NeedHelper != 0 {
		c.Helper = w.table.MasterHelper(conn).String()
	}
	if needs&rules.NeedMaster != 0 {
		c.Master, _ = w.table.MasterSource(conn)
	}
	if needs&rules.NeedLabels != 0 {
		c.Labels = w.table.Labels(conn)
	}
}

// timeOfDay returns the seconds since 1970-01-01T00:00:00Z at a time of this turn or the next.
func (w *Worker) timeOfDay(now conntrack.Tick) int64 {
	return (w.wall.Load() + w.since(now)/1e6) / 1000
}

// written gives the connection what rules wrote for it.
func (w *Worker) written(conn *conntrack.Conn, needs rules.Needs) {
	if needs&rules.WritesConnMark != 0 && w.context.ConnMark != w.table.Mark(conn) {
		w.table.SetMark(conn, w.context.ConnMark)
	}
	if needs&rules.WritesLabels != 0 && w.context.Labels != w.table.Labels(conn) {
		// Without memory for labels the packet goes on without, as in Linux.
		_ = w.table.AddLabels(conn, w.context.Labels)
	}
}

// fragment puts a fragment into a store. The one that completes its datagram has the datagram judged; the fragments
// are then sent on as they came, or dropped together.
func (w *Worker) fragment(store *conntrack.Defrag, p *packet.Packet, f packet.Frame, now conntrack.Tick) {
	in := p.In
	switch store.Add(p, f, now) {
	case conntrack.Held:
		w.c.Verdict[Hold]++
		w.record(in, Hold, DropNone)
	case conntrack.Passed: // it cannot be put together and is judged by itself: INVALID
		w.whole[0] = *p
		why := w.single(w.whole[:], now)
		w.settle(framed(f, &w.whole[0]), in, why)
	case conntrack.Broken:
		w.settleAll(store.Frames(), in, fragmentReason(store.Why()))
	case conntrack.Complete:
		q := &w.whole[0]
		in = store.Origin()
		whole := store.Datagram()
		q.Frame, q.In = whole[:len(whole):len(whole)], in // no rule makes it longer: its fragments leave as they were cut
		packet.ParseGathered(q)
		if w.zones == ZoneVLAN {
			q.Key.Zone = q.VLAN
		}
		switch {
		case q.Problem.Header():
			w.settleAll(store.Frames(), in, headerReason(q.Problem))
		case store == w.defrag && w.foreign(q):
			w.handOffGroup(store.Frames(), in, w.owner(q))
		default:
			ttl, tos := q.TTL, q.TOS
			why := w.single(w.whole[:], now)
			segments := w.matcher.Ruleset().Needs()&rules.WritesSegments != 0 && q.Proto == packet.ProtoTCP
			if why == DropNone && (segments || q.TTL != ttl || q.TOS != tos) {
				w.change(store.Frames(), q, ttl, tos, segments)
			}
			w.settleAll(store.Frames(), in, why)
		}
	}
}

// change gives the fragments of a datagram what rules changed of its IP header, and with segments its bytes, each of which
// is in one of the fragments.
func (w *Worker) change(f []packet.Frame, whole *packet.Packet, ttl, tos uint8, segments bool) {
	var p packet.Packet
	body := 0 // how many bytes came as fragments: the end of the datagram
	for pass := range 2 {
		for i := range f {
			p = packet.Packet{Frame: f[i].Data, In: whole.In}
			packet.Parse(&p)
			if p.Class > packet.ClassIPv6 || p.Problem.Header() {
				continue
			}
			begin := int(p.L4)
			if p.FragHdr != 0 { // an atomic fragment's transport header may be further behind
				begin = int(p.FragHdr) + 8
			}
			n := int(p.End) - begin
			if pass == 0 {
				body = max(body, int(p.FragOff)+n)
				continue
			}
			if whole.TTL != ttl {
				rules.SetTTL(&p, whole.TTL)
			}
			if whole.TOS != tos {
				rules.SetTOS(&p, whole.TOS)
			}
			if from := int(whole.End) - body + int(p.FragOff); segments && from >= int(whole.L3) && from+n <= int(whole.End) {
				copy(p.Frame[begin:p.End], whole.Frame[from:from+n])
			}
		}
	}
}

// settle sends a frame out of the port opposite to the one that it came from, or frees it.
func (w *Worker) settle(f packet.Frame, in packet.Port, why DropReason) {
	if why == DropNone {
		w.send(f, in.Other())
		w.record(in, Accept, why)
	} else {
		w.put(f, why)
		w.record(in, Drop, why)
	}
}

// settleAll does the same with the frames of one datagram, which have one result.
func (w *Worker) settleAll(f []packet.Frame, in packet.Port, why DropReason) {
	v := Accept
	for i := range f {
		if why == DropNone {
			w.send(f[i], in.Other())
		} else {
			v = Drop
			w.put(f[i], why)
		}
	}
	w.record(in, v, why)
}

// send appends a frame to what leaves through a port.
func (w *Worker) send(f packet.Frame, out packet.Port) {
	w.c.Verdict[Accept]++
	if len(w.tx[out]) == cap(w.tx[out]) {
		w.transmit(out)
	}
	w.tx[out] = append(w.tx[out], f)
}

// put appends a dropped frame to what goes back to the free list.
func (w *Worker) put(f packet.Frame, why DropReason) {
	w.c.Verdict[Drop]++
	w.c.Drop[why]++
	if len(w.free) == cap(w.free) {
		w.release()
	}
	w.free = append(w.free, f)
}

// transmit gives the frames that leave through a port to its TX ring. A full ring is kicked once; what it still does
// not take is dropped here, so that a slow port never keeps frames from the fill rings.
func (w *Worker) transmit(out packet.Port) {
	f := w.tx[out]
	if len(f) == 0 {
		return
	}
	w.tx[out] = f[:0]
	n := w.wire.Send(out, f)
	if n < len(f) {
		w.flush()
		n += w.wire.Send(out, f[n:])
	}
	bytes := 0
	for i := range f[:n] {
		bytes += len(f[i].Data)
	}
	w.c.Port[out].TxFrames += uint64(n)
	w.c.Port[out].TxBytes += uint64(bytes)
	w.c.Verdict[Accept] -= uint64(len(f) - n)
	for _, f := range f[n:] {
		w.put(f, DropTxFull)
	}
}

// release gives the dropped frames back to the free list.
func (w *Worker) release() {
	if len(w.free) > 0 {
		w.wire.Release(w.free)
		w.free = w.free[:0]
	}
}

// flush kicks the ports and refills their rings. Its error is kept for the end of the turn: a frame is never judged
// differently because a port failed.
func (w *Worker) flush() {
	if err := w.wire.Flush(); err != nil && w.err == nil {
		w.err = err
	}
}

// sweepBudget bounds what a turn does for timeouts: as many blocks of 64 deadlines, each one or two cache lines, that
// is some microseconds. At a thousand turns a second, an idle wire's, it covers 4 Mi entries a second.
const sweepBudget = 64

// expire ends connections and datagrams whose time has passed. It does a bounded part of the table a turn, in
// proportion to the time that has gone by, so that every entry is looked at about once a second.
func (w *Worker) expire(now conntrack.Tick) {
	w.entries.Store(int64(w.table.Len()))
	w.table.Expire(now, sweepBudget)
	if now == w.now {
		return
	}
	w.now = now
	w.matcher.Ruleset().Tend(w.since(now))
	for _, store := range [...]*conntrack.Defrag{w.defrag, w.regroup} {
		for store.Held() > 0 {
			n := store.Expire(now, w.late)
			for _, l := range w.late[:n] {
				w.put(l.Frame, fragmentReason(l.Why))
			}
			if n < len(w.late) {
				break
			}
		}
	}
}

// record keeps a frame's result while replaying.
func (w *Worker) record(in packet.Port, v Verdict, why DropReason) {
	if w.recording {
		w.result.In, w.result.Verdict, w.result.Reason = in, v, why
		w.results = append(w.results, w.result)
		w.result = Result{}
	}
}
