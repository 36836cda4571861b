package dataplane

import (
	"context"
	"errors"
	"time"

	"corewire/rules"
)

// Changes of one rule take room in what was compiled, and the one that finds none left compiles everything anew, while its
// operator waits (package rules, One-rule changes). So the control goroutine has the rules compiled anew before: beside it, and
// without any lock. Changes that come meanwhile are carried out on the rules compiled anew before these come into force.

// When the rules in force are compiled anew, by how much of the room is taken, in percent. Less makes compiling, which takes
// a processor for up to a second with the largest rule sets, more frequent; more leaves less room for a burst of changes.
const (
	quietTime  = time.Second // without a change: then nobody is likely to make one meanwhile
	quietShare = 25          // is enough at a quiet time
	nearShare  = 50          // is enough at any time
	neverNear  = 101         // no share is enough at any time
)

// recompiler is what the control goroutine, who alone uses it, knows of the rules in force.
type recompiler struct {
	e     *Engine
	seen  *rules.Ruleset // in force at the last look
	since time.Time      // of the first look at it
	near  int            // share that is enough at any time: nearShare, or neverNear once it failed
	tried *rules.Ruleset // being compiled anew; nil: none
	ended chan error     // what became of it
	lame  *rules.Ruleset // in force, and cannot be compiled anew; nil: none
}

func newRecompiler(e *Engine) *recompiler {
	return &recompiler{e: e, near: nearShare, ended: make(chan error, 1)}
}

// look has the rules in force compiled anew, if it is time. It does not wait.
func (r *recompiler) look(ctx context.Context, now time.Time) {
	rs := r.e.Ruleset()
	if rs != r.seen {
		r.seen, r.since = rs, now
	}
	if rs != r.lame {
		r.lame = nil
	}
	filled := rs.Filled()
	if filled < nearShare {
		r.near = nearShare
	}
	quiet := filled >= quietShare && now.Sub(r.since) >= quietTime
	if r.tried != nil || r.lame != nil || !quiet && filled < r.near {
		return
	}
	r.tried = rs
	r.e.beside.Go(func() { r.ended <- r.e.replace(ctx, rs) })
}

// end takes note of what became of rules that were compiled anew.
func (r *recompiler) end(err error) {
	tried := r.tried
	r.tried = nil
	switch {
	case err == nil:
		r.e.recompiled.Add(1)
	case errors.Is(err, ErrSuperseded): // others are in force
	case errors.Is(err, context.Canceled): // the engine stops
	default:
		r.lame, r.near = tried, neverNear
		r.e.notify(Event{Kind: EventNotRecompiled, Err: err})
	}
}

// replace compiles rules anew and puts them in the place of the same rules, with the changes that were made meanwhile. Where other
// rules are in force it says ErrSuperseded.
func (e *Engine) replace(ctx context.Context, from *rules.Ruleset) error {
	to, m, err := e.recompile(from)
	if err != nil {
		return err
	}
	defer e.KeepRuleset()()
	now := e.Ruleset()
	to, m, ok := now.Replay(from, to, m)
	if !ok {
		return ErrSuperseded
	}
	return e.SwapRuleset(ctx, Swap{Ruleset: to, From: now, Mapping: m})
}

// KeepRuleset keeps the control goroutine from putting the rules in force, compiled anew, in their own place until release is
// called: for whoever makes other rules of them, to be put in force by SwapRuleset with From, or zeroes their counters. Of
// several who do, each waits for the others.
func (e *Engine) KeepRuleset() (release func()) {
	e.keep.Lock()
	return e.keep.Unlock
}

// Recompiled returns how often the rules in force were compiled anew after changes, by the engine itself.
func (e *Engine) Recompiled() int { return int(e.recompiled.Load()) }
