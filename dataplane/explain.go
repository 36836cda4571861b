package dataplane

import (
	"context"
	"errors"
	"fmt"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/rules"
)

// Explanation is what would become of a frame, and why.
type Explanation struct {
	Ruleset *rules.Ruleset
	Class   packet.Class
	Verdict Verdict
	Reason  DropReason // DropNone unless dropped

	// Judged: the frame comes to connection tracking and the rules. The rest is valid then only.
	Judged   bool
	RawSteps []rules.Step
	Raw      rules.Early // with a raw table; where it drops, what follows is not valid
	Tracked  bool        // connection tracking was asked; State is valid in any case
	State    conntrack.State
	Dir      conntrack.Dir
	Invalid  conntrack.Reason // of StateInvalid: the check that failed
	Expected conntrack.Helper // whose helper expects the connection that the packet would begin; HelperNone: none
	Known    bool             // the connection is in the table; Before is what it is, as it was found
	Before   conntrack.Info
	HasTCP   bool
	TCP      conntrack.TCPInfo // of Before, where it is TCP
	Steps    []rules.Step
	Rule     rules.RuleID // what decided

	Cached     bool // a verdict for this direction and state is cached, and would be used instead of Steps
	CachedRule rules.RuleID
	Cacheable  bool     // the verdict would be cached
	Asked      []string // why not, beside state and kind of packet
}

// Explain says what would become of a frame that came in on a port now, without changing anything: no counter, no
// connection, nothing that matches remember, no log. The connection's tracker judges a copy, and what
// helpers expect stays expected. state, if not nil, is taken for the connection's state and no table is asked.
func (e *Engine) Explain(ctx context.Context, frame []byte, in packet.Port, state *conntrack.State) (x Explanation, err error) {
	list := [1]packet.Packet{{Frame: append(make([]byte, 0, len(frame)+64), frame...), In: in}}
	p := &list[0]
	e.workers[0].parse(p)
	x.Ruleset, x.Class = e.Ruleset(), p.Class
	rs := x.Ruleset
	switch {
	case p.Class > packet.ClassIPv6:
		if x.Verdict = Accept; e.workers[0].policy[p.Class] == Block {
			x.Verdict, x.Reason = Drop, DropClass
		}
		return x, nil
	case p.Problem.Header():
		x.Verdict, x.Reason = Drop, headerReason(p.Problem)
		return x, nil
	case fragmented(p):
		x.Verdict = Hold
		return x, nil
	}
	x.Judged = true
	c := rules.Context{}
	owner := e.workers[0]
	var now conntrack.Tick
	var set *conntrack.Settings
	if err := e.ask(ctx, owner, func() {
		now, set, c.Now, c.MTU = owner.now, owner.table.Settings(), owner.since(owner.now), owner.context.MTU
		c.Wall = owner.timeOfDay(owner.now)
	}); err != nil {
		return x, err
	}
	var give *rules.CTTarget
	x.RawSteps, x.Raw = rs.ExplainRaw(p, &c)
	if x.Raw.Verdict != rules.Accept {
		x.Verdict, x.Reason, x.Rule = Drop, DropRule, x.Raw.Rule
		return x, nil
	}
	if x.Raw.Assign != 0 {
		switch give = rs.Assignments()[x.Raw.Assign-1]; {
		case give.NoTrack:
			p.Flags |= packet.Untracked
		case give.HasZone:
			p.Key.Zone = give.Zone
		}
	}
	c.Mark = x.Raw.Mark
	if state != nil {
		x.State = *state
		c.State = rules.State(x.State)
	} else if err := e.track(ctx, list[:], give, set, now, &x, &c); err != nil {
		return x, err
	}
	steps, r := rs.Explain(p, &c)
	x.Steps, x.Rule, x.Verdict = steps, r.Rule, Accept
	if r.Verdict != rules.Accept {
		x.Verdict, x.Reason = Drop, DropRule
	}
	x.Cacheable = r.Cacheable() && p.Flags&notAlike == 0
	for i := range steps {
		x.Asked = append(x.Asked, steps[i].Asked...)
	}
	return x, nil
}

