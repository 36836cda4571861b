package dataplane

import "corewire/rules"

// Verdict is what became of a frame.
type Verdict uint8

const (
	Pending Verdict = iota // not decided yet; never seen outside a burst
	Accept                 // forwarded to the other port
	Drop                   // freed; a DropReason says why
	Hold                   // a fragment that waits for the rest of its datagram
	Moved                  // handed to the worker that owns its flow, which will decide
)

var verdictNames = [...]string{"pending", "accept", "drop", "hold", "moved"}

// String returns the verdict in the spelling of logs and JSON.
func (v Verdict) String() string { return verdictNames[v] }

// A verdict cached on an entry is one word: an epoch above, the trace below; 0 is none.
const (
	traceMask = 1<<rules.TraceBits - 1
	maxEpoch  = 1<<(32-rules.TraceBits) - 1
)

// epochs are what the cached verdicts that count have above their traces: plain those for which no set was asked, asked the
// others. The two are never equal, and a change takes numbers that none had before: one of the rules two, one of the sets
// one, for it leaves alone what asked no set. When the numbers are used up they begin again, and all caches are cleared.
type epochs struct{ plain, asked uint32 }

// firstEpochs are those of an engine's first rule set.
func firstEpochs() epochs { return epochs{1, 2} }

// withRules returns the epochs behind a change of the rules.
func (e epochs) withRules() epochs {
	if e.asked+2 > maxEpoch {
		return firstEpochs()
	}
	return epochs{e.asked + 1, e.asked + 2}
}

// withSets returns the epochs behind a change of sets.
func (e epochs) withSets() epochs {
	if e.asked+1 > maxEpoch {
		return firstEpochs()
	}
	return epochs{e.plain, e.asked + 1}
}

// counts says that a cached verdict counts.
func (e *epochs) counts(cached uint32) bool {
	n := cached >> rules.TraceBits
	return n == e.plain || n == e.asked
}

// verdict returns what is cached for a result.
func (e *epochs) verdict(r rules.Result) uint32 {
	if r.Keep == rules.KeepUntilSets {
		return e.asked<<rules.TraceBits | r.Trace
	}
	return e.plain<<rules.TraceBits | r.Trace
}

// enter has the worker go by other epochs from now on.
func (w *Worker) enter(e epochs) {
	w.epochs = e
	if e == firstEpochs() { // the numbers begin again: verdicts cached before must not be taken for new ones
		w.table.ClearVerdicts()
	}
}
