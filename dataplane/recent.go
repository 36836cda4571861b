package dataplane

import (
	"context"

	"corewire/rules"
)

// Recall calls f with the rule set in force and the time by which its rules remember (Context.Now): for reading and changing
// lists of -m recent, which workers use at the same time. No other rule set is put in force meanwhile.
func (e *Engine) Recall(ctx context.Context, f func(rs *rules.Ruleset, now int64) error) error {
	e.reload.Lock()
	defer e.reload.Unlock()
	w, now := e.workers[0], make(chan int64, 1)
	if err := e.ask(ctx, w, func() { now <- w.since(w.now) }); err != nil {
		return err
	}
	return f(e.Ruleset(), <-now)
}
