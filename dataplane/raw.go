package dataplane

import (
	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/rules"
)

// raw is what a worker needs for a rule set with a raw table; without one it is nil, and costs a look a burst.
type raw struct {
	early     []rules.Early        // of the packets of the burst
	give      []*rules.CTTarget    // by Early.Assign minus 1
	templates []conntrack.Template // likewise
}

// use puts a matcher in force, between two bursts.
func (w *Worker) use(m *rules.Matcher) {
	w.matcher, w.raw = m, nil
	rs := m.Ruleset()
	if !rs.HasRaw() {
		return
	}
	x := &raw{early: make([]rules.Early, len(w.packets)), give: rs.Assignments()}
	for _, t := range x.give {
		// Rules name no helper that there is not (rules refuses them), and none is HelperNone.
		h, err := conntrack.HelperByName(t.Helper)
		if err != nil {
			h = conntrack.HelperNone
		}
		x.templates = append(x.templates, w.table.NewTemplate(h, t.Timeout))
	}
	w.raw = x
}

// judgeRaw is judge with a raw table: every packet goes through its rules before the hash, which the zone is part of.
// Fragments wait until their datagram is whole, since the kernel puts it together before.
func (w *Worker) judgeRaw(n int, now conntrack.Tick) {
	burst := w.packets[:n]
	for i := range burst {
		if p := &burst[i]; !fragmented(p) {
			w.raw.early[i] = w.preroute(p, now)
		}
	}
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
		why := w.route(p, &w.raw.early[i], now)
		w.settle(framed(w.frames[i], p), p.In, why)
	}
}

// fragmented says that a packet goes to the fragments' store first.
func fragmented(p *packet.Packet) bool { return p.Flags&packet.Fragment != 0 || p.FragHdr != 0 }

// preroute takes a packet through the raw table, and writes what that says about its tracking into it: before Hash.
func (w *Worker) preroute(p *packet.Packet, now conntrack.Tick) rules.Early {
	c := &w.context
	c.State = rules.Invalid
	if w.matcher.Ruleset().Needs()&rules.NeedNow != 0 {
		c.Now = w.since(now)
	}
	if w.matcher.Ruleset().Needs()&rules.NeedWall != 0 {
		c.Wall = w.timeOfDay(now)
	}
	e := w.matcher.Raw(p, c)
	if e.Mark != 0 {
		p.Flags |= packet.Marked
	}
	if passed := w.matcher.Logged(); len(passed) != 0 {
		w.log(p, passed, false, now)
	}
	if e.Assign != 0 {
		switch t := w.raw.give[e.Assign-1]; {
		case t.NoTrack:
			p.Flags |= packet.Untracked
		case t.HasZone:
			p.Key.Zone = t.Zone
		}
	}
	return e
}

// route goes on with a packet behind the raw table: dropped there, or decided with what it gives to new connections.
func (w *Worker) route(p *packet.Packet, e *rules.Early, now conntrack.Tick) DropReason {
	if e.Verdict != rules.Accept {
		w.result.Early, w.result.Rule = true, e.Rule
		return DropRule
	}
	w.mark = e.Mark
	if e.Assign == 0 {
		why := w.decide(p, now)
		w.mark = 0
		return why
	}
	w.table.SetTemplate(&w.raw.templates[e.Assign-1])
	why := w.decide(p, now)
	w.table.SetTemplate(nil)
	w.mark = 0
	return why
}

// single decides one packet apart from a burst: a datagram put together, or a fragment that is judged by itself. p is an
// array of one for Hash.
func (w *Worker) single(p []packet.Packet, now conntrack.Tick) DropReason {
	if w.raw == nil {
		w.table.Hash(p)
		return w.decide(&p[0], now)
	}
	e := w.preroute(&p[0], now)
	w.table.Hash(p)
	return w.route(&p[0], &e, now)
}
