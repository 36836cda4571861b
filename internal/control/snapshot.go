package control

import (
	"strings"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/packet"
	"corewire/ring"
)

// newStats puts the engine's snapshot into the API's form.
func newStats(s *dataplane.Stats) Stats {
	out := Stats{Entries: s.Entries, Max: s.Max, Listeners: s.Listeners, Expect: ExpectStats{
		Entries: s.Expected, Max: s.ExpectMax, Events: EventCounters{s.ExpectTold, s.ExpectLost},
		Counters: map[string]uint64{"new": s.Expect.New, "create": s.Expect.Create, "delete": s.Expect.Delete, "full": s.Expect.Full},
	}}
	sum := dataplane.WorkerStats{Counters: s.Total()}
	for i := range s.Workers {
		w := &s.Workers[i]
		out.Workers = append(out.Workers, newCounters(w))
		sum.Conntrack.Add(&w.Conntrack)
		sum.Wire.Add(&w.Wire)
		sum.Account.Add(&w.Account)
		sum.Entries += w.Entries
		sum.Buckets += w.Buckets
		sum.Held += w.Held
		sum.HandedOff += w.HandedOff
	}
	out.Total = newCounters(&sum)
	for i := range out.Workers {
		for outcome, n := range out.Workers[i].Fragments {
			out.Total.Fragments[outcome] += n
		}
		for outcome, n := range out.Workers[i].Regrouped {
			out.Total.Regrouped[outcome] += n
		}
	}
	ledger := s.Ledger()
	out.Total.Chunks.Balanced = ledger.Balanced()
	return out
}

func newCounters(w *dataplane.WorkerStats) Counters {
	c := &w.Counters
	out := Counters{
		Ports: map[string]PortCounters{}, Verdicts: map[string]uint64{}, Drops: map[string]uint64{}, States: map[string]uint64{}, Classes: map[string]uint64{},
		Cached: c.Cached, Matched: c.Matched, Logged: c.Logged, LogLost: c.LogLost, Handed: c.Handed, Taken: c.Taken, Loops: c.Loops, Busy: c.Busy, Sleeps: c.Sleeps,
		MaxBurst: c.MaxBurst, MaxTurn: c.MaxTurn, Answered: c.Answered, Limited: c.Limited, Events: EventCounters{c.EventsTold, c.EventsLost},
		Entries: w.Entries, Buckets: w.Buckets, Held: w.Held,
		Conntrack: trackerCounters(&w.Conntrack),
		Invalid:   map[string]uint64{},
		Passed:    map[string]uint64{},
		Fragments: fragmentCounters(&w.Fragments),
		Regrouped: fragmentCounters(&w.Regrouped),
		Chunks: Chunks{
			Total: w.Account.Total, Free: w.Account.Free, Returning: w.Account.Returning, Fill: w.Account.Fill, RX: w.Account.RX, TX: w.Account.TX,
			Completion: w.Account.Completion, Caller: w.Account.Caller, HandedOff: w.HandedOff, Held: w.Held,
		},
	}
	for p := range packet.Port(packet.Ports) {
		from := &c.Port[p]
		out.Ports[p.String()] = PortCounters{RxFrames: from.RxFrames, RxBytes: from.RxBytes, TxFrames: from.TxFrames, TxBytes: from.TxBytes, Wire: wireCounters(&w.Wire.Port[p])}
	}
	for v := range c.Verdict {
		if v := dataplane.Verdict(v); v != dataplane.Pending {
			out.Verdicts[v.String()] = c.Verdict[v]
		}
	}
	for r := range c.Drop {
		if name := dataplane.DropReason(r).String(); name != "" && name != "none" {
			out.Drops[name] += c.Drop[r]
		}
	}
	for r := range w.Conntrack.InvalidBy {
		if name := conntrack.Reason(r).String(); name != "" && name != "none" {
			name = strings.ReplaceAll(name, " ", "_")
			out.Invalid[name], out.Passed[name] = w.Conntrack.InvalidBy[r], w.Conntrack.PassedBy[r]
		}
	}
	for s := range c.State {
		out.States[conntrack.State(s).String()] = c.State[s]
	}
	for k := range c.Class {
		out.Classes[packet.Class(k).String()] = c.Class[k]
	}
	return out
}

// trackerCounters names the counters as the kernel does, and as it did in /proc/net/stat/nf_conntrack.
func trackerCounters(c *conntrack.Counters) map[string]uint64 {
	m := map[string]uint64{
		"found": c.Found, "invalid": c.Invalid, "insert": c.Insert, "insert_failed": c.InsertFailed, "drop": c.Drop, "early_drop": c.EarlyDrop,
		"error": c.Error, "search_restart": c.SearchRestart, "clash_resolve": c.ClashResolve, "chaintoolong": c.ChainTooLong,
		"new": c.New, "delete": c.Delete, "expired": c.Expired, "collected": c.Collected, "full": c.Full, "untracked": c.Untracked, "helped": c.Helped,
	}
	return m
}

// KernelCounters are the names of connection tracking's counters that `conntrack -S` prints, in its order.
var KernelCounters = [...]string{"found", "invalid", "insert", "insert_failed", "drop", "early_drop", "error", "search_restart", "clash_resolve", "chaintoolong"}

// wireCounters names the counters of a port's driver, and the kernel's as struct xdp_statistics does.
func wireCounters(p *ring.PortStats) map[string]uint64 {
	return map[string]uint64{
		"tx_full": p.TXFull, "tx_down": p.TXDown, "tx_lost": p.TXLost, "rx_bad": p.RXBad, "tx_bad": p.TXBad, "fill_short": p.FillShort, "kicks": p.Kicks, "wakeups": p.Wakeups,
		"xsk_rx_dropped": p.KernelRXDropped, "xsk_rx_invalid_descs": p.KernelRXInvalid, "xsk_tx_invalid_descs": p.KernelTXInvalid,
		"xsk_rx_ring_full": p.KernelRXFull, "xsk_rx_fill_ring_empty_descs": p.KernelFillEmpty, "xsk_tx_ring_empty_descs": p.KernelTXRingEmpty,
	}
}

// fragmentCounters names the fragment store's counters.
func fragmentCounters(c *conntrack.DefragCounters) map[string]uint64 {
	m := map[string]uint64{"fragments": c.Fragments, "completed": c.Completed, "passed": c.Passed, "timeouts": c.Timeouts, "evicted": c.Evicted, "restarted": c.Restarted}
	for r := range c.Broken {
		if name := conntrack.DefragReason(r).String(); name != "" && name != "none" {
			m["broken_"+strings.ReplaceAll(name, "-", "_")] = c.Broken[r]
		}
	}
	return m
}
