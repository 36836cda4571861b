package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/config"
	"corewire/internal/ipset"
	"corewire/internal/packet"
	"corewire/ring"
	"corewire/rules"
)

// Options are what a Firewall is given beside its settings.
type Options struct {
	Version string                         // of the program, for status and metrics
	Load    func() (*config.Config, error) // reads the settings again for Reload; nil: they stay, only rule files are read again
	Notify  func(dataplane.Event)          // what the operator should know; called by one goroutine; nil: nobody
	Log     func(slog.Level, string)       // lines of LOG rules, and what goes wrong with the packet log; called by one goroutine; nil: nobody
	Changed func(*config.Config)           // called after settings have changed in the running firewall; nil: nobody

	sets *ipset.Registry // the sets of the rules; nil: a registry without sets
}

// Firewall is a wire at work and everything that an operator sees or changes of it. Methods may be called from any
// goroutine.
type Firewall struct {
	engine  *dataplane.Engine
	link    link // nil over wires that are no interfaces
	sets    *ipset.Registry
	options Options
	started time.Time
	logbook *logbook
	memory  uint64 // bytes of the machine, for limits that follow from it

	change  sync.Mutex // one change at a time
	config  atomic.Pointer[config.Config]
	reloads atomic.Int64
	edits   atomic.Int64 // changes of rules since their files were read
	crashed atomic.Bool  // a worker panicked: the wire is left to its fail mode
}

// link is what a Firewall needs of the two interfaces under it.
type link interface {
	Wires() []ring.Wire
	Report() ring.Report
	Beat(worker int, ns int64)
	XDP() (map[string]map[string]uint64, error) // frames by port and by what the XDP program did with them
	Close() error                               // detaches and restores the interfaces' settings
	Abandon() error                             // leaves the interfaces to the fail mode, at once
}

// RefusedError says that a change was refused and nothing was changed.
type RefusedError struct{ Err error }

// Error returns the reason, with the assurance.
func (e *RefusedError) Error() string { return e.Err.Error() + "\nnothing was changed" }

// Unwrap returns the reason.
func (e *RefusedError) Unwrap() error { return e.Err }

// Open makes a firewall between the two interfaces that the settings name, ready to run. Everything that can be found
// wrong without touching an interface is looked at first; on error nothing is left attached or changed. Close undoes it.
func Open(c *config.Config, o Options) (*Firewall, error) {
	o.sets = ipset.New(ipset.Options{})
	stage, err := c.StageSets(o.sets, 0)
	if err != nil {
		return nil, err
	}
	rs, err := c.LoadRulesFor(stage)
	if err != nil {
		return nil, err
	}
	stage.Commit(0)
	l, err := openLink(c)
	if err != nil {
		return nil, err
	}
	f, err := newFirewall(c, rs, l.Wires(), l, o)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return f, nil
}

// newFirewall makes a firewall over wires; l may be nil.
func newFirewall(c *config.Config, rs *rules.Ruleset, wires []ring.Wire, l link, o Options) (*Firewall, error) {
	memory, err := config.Memory()
	if err != nil {
		return nil, err
	}
	if o.sets == nil {
		o.sets = ipset.New(ipset.Options{})
	}
	f := &Firewall{link: l, options: o, sets: o.sets, started: time.Now(), memory: memory}
	f.config.Store(c)
	setup := c.Engine(rs, memory)
	if f.logbook, err = newLogbook(c, o.Log); err != nil {
		return nil, err
	}
	setup.Sets = f.sets
	setup.Wires, setup.Notify, setup.Log = wires, o.Notify, f.logbook.take
	if setup.CPUs, err = c.Pin(len(wires)); err != nil {
		return nil, errors.Join(err, f.logbook.close())
	}
	if l != nil {
		setup.Beat = l.Beat
		ports := l.Report().Port
		setup.MTU = min(ports[packet.Inside].MTU, ports[packet.Outside].MTU)
	}
	if f.engine, err = dataplane.New(setup); err != nil {
		return nil, errors.Join(err, f.logbook.close())
	}
	f.logbook.engine.Store(f.engine)
	if c.RuleCounters == "file" {
		swap := dataplane.Swap{Ruleset: rs}
		swap.Counters, swap.Set = rs.FileCounters()
		if err := f.engine.SwapRuleset(context.Background(), swap); err != nil { // no worker runs yet
			return nil, errors.Join(err, f.engine.Close(), f.logbook.close())
		}
	}
	return f, nil
}

// Run forwards frames until ctx ends (nil), a port has gone, or a worker panicked.
func (f *Firewall) Run(ctx context.Context) error {
	err := f.engine.Run(ctx)
	if _, ok := errors.AsType[*dataplane.PanicError](err); ok {
		f.crashed.Store(true)
	}
	return err
}

// Close detaches from the interfaces, restores their settings and frees the connections. Run must have returned. After
// a panic the XDP program stays attached, so that the fail mode holds, until `corewire release` or the next start.
func (f *Firewall) Close() error {
	err := errors.Join(f.engine.Close(), f.logbook.close())
	if f.link == nil {
		return err
	}
	if f.crashed.Load() {
		return errors.Join(err, f.link.Abandon(),
			fmt.Errorf("the XDP program stays attached and fails %s (corewire release removes it, corewire run takes over)", f.Config().FailMode))
	}
	return errors.Join(err, f.link.Close())
}

// Config returns the settings in force.
func (f *Firewall) Config() *config.Config { return f.config.Load() }

