package dataplane

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"corewire/conntrack"
	"corewire/internal/ipset"
	"corewire/internal/packet"
	"corewire/ring"
	"corewire/rules"
)

// Policy says what happens to frames of a class that is not IP.
type Policy uint8

const (
	Pass  Policy = iota // forwarded unchanged, not tracked, not matched against rules
	Block               // dropped, DropClass
)

// Zones says what a connection's zone is. Connections of different zones have nothing to do with each other, though their
// addresses and ports be the same (Documentation of nf_conntrack_zones; `-j CT --zone` in the raw table).
type Zones uint8

const (
	ZoneNone Zones = iota // always 0
	ZoneVLAN              // the id of the outermost VLAN tag, 0 without a tag
)

// Tags is how many VLAN tags a frame may have for its IP packet to be tracked and judged; with more the frame is of class
// other. The zero value is AllTags; NoTags is what a Linux bridge does with bridge-nf-filter-vlan-tagged=0, and 1 what it
// does with 1: it looks behind one tag and passes what has two unseen (vlan_proto, net/bridge/br_netfilter_hooks.c).
type Tags int

const (
	NoTags  Tags = -1
	AllTags Tags = 0 // as many as packet.MaxTags
)

// depth returns the number of tags.
func (t Tags) depth() int {
	switch {
	case t == AllTags:
		return packet.MaxTags
	case t < 0:
		return 0
	}
	return min(int(t), packet.MaxTags)
}

// DefaultBurst is the number of frames a worker takes from a port at once. 64 gives the memory system enough misses to
// overlap; more adds latency and pushes the packets' parses out of the first-level cache.
const DefaultBurst = 64

// MaxBurst is the largest burst that New accepts.
const MaxBurst = 1024

// Config is what an Engine is made of. Wires and Ruleset are required.
type Config struct {
	Wires   []ring.Wire     // one per worker, over one pool; the engine does not close them
	Ruleset *rules.Ruleset  // in force from the first frame
	Sets    *ipset.Registry // where the rule set's sets are; nil: its rules name none

	Max      int                 // entries over all shards; 0: no bound, as in Linux
	Buckets  int                 // buckets that the table keeps at least, over all shards; 0: it begins small
	Settings *conntrack.Settings // nil: Linux's defaults

	// Secret keys the hash of the table. nil: a random one, which is right everywhere but in tests.
	Secret *[packet.HasherSecret]uint64

	Zones             Zones // what a connection's zone is
	Tags              Tags  // how many VLAN tags are looked behind
	Fragments         int   // frames that wait in a worker for the rest of their datagrams, at most; 0: by the worker's chunks
	DatagramFragments int   // fragments of one datagram, at most, up to conntrack.MostFragments; 0: conntrack.MaxFragments
	AnyOrigin         bool  // fragments from any port and VLAN make one datagram, as in Linux

	ICMP *ICMPLimits // of REJECT's answers; nil: no bound

	Policy [packet.Classes]Policy // for classes that are not IP; the zero value passes them
	Burst  int                    // frames per burst, 1 to MaxBurst; 0: DefaultBurst
	MTU    int                    // the lesser of both ports', in bytes, for rules that clamp segments to it; 0: not known
	CPUs   []int                  // worker i is pinned to CPUs[i]; workers without an element are not pinned
	Spin   time.Duration          // how long a worker looks for frames before it sleeps; 0: it sleeps at once

	Beat   func(worker int, ns int64) // called once a turn by the worker itself; nil: nobody listens
	Clock  func() int64               // ns, monotonic; nil: CLOCK_MONOTONIC
	Wall   func() time.Time           // the time of day, for rules that ask it; asked by New and then by control, not on a frame's way; nil: time.Now
	Notify func(Event)                // called by the control goroutine only; nil: nobody listens

	// Log is called with what LOG and NFLOG rules tell, in the order of each worker, by one goroutine of the engine's, or
	// by Step's caller. It may keep nothing of the slice. nil: nobody listens.
	Log func([]Logged)

	// Record keeps the result of every frame of a step in Worker.Results. It allocates, and is for replay and tests.
	Record bool
}

