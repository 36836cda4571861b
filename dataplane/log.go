package dataplane

import (
	"time"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/ring"
	"corewire/rules"
)

// What LOG and NFLOG rules tell goes from the workers through a ring each to one goroutine. A worker never waits: what
// finds its ring full is lost, and counted.
const (
	// LoggedBytes is how much of a frame is kept: all of one of the usual MTU.
	LoggedBytes = 2048
	// logRing is how many packets wait, 2 MiB a worker: with logPeriod, up to 100,000 a second of each worker.
	logRing   = 1 << 10
	logPeriod = 10 * time.Millisecond
)

// Logged is a packet that passed a LOG or NFLOG rule, or was INVALID while nf_conntrack_log_invalid asks for that, as it
// was then.
type Logged struct {
	At      conntrack.Tick
	In      packet.Port
	Rules   *rules.Ruleset // that Rule is of; nil: the packet was INVALID
	Rule    rules.RuleID
	Proto   uint8            // of an INVALID packet
	Why     conntrack.Reason // it was INVALID
	Problem packet.Problem   // with conntrack.ReasonMalformed: of its transport header
	Tracked bool             // State is valid: the rule is behind connection tracking
	State   rules.State      // of the packet
	Mark    uint32           // of the packet
	Length  int              // of the frame; of a datagram that came in fragments as if it had come in one
	L3, End int              // where the IP datagram begins and ends in the frame

	kept int
	data [LoggedBytes]byte
}

// Frame returns what was kept of the frame. It is part of l.
func (l *Logged) Frame() []byte { return l.data[:l.kept] }

// logs is a worker's end of its ring.
type logs struct {
	ring *ring.SPSC[Logged] // nil: nobody listens
	next [1]Logged          // room for the one that is pushed
}

// log tells of a packet once for each LOG and NFLOG rule that it has passed.
func (w *Worker) log(p *packet.Packet, passed []rules.Logged, tracked bool, now conntrack.Tick) {
	if w.logs.ring == nil {
		return
	}
	l := w.logged(p, now)
	l.Rules, l.Tracked, l.State = w.matcher.Ruleset(), tracked, w.context.State
	for _, r := range passed {
		l.Rule, l.Mark = r.Rule, r.Mark
		w.pushLogged()
	}
}

// tell tells of a packet that connection tracking found INVALID.
func (w *Worker) tell(p *packet.Packet, now conntrack.Tick) {
	if w.logs.ring == nil {
		return
	}
	l := w.logged(p, now)
	l.Rules, l.Tracked, l.State, l.Mark = nil, true, rules.Invalid, w.mark
	l.Proto, l.Why, l.Problem = p.Proto, w.table.Why(), p.Problem
	w.pushLogged()
}

// logged copies a packet.
func (w *Worker) logged(p *packet.Packet, now conntrack.Tick) *Logged {
	l := &w.logs.next[0]
	l.At, l.In = now, p.In
	l.Length, l.L3, l.End = len(p.Frame), int(p.L3), int(p.End)
	l.kept = copy(l.data[:], p.Frame)
	return l
}

// pushLogged gives it away.
func (w *Worker) pushLogged() {
	if w.logs.ring.Push(w.logs.next[:]) == 0 {
		w.c.LogLost++
	} else {
		w.c.Logged++
	}
}

// listenLogs gives what the workers' rings have to whoever listens, until the engine stops, and what is left then.
func (e *Engine) listenLogs() {
	t := time.NewTicker(logPeriod)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			e.drainLogs()
		case <-e.done:
			e.drainLogs()
			return
		}
	}
}

// drainLogs gives out what waits in the rings now, in the order of each worker.
func (e *Engine) drainLogs() {
	for _, w := range e.workers {
		for {
			n := w.logs.ring.Pop(e.logged)
			if n == 0 {
				break
			}
			e.log(e.logged[:n])
		}
	}
}