// Warnings returns what in the rule files in force has no effect, a sentence each with its place.
func (f *Firewall) Warnings() []string { return warnings(f.engine.Ruleset()) }

func warnings(rs *rules.Ruleset) []string {
	out := []string{}
	for _, w := range rs.Warnings() {
		out = append(out, w.String())
	}
	return out
}

// Status says what runs.
func (f *Firewall) Status() Status {
	c := f.Config()
	s := Status{Version: f.options.Version, PID: os.Getpid(), Uptime: time.Since(f.started).Seconds(), Rules: f.engine.Ruleset().Len(),
		Reloads: int(f.reloads.Load()), Changes: int(f.edits.Load()), Recompiled: f.engine.Recompiled(), Config: c.Path(), Workers: f.engine.Workers()}
	if f.link != nil {
		s.Wire = newWire(f.link.Report())
	}
	s.Wire.FailMode = c.FailMode
	return s
}

// Stats returns all counters.
func (f *Firewall) Stats(ctx context.Context) (Stats, error) {
	s, err := f.engine.Stats(ctx)
	if err != nil {
		return Stats{}, err
	}
	out := newStats(&s)
	if f.link != nil {
		if out.XDP, err = f.link.XDP(); err != nil {
			return Stats{}, err
		}
	}
	return out, nil
}

// Healthy returns an error unless every worker answers.
func (f *Firewall) Healthy(ctx context.Context) error {
	_, err := f.engine.Stats(ctx)
	return err
}

// Count returns the number of tracked connections and their maximum.
func (f *Firewall) Count() Count {
	most := f.Config().Limit(f.memory)
	return Count{Count: f.engine.Count(), Max: most}
}

// Trackers returns the counters of connection tracking by worker.
func (f *Firewall) Trackers(ctx context.Context) ([]TrackerStats, error) {
	s, err := f.engine.Stats(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]TrackerStats, len(s.Workers))
	for i := range s.Workers {
		w := &s.Workers[i]
		out[i] = TrackerStats{Worker: w.Worker, Entries: w.Entries, Counters: trackerCounters(&w.Conntrack)}
	}
	return out, nil
}

// Connections calls visit with all tracked connections, some at a time.
func (f *Firewall) Connections(ctx context.Context, visit func([]conntrack.Info) error) error {
	return f.engine.Connections(ctx, visit)
}

// Flush deletes all tracked connections.
func (f *Firewall) Flush(ctx context.Context) (int, error) { return f.engine.Flush(ctx) }

// Change changes settings, names to texts, all of them or none (*RefusedError, or config.Problems for mistakes).
func (f *Firewall) Change(ctx context.Context, settings map[string]string) ([]config.Change, error) {
	f.change.Lock()
	defer f.change.Unlock()
	from := f.Config()
	to, err := from.With(settings)
	if err != nil {
		return nil, err
	}
	changes, err := config.Changes(from, to)
	if err != nil {
		return nil, &RefusedError{err}
	}
	var rs *rules.Ruleset
	var stage *ipset.Stage
	if from.Sets != to.Sets || from.Rules != to.Rules || from.Rules4 != to.Rules4 || from.Rules6 != to.Rules6 {
		if stage, err = to.StageSets(f.sets, f.engine.Now()); err != nil {
			return nil, &RefusedError{err}
		}
		if rs, err = to.LoadRulesFor(stage); err != nil {
			return nil, &RefusedError{err}
		}
	}
	if rs == nil { // those that stay need the timeout policies that they name
		if err := f.engine.Ruleset().CheckTimeouts(to.Tracking().TimeoutPolicies()); err != nil {
			return nil, &RefusedError{err}
		}
	}
	var swap *dataplane.Swap
	if rs != nil {
		swap = &dataplane.Swap{Ruleset: rs}
	}
	if err := f.apply(ctx, from, to, swap, stage); err != nil {
		return nil, err
	}
	if changes == nil {
		changes = []config.Change{}
	}
	return changes, nil
}

// apply puts settings and, unless swap is nil, a rule set in force. Everything has been checked by now; what can still fail is
// a worker that does not answer, and then the settings are put back.
func (f *Firewall) apply(ctx context.Context, from, to *config.Config, swap *dataplane.Swap, stage *ipset.Stage) error {
	if from.Tracking() != to.Tracking() { // immutable: another one is another value
		if err := f.engine.SetSettings(ctx, to.Tracking()); err != nil {
			return errors.Join(err, f.back(from))
		}
	}
	if from.Buckets != to.Buckets {
		if err := f.engine.SetBuckets(ctx, to.Buckets); err != nil {
			return errors.Join(err, f.back(from))
		}
	}
	if swap != nil {
		stage.Commit(f.engine.Now()) // a moment before the rules: the former ones see the new sets
		if err := f.engine.SwapRuleset(ctx, *swap); err != nil {
			return errors.Join(err, f.back(from))
		}
		stage.Finish()
		f.reloads.Add(1)
	}
	if most := to.Limit(f.memory); most != f.Count().Max {
		f.engine.SetMax(most)
	}
	if from.ICMP != to.ICMP {
		f.engine.SetICMPLimits(to.ICMP)
	}
	f.logbook.rate.Store(int64(to.LogRate))
	f.config.Store(to)
	if f.options.Changed != nil {
		f.options.Changed(to)
	}
	return nil
}

// back puts connection tracking's settings back, for workers that answer again within askTimeout.
func (f *Firewall) back(c *config.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	return errors.Join(f.engine.SetSettings(ctx, c.Tracking()), f.engine.SetBuckets(ctx, c.Buckets))
}
