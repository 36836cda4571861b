package dataplane

import (
	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/ring"
)

// PortCounters counts frames and bytes (whole frames, without FCS) of one port of one worker.
type PortCounters struct {
	RxFrames, RxBytes uint64 // taken from the port
	TxFrames, TxBytes uint64 // given to the port's TX ring
}

// Counters are a worker's counters since start. The worker alone writes them; others get copies through a command.
type Counters struct {
	Port    [packet.Ports]PortCounters
	Verdict [len(verdictNames)]uint64 // frames by verdict
	Drop    [DropReasons]uint64       // dropped frames by reason
	State   [conntrack.States]uint64  // packets by connection state, as the rules saw them
	Class   [packet.Classes]uint64    // frames by link-layer class
	Cached  uint64                    // packets decided by the verdict cached on their entry
	Matched uint64                    // packets decided by walking the rules
	Handed  uint64                    // frames handed to other workers
	Taken   uint64                    // frames taken over from other workers
	// Answered counts the frames that REJECT rules sent back. They are in TxFrames of their port, but in no Verdict.
	Answered uint64
	Limited  uint64 // ICMP errors that REJECT rules did not send because of Config.ICMP
	// EventsTold counts the events of connections given to listeners, EventsLost those that a listener did not keep up with:
	// each event counts once for every listener.
	EventsTold, EventsLost uint64

	Logged  uint64 // packets told of by LOG and NFLOG rules, once for each rule
	LogLost uint64 // of which nobody could be told, because too many came at once

	Loops  uint64 // turns of the worker's loop
	Busy   uint64 // turns that found at least one frame
	Sleeps uint64 // times the worker slept for lack of frames
	// MaxBurst is the largest burst; MaxTurn the longest turn of the loop in ns, sleeping excluded.
	MaxBurst, MaxTurn uint64
}

// WorkerStats is one worker's part of Stats.
type WorkerStats struct {
	Worker    int
	Counters  Counters
	Conntrack conntrack.Counters
	Entries   int // entries in this worker's shard
	Buckets   int // of its table, as they are now
	Fragments conntrack.DefragCounters
	Regrouped conntrack.DefragCounters // of fragments that other workers handed over, which are in their Fragments as well
	Held      int                      // frames that wait in the fragment store
	HandedOff int                      // frames in hand-off rings towards this worker
	Account   ring.Account
	Wire      ring.Stats
}

// Stats is a snapshot of the engine: each worker's at a moment between two of its bursts.
type Stats struct {
	Workers []WorkerStats
	Entries int // over all shards
	Max     int // maximum number of entries over all shards

	Expected  int // connections that helpers expect
	ExpectMax int // and their maximum
	Expect    conntrack.ExpectCounters

	Listeners              int    // to events of either kind
	ExpectTold, ExpectLost uint64 // events of expectations given to listeners, and lost to them
}

// Total adds the workers' counters; maxima are the largest of all.
func (s *Stats) Total() Counters {
	var t Counters
	for i := range s.Workers {
		c := &s.Workers[i].Counters
		for p := range t.Port {
			t.Port[p].RxFrames += c.Port[p].RxFrames
			t.Port[p].RxBytes += c.Port[p].RxBytes
			t.Port[p].TxFrames += c.Port[p].TxFrames
			t.Port[p].TxBytes += c.Port[p].TxBytes
		}
		for j := range t.Verdict {
			t.Verdict[j] += c.Verdict[j]
		}
		for j := range t.Drop {
			t.Drop[j] += c.Drop[j]
		}
		for j := range t.State {
			t.State[j] += c.State[j]
		}
		for j := range t.Class {
			t.Class[j] += c.Class[j]
		}
		t.Cached += c.Cached
		t.Matched += c.Matched
		t.Handed += c.Handed
		t.Taken += c.Taken
		t.Answered += c.Answered
		t.Limited += c.Limited
		t.EventsTold += c.EventsTold
		t.EventsLost += c.EventsLost
		t.Logged += c.Logged
		t.LogLost += c.LogLost
		t.Loops += c.Loops
		t.Busy += c.Busy
		t.Sleeps += c.Sleeps
		t.MaxBurst = max(t.MaxBurst, c.MaxBurst)
		t.MaxTurn = max(t.MaxTurn, c.MaxTurn)
	}
	return t
}
