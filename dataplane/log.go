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

// Logged is a packet that passed a LOG or NFLOG rule, as it was then.
type Logged struct {
	At      conntrack.Tick
	In      packet.Port
	Rules   *rules.Ruleset // that Rule is of
	Rule    rules.RuleID
	Tracked bool        // State is valid: the rule is behind connection tracking
	State   rules.State // of the packet
	Mark    uint32      // of the packet
	Length  int         // of the frame; of a datagram that came in fragments as if it had come in one
	L3, End int         // where the IP datagram begins and ends in the frame

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
	l := &w.logs.next[0]
	l.At, l.In, l.Rules, l.Tracked, l.State = now, p.In, w.matcher.Ruleset(), tracked, w.context.State
	l.Length, l.L3, l.End = len(p.Frame), int(p.L3), int(p.End)
	l.kept = copy(l.data[:], p.Frame)
	for _, r := range passed {
		l.Rule, l.Mark = r.Rule, r.Mark
		if w.logs.ring.Push(w.logs.next[:]) == 0 {
			w.c.LogLost++
		} else {
			w.c.Logged++
		}
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