// Engine is a wire at work: its workers and their control. Methods may be called from any goroutine unless they say
// otherwise.
type Engine struct {
	workers  []*Worker
	capacity *conntrack.Capacity
	expect   *conntrack.Expectations
	cpus     []int
	spin     int64
	beat     func(int, int64)
	clock    func() int64
	origin   int64 // the clock's value at tick 0
	wall     func() time.Time
	// wallOffset is the time of day in ms since 1970-01-01T00:00:00Z when the engine's clock was at its origin. Control
	// writes it, as the time of day may be set.
	wallOffset atomic.Int64
	notify     func(Event)
	icmp       *icmpLimiter
	sets       *ipset.Registry // nil for none
	maintained conntrack.Tick  // by Step: when sets were looked after
	log        func([]Logged)
	logged     []Logged // room for log
	stop       atomic.Bool

	beside    sync.WaitGroup // goroutines beside the workers: memory being made ready, rules compiled anew, the log
	listeners listeners[conntrack.Event]

	expectListeners        listeners[conntrack.ExpectEvent]
	expectTold, expectLost atomic.Uint64 // events of expectations given to listeners, and lost to them

	ticks      func() (<-chan time.Time, func())                           // controlTicks, or a test's
	recompile  func(*rules.Ruleset) (*rules.Ruleset, rules.Mapping, error) // (*rules.Ruleset).Recompile, or a test's
	recompiled atomic.Int64
	keep       sync.Mutex // held by whoever makes a rule set of the one in force, see KeepRuleset; taken before reload

	reload  sync.Mutex      // one change of the rule set at a time; guards counted
	counted []rules.Counter // what the rules in force have counted and no worker's matcher has: nil, or by RuleID
	mu      sync.Mutex      // guards what follows; never taken by workers
	running bool
	done    chan struct{} // closed when Run has joined the workers
	ruleset *rules.Ruleset
	epochs  epochs
}

// New makes an engine that is ready to run. It allocates the connection table; Close frees it.
func New(c Config) (*Engine, error) {
	switch {
	case len(c.Wires) == 0:
		return nil, errors.New("new engine: no wires (one is needed per worker)")
	case c.Ruleset == nil:
		return nil, errors.New("new engine: no rule set")
	case c.Burst < 0 || c.Burst > MaxBurst:
		return nil, fmt.Errorf("new engine: burst %d is out of range (0 for the default, or 1 to %d)", c.Burst, MaxBurst)
	case len(c.CPUs) > len(c.Wires):
		return nil, fmt.Errorf("new engine: %d cpus for %d workers", len(c.CPUs), len(c.Wires))
	}
	if c.Fragments < 0 || c.DatagramFragments < 0 || c.DatagramFragments > conntrack.MostFragments {
		return nil, fmt.Errorf("new engine: %d fragments, %d of a datagram are out of range (at most %d of a datagram)", c.Fragments, c.DatagramFragments, conntrack.MostFragments)
	}
	if c.DatagramFragments == 0 {
		c.DatagramFragments = conntrack.MaxFragments
	}
	if c.Burst == 0 {
		c.Burst = DefaultBurst
	}
	if c.Settings == nil {
		c.Settings = conntrack.DefaultSettings()
	}
	if c.Clock == nil {
		clock, err := monotonic()
		if err != nil {
			return nil, fmt.Errorf("new engine: read the monotonic clock: %w", err)
		}
		c.Clock = clock
	}
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.Secret == nil {
		c.Secret = new([packet.HasherSecret]uint64)
		for i := range c.Secret {
			var b [8]byte
			rand.Read(b[:]) // never fails (crypto/rand)
			c.Secret[i] = binary.LittleEndian.Uint64(b[:])
		}
	}
	if c.Beat == nil {
		c.Beat = func(int, int64) {}
	}
	if c.Notify == nil {
		c.Notify = func(Event) {}
	}
	e := &Engine{
		capacity: conntrack.NewCapacity(c.Max, len(c.Wires)),
		cpus:     c.CPUs,
		spin:     int64(c.Spin),
		beat:     c.Beat,
		clock:    c.Clock,
		origin:   c.Clock(),
		wall:     c.Wall,
		icmp:     newICMPLimiter(*c.Secret, c.ICMP),
		sets:     c.Sets,
		notify:   c.Notify,
		log:      c.Log,
		done:     make(chan struct{}),
		ruleset:  c.Ruleset,
		epochs:   firstEpochs(),

		ticks:     controlTicks,
		recompile: (*rules.Ruleset).Recompile,
	}
	most, err := c.Settings.Get("nf_conntrack_expect_max")
	if err == nil {
		e.expect, err = conntrack.NewExpectations(int(most))
	}
	if err != nil {
		return nil, fmt.Errorf("new engine: %w", err)
	}
	e.readWall()
	for i, wire := range c.Wires {
		w, err := newWorker(i, wire, e.capacity, e.expect, &c)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("new engine: worker %d: %w", i, err), e.Close())
		}
		w.wall, w.icmp, w.context.MTU = &e.wallOffset, e.icmp, uint32(max(c.MTU, 0))
		e.workers = append(e.workers, w)
	}
	connect(e.workers, &c)
	if err := e.hold(c.Ruleset); err != nil {
		return nil, errors.Join(fmt.Errorf("new engine: %w", err), e.Close())
	}
	if e.log != nil {
		e.logged = make([]Logged, 64)
		for _, w := range e.workers {
			w.logs.ring = ring.NewSPSC[Logged](logRing)
		}
	}
	return e, nil
}

