package dataplane

import (
	"context"

	"corewire/internal/ipset"
	"corewire/rules"
)

// Now returns the time as sets and rules count it, for who changes sets.
func (e *Engine) Now() ipset.Tick { return ipset.Tick(e.tick(e.clock())) }

// hold keeps the sets of a rule set from being destroyed.
func (e *Engine) hold(rs *rules.Ruleset) error {
	if e.sets == nil {
		return nil
	}
	all, moved := rs.Sets()
	return e.sets.Hold(all, moved, e.Now())
}

// release ends a hold.
func (e *Engine) release(rs *rules.Ruleset) {
	if e.sets != nil {
		all, _ := rs.Sets()
		e.sets.Release(all)
	}
}

// SetsChanged forgets the cached verdicts for which a set was asked: sets that rules name have changed by order. When it
// returns, every packet taken from then on is judged by the sets as they are. What it costs is that the next packet of each
// such connection and direction walks the rules; others, such as those that a rule for ESTABLISHED accepts before any set is
// asked, keep theirs.
func (e *Engine) SetsChanged(ctx context.Context) error {
	e.reload.Lock()
	defer e.reload.Unlock()
	e.mu.Lock()
	e.epochs = e.epochs.withSets()
	next := e.epochs
	e.mu.Unlock()
	for _, w := range e.workers {
		if err := e.ask(ctx, w, func() { w.enter(next) }); err != nil {
			return err
		}
	}
	return nil
}
