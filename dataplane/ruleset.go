package dataplane

import (
	"context"
	"errors"

	"corewire/rules"
)

// Ruleset returns the rule set in force.
func (e *Engine) Ruleset() *rules.Ruleset {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ruleset
}

// Swap is a rule set with what it takes over from the one in force.
type Swap struct {
	Ruleset *rules.Ruleset

	// From is the rule set that Mapping is about. With another one in force SwapRuleset changes nothing and says
	// ErrSuperseded. nil: whatever is in force, and Mapping is made of what is the same (rules.Unchanged).
	From    *rules.Ruleset
	Mapping rules.Mapping

	// Counters are put in the place of those taken over where Set says so, both by RuleID of Ruleset. nil: nowhere.
	Counters []rules.Counter
	Set      []bool
}

// ErrSuperseded says that another rule set was put in force meanwhile.
var ErrSuperseded = errors.New("another rule set was put in force meanwhile")

// SetRuleset puts a rule set in force, in each worker between two bursts: every packet is judged by the old one or by
// the new one. Connections stay; verdicts cached under the old rules no longer count. Rules that both sets have go on with
// their counters and with what their matches remember.
func (e *Engine) SetRuleset(ctx context.Context, rs *rules.Ruleset) error {
	return e.SwapRuleset(ctx, Swap{Ruleset: rs})
}

// SwapRuleset is SetRuleset with a say in what the new rule set takes over. After changes of one rule (rules.Ruleset.Follows)
// a worker keeps its matcher, and only learns which rule set that judges by. Once begun it is carried through: a worker
// that is slow gets its matcher later.
func (e *Engine) SwapRuleset(ctx context.Context, s Swap) error {
	e.reload.Lock()
	defer e.reload.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	from, rs := e.Ruleset(), s.Ruleset
	switch {
	case s.From != nil && s.From != from:
		return ErrSuperseded
	case s.From == nil:
		s.Mapping = rules.Unchanged(from, rs)
	}
	// After changes of one rule the workers go on with the matchers that they have, as far as these have room.
	follows := rs.Follows(from)
	matchers := make([]*rules.Matcher, len(e.workers))
	for i, w := range e.workers {
		if !follows || w.crowded {
			matchers[i] = rs.NewMatcher()
		}
	}
	if !follows && rs.Needs()&rules.NeedTickets != 0 {
		for _, w := range e.workers {
			failed := make(chan error, 1)
			err := e.ask(ctx, w, func() { failed <- w.keepTickets(rs) })
			if err == nil {
				err = <-failed
			}
			if err != nil {
				return err
			}
		}
	}
	if from != rs && !follows {
		rs.Adopt(from, s.Mapping)
	}
	if err := e.hold(rs); err != nil {
		return err
	}
	e.mu.Lock()
	e.epochs = e.epochs.withRules()
	next := e.epochs
	e.ruleset = rs
	e.mu.Unlock()
	for i, w := range e.workers {
		m := matchers[i]
		var old *rules.Matcher
		change := func() {
			if w.matcher.Ruleset() == rs {
				return // the engine has stopped just after this was done
			}
			if m != nil {
				old = w.matcher
				w.use(m)
			} else {
				w.matcher.Follow(rs, s.Mapping)
				w.crowded = w.matcher.Crowded()
			}
			w.enter(next)
		}
		err := e.ask(ctx, w, change)
		if errors.Is(err, ErrStopped) { // no worker runs any more: it is done here
			err = e.ask(ctx, w, change)
		}
		if err != nil {
			return err
		}
		if old != nil { // nobody counts with it any more
			e.counted = append(e.counted, make([]rules.Counter, from.Counters()-len(e.counted))...)
			old.Counters(e.counted)
			w.crowded = false
		}
	}
	e.release(from)
	if e.counted = s.Mapping.Apply(e.counted, rs.Counters()); s.Set != nil {
		e.counted = append(e.counted, make([]rules.Counter, rs.Counters()-len(e.counted))...)
	}
	for id, set := range s.Set {
		if set {
			e.counted[id] = s.Counters[id]
		}
	}
	return nil
}

// RuleCounters returns the rule set in force and what its rules have counted over all workers, indexed by RuleID, the
// policies included.
func (e *Engine) RuleCounters(ctx context.Context) (*rules.Ruleset, []rules.Counter, error) {
	e.reload.Lock()
	defer e.reload.Unlock()
	rs := e.Ruleset()
	total := make([]rules.Counter, rs.Counters())
	copy(total, e.counted)
	for _, w := range e.workers {
		part := make([]rules.Counter, len(total)) // its own: a worker might still write to it after ctx has ended
		if err := e.ask(ctx, w, func() { w.matcher.Counters(part) }); err != nil {
			return nil, nil, err
		}
		for i, c := range part {
			total[i].Packets += c.Packets
			total[i].Bytes += c.Bytes
		}
	}
	return rs, total, nil
}

// ZeroRules sets counters of the rules in force to zero: those of the RuleIDs given, or all of them for nil. It returns
// what they were, so that no packet is counted neither before nor after. With a rule set other than rs in force it changes
// nothing and says ErrSuperseded. Once begun it is carried through.
func (e *Engine) ZeroRules(ctx context.Context, rs *rules.Ruleset, which []rules.RuleID) ([]rules.Counter, error) {
	e.reload.Lock()
	defer e.reload.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	if e.Ruleset() != rs {
		return nil, ErrSuperseded
	}
	total := make([]rules.Counter, rs.Counters())
	for _, w := range e.workers {
		part := make([]rules.Counter, len(total))
		if err := e.ask(ctx, w, func() { w.matcher.Take(part, which) }); err != nil {
			return nil, err
		}
		for i, c := range part {
			total[i].Packets += c.Packets
			total[i].Bytes += c.Bytes
		}
	}
	take := func(id rules.RuleID) {
		if int(id) < len(e.counted) {
			total[id].Packets += e.counted[id].Packets
			total[id].Bytes += e.counted[id].Bytes
			e.counted[id] = rules.Counter{}
		}
	}
	if which == nil {
		for id := range total {
			take(rules.RuleID(id))
		}
	}
	for _, id := range which {
		take(id)
	}
	return total, nil
}