// newWorker makes a worker with its shard; connect gives it its hand-off rings.
func newWorker(id int, wire ring.Wire, capacity *conntrack.Capacity, expect *conntrack.Expectations, c *Config) (*Worker, error) {
	table, err := conntrack.New(conntrack.Config{Capacity: capacity, Expectations: expect, Settings: c.Settings, Secret: *c.Secret, Buckets: c.Buckets / len(c.Wires)})
	if err != nil {
		return nil, err
	}
	// Fragments may keep an eighth of the worker's chunks, but enough for a datagram of the usual size; if it is set
	// otherwise, as many as leave enough to forward with.
	var chunks ring.Account
	wire.Account(&chunks)
	held := c.Fragments
	if chunks.Total > 0 && held == 0 {
		held = min(1024, max(64, chunks.Total/8))
	} else if chunks.Total > 0 {
		held = min(held, chunks.Total*3/4)
	}
	limits := c.Settings.Defrag(len(c.Wires))
	limits.DatagramFrames, limits.AnyOrigin = c.DatagramFragments, c.AnyOrigin
	limits.Frames = held
	w := &Worker{
		id:        id,
		wire:      wire,
		table:     table,
		defrag:    conntrack.NewDefrag(limits),
		regroup:   conntrack.NewDefrag(limits),
		epochs:    firstEpochs(),
		policy:    c.Policy,
		zones:     c.Zones,
		deepest:   packet.Behind(c.Tags.depth()),
		recording: c.Record,
		frames:    make([]packet.Frame, c.Burst),
		packets:   make([]packet.Packet, c.Burst),
		free:      make([]packet.Frame, 0, 4*c.Burst),
		late:      make([]conntrack.Late, 64),
		commands:  make(chan func(), 16),
	}
	w.use(c.Ruleset.NewMatcher())
	if err := w.keepTickets(c.Ruleset); err != nil {
		return nil, errors.Join(err, table.Close())
	}
	for p := range w.tx {
		w.tx[p] = make([]packet.Frame, 0, 2*c.Burst)
		w.answers[p] = make([]packet.Frame, 0, c.Burst)
	}
	return w, nil
}

// connect makes the hand-off rings between the workers.
func connect(workers []*Worker, c *Config) {
	n := len(workers)
	room := handoffRingSize
	for room < c.DatagramFragments { // a datagram is handed over whole
		room *= 2
	}
	rings := make([]*ring.SPSC[handoff], n*n)
	for i := range rings {
		size := room
		if i/n == i%n {
			size = 1 // a worker hands nothing to itself
		}
		rings[i] = ring.NewSPSC[handoff](size)
	}
	for i, w := range workers {
		w.exchange = exchange{self: uint32(i), peers: workers, inbox: make([]handoff, c.Burst), group: make([]handoff, 0, c.DatagramFragments)}
		for j := range workers {
			w.to = append(w.to, rings[i*n+j])
			w.from = append(w.from, rings[j*n+i])
			w.outbox = append(w.outbox, make([]handoff, 0, c.Burst))
		}
	}
}

// Run starts the workers and the control goroutine, and returns when ctx ends (nil), a port has gone for good, or a
// worker panicked (*PanicError). All workers have stopped by then. An engine runs once.
func (e *Engine) Run(ctx context.Context) error {
	e.mu.Lock()
	if e.running || e.stop.Load() {
		e.mu.Unlock()
		return errors.New("run engine: it has been run already (make a new one)")
	}
	e.running = true
	e.mu.Unlock()
	e.populate()

	if e.log != nil {
		e.beside.Go(e.listenLogs)
	}
	failed := make(chan error, len(e.workers))
	for _, w := range e.workers {
		go func() { failed <- e.run(w) }()
	}
	err := e.control(ctx, failed)

	e.stop.Store(true)
	for _, w := range e.workers {
		w.wire.Wake()
	}
	left := len(e.workers)
	if err != nil {
		left--
	}
	for range left {
		err = errors.Join(err, <-failed)
	}
	e.mu.Lock()
	e.running = false
	e.mu.Unlock()
	close(e.done)
	return err
}

// Close frees the connection tables. The engine must not be running, and none of its methods be called afterwards.
func (e *Engine) Close() error {
	e.beside.Wait()
	var err error
	for _, w := range e.workers {
		err = errors.Join(err, w.table.Close())
	}
	return errors.Join(err, e.expect.Close())
}

// Step makes one turn of every worker at the time now, in the calling goroutine: for replay, tests and benchmarks, on
// an engine that is not running. It returns the number of frames handled.
func (e *Engine) Step(now conntrack.Tick) (int, error) {
	total := 0
	for _, w := range e.workers {
		n, err := w.Step(now)
		if err != nil {
			return total, fmt.Errorf("worker %d: %w", w.id, err)
		}
		total += n
	}
	if e.sets != nil && uint32(now-e.maintained) >= uint32(controlPeriod.Milliseconds()) {
		e.maintained = now
		e.sets.Maintain(ipset.Tick(now))
	}
	if e.log != nil {
		e.drainLogs()
	}
	return total, nil
}

// Results returns what became of the frames of worker 0's last Step, in order. It is valid until the next Step, and
// empty without Config.Record.
func (e *Engine) Results() []Result { return e.workers[0].results }

// Workers returns the number of workers.
func (e *Engine) Workers() int { return len(e.workers) }