// track lets a tracker of its own judge the packet, with a copy of what the owner of its flow knows.
func (e *Engine) track(ctx context.Context, list []packet.Packet, give *rules.CTTarget, set *conntrack.Settings, now conntrack.Tick, x *Explanation, c *rules.Context) (err error) {
	p := &list[0]
	owner := e.workers[0]
	if len(e.workers) > 1 {
		owner = e.workers[owner.owner(p)]
	}
	found := new(conntrack.Looked) // the worker's, should ctx end first
	known := new(bool)
	expected := new(struct {
		mark uint32
		by   conntrack.Helper
		ok   bool
	})
	verdicts := func() (d [2]rules.RuleID, ok [2]bool) {
		for k, v := range found.Verdicts {
			if owner.epochs.counts(v) && v&traceMask != 0 && owner.matcher.Ruleset() == x.Ruleset {
				d[k], ok[k] = owner.matcher.TraceResult(v&traceMask).Rule, true
			}
		}
		return d, ok
	}
	var cachedRule [2]rules.RuleID
	var cached [2]bool
	if err := e.ask(ctx, owner, func() {
		if *known = owner.table.Look(&p.Key, owner.now, found); *known {
			cachedRule, cached = verdicts()
		} else {
			expected.mark, expected.by, expected.ok = owner.table.Expected(p, owner.now)
		}
	}); err != nil {
		return err
	}
	expect, err := conntrack.NewExpectations(1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, expect.Close()) }()
	capacity := conntrack.NewCapacity(16, 1)
	table, err := conntrack.New(conntrack.Config{Capacity: capacity, Expectations: expect, Settings: set, Reserve: 64})
	if err != nil {
		return fmt.Errorf("explain: %w", err)
	}
	defer func() { err = errors.Join(err, table.Close()) }()
	x.Tracked = true
	if *known {
		capacity.Reserve(1)
		if _, err := table.Import([]conntrack.Record{found.Record}, make([]bool, 1), now); err != nil {
			return fmt.Errorf("explain: %w", err)
		}
		at := table.Find(&p.Key)
		x.Known = table.Info(&at, &x.Before, now)
		x.HasTCP = table.TCPInfo(&at, &x.TCP)
	}
	if give != nil && !give.NoTrack {
		h, err := conntrack.HelperByName(give.Helper)
		if err != nil {
			h = conntrack.HelperNone
		}
		t := table.NewTemplate(h, give.Timeout)
		table.SetTemplate(&t)
	}
	table.Hash(list)
	conn := table.Track(p, now)
	x.State, x.Dir = conn.State, conn.Dir
	if x.State == conntrack.StateInvalid {
		x.Invalid = table.Why()
	}
	x.CachedRule, x.Cached = cachedRule[conn.Dir&1], cached[conn.Dir&1] && p.Flags&notAlike == 0 &&
		rules.TraceValid(found.Verdicts[conn.Dir&1]&traceMask, p.In, rules.State(conn.State))
	c.State, c.Dir = rules.State(conn.State), rules.Dir(conn.Dir)
	c.Status, c.Expires, c.ConnMark = table.Status(&conn), table.Left(&conn, now), table.Mark(&conn)
	c.Packets, c.Bytes, c.Counted = table.Counts(&conn)
	c.Labels, c.Helper, c.Held = table.Labels(&conn), found.Helper.String(), found.Tickets
	if expected.ok && conn.State == conntrack.StateNew {
		x.State, x.Expected = conntrack.StateRelated, expected.by
		c.State, c.Status, c.ConnMark, c.Helper = rules.Related, c.Status|conntrack.StatusExpected, expected.mark, expected.by.String()
	}
	return nil
}
