package replay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/packet"
	"corewire/ring"
	"corewire/rules"
)

// Config says what is replayed, and by which rules.
type Config struct {
	// Files: either File, with the networks of the inside in Nets, or Inside and Outside or one of them. OutInside and
	// OutOutside get the frames that leave through that port.
	File       string
	Nets       []netip.Prefix
	Inside     string
	Outside    string
	OutInside  string
	OutOutside string

	// Engine is how frames are judged, as on a wire. Wires, secret, burst, clock and record are the replay's own.
	Engine dataplane.Config

	Describe bool // fill Frame.Text
}

// Frame is what became of one frame.
type Frame struct {
	Number    int                  // from 1, in the order of time
	Time      time.Time            // the capture's
	In        packet.Port          // where it arrived
	Length    int                  // bytes on the wire
	Verdict   dataplane.Verdict    // Accept, Drop, or Hold for a fragment that waits for the rest of its datagram
	Reason    dataplane.DropReason // DropNone unless dropped
	Rule      string               // what decided: "FORWARD 3", "FORWARD policy"; "" where no rule was asked
	State     string               // connection state as the rules saw it; "" where connection tracking was not asked
	Text      string               // what the frame is, for people; with Config.Describe
	Truncated bool                 // the capture holds a part of the frame only, and so it was judged as cut short
}

// Replay is a replay under way. One goroutine uses it.
type Replay struct {
	wire    *gate
	engine  *dataplane.Engine
	ruleset *rules.Ruleset
	base    time.Time     // the first frame's time, tick 0
	now     time.Duration // since base
	swept   time.Duration // when the table was last swept
	most    int           // most connections seen: what a sweep has to cover
	next    ring.Captured // read ahead; valid if ahead
	ahead   bool
	failed  error // what Next returns when the frames are over
}

// gate holds a frame back while time passes, and looks at it when it passes.
type gate struct {
	*ring.Capture
	open     bool
	describe bool
	text     string // of the last frame
}

// Receive implements ring.Wire.
func (g *gate) Receive(p packet.Port, f []packet.Frame) int {
	if !g.open {
		return 0
	}
	n := g.Capture.Receive(p, f)
	if n > 0 && g.describe {
		g.text = Describe(f[0].Data)
	}
	return n
}

// Open opens the captures. A file that is no capture is an error; one that is damaged further on is not yet.
func Open(c Config) (*Replay, error) {
	files := ring.CaptureConfig{File: c.File, Inside: c.Inside, Outside: c.Outside, OutInside: c.OutInside, OutOutside: c.OutOutside}
	if c.File != "" {
		files.Port = NewSides(c.Nets).Port
	}
	capture, err := ring.OpenCapture(files)
	if err != nil {
		return nil, err
	}
	r := &Replay{wire: &gate{Capture: capture, describe: c.Describe}, ruleset: c.Engine.Ruleset}
	r.read()
	r.base = r.next.Time
	e := c.Engine
	e.Wires, e.Secret, e.Burst, e.Spin, e.CPUs, e.Record = []ring.Wire{r.wire}, fixedSecret(), 1, 0, nil, true
	e.Clock = func() int64 { return int64(r.now) }
	e.Wall = func() time.Time { return r.base.Add(r.now) }
	e.MTU = 1500 // Ethernet's: a capture does not tell that of the ports
	r.engine, err = dataplane.New(e)
	if err != nil {
		return nil, errors.Join(err, capture.Close())
	}
	return r, nil
}

// fixedSecret is the key of the table's hash. It is the same in every replay, so that the same captures give the same
// results also where the table is full and the hash decides who makes room; nobody can do more harm with it than make his
// own replay slow.
func fixedSecret() *[packet.HasherSecret]uint64 {
	var s [packet.HasherSecret]uint64
	x := uint64(0)
	for i := range s { // SplitMix64 (Steele, Lea, Flood 2014): any fixed, well mixed numbers would do
		x += 0x9e3779b97f4a7c15
		z := x
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		s[i] = z ^ z>>31
	}
	return &s
}

// read makes the next frame ready, or remembers why there is none.
func (r *Replay) read() {
	next, err := r.wire.Next()
	r.next, r.ahead, r.failed = next, err == nil, err
}

// Next judges the next frame. It returns io.EOF after the last one. A damaged file's error comes after the frames of all
// files that could be read.
func (r *Replay) Next() (Frame, error) {
	if !r.ahead {
		return Frame{}, r.failed
	}
	c := r.next
	if err := r.pass(c.Time); err != nil {
		return Frame{}, err
	}
	r.wire.open = true
	_, err := r.engine.Step(tick(r.now))
	r.wire.open = false
	if err != nil {
		return Frame{}, err
	}
	results := r.engine.Results()
	if len(results) != 1 {
		return Frame{}, fmt.Errorf("replay frame %d: it has %d results", c.Number, len(results))
	}
	r.most = max(r.most, r.engine.Count())
	f := newFrame(c, &results[0], r.ruleset)
	f.Text = r.wire.text
	r.read()
	return f, nil
}

func newFrame(c ring.Captured, result *dataplane.Result, rs *rules.Ruleset) Frame {
	f := Frame{Number: c.Number, Time: c.Time, In: c.Port, Length: c.Length, Verdict: result.Verdict, Reason: result.Reason, Truncated: c.Truncated}
	if result.Tracked {
		f.State = result.State.String()
		f.Rule = rs.RuleName(result.Rule)
	} else if result.Early {
		f.Rule = rs.RuleName(result.Rule)
	}
	return f
}

const (
	// leap is the most time that passes at once, some 12 days: ticks are compared by their signed difference, so half
	// of their range must never pass unnoticed. No timeout is longer than two leaps (conntrack's longest is 24.8 days).
	leap = 1 << 30 * time.Millisecond
	// leaps is after how many of them nothing is left that could expire.
	leaps = 4
	// sweepPeriod is how often the table is swept: as often as the engine of a running wire gets round.
	sweepPeriod = time.Second
	// sweepSlice is how many entries a turn of the engine sweeps at most.
	sweepSlice = 4096
)

// tick converts time since the first frame into the tracker's.
func tick(d time.Duration) conntrack.Tick { return conntrack.Tick(d / time.Millisecond) }

// pass lets time pass until t.
func (r *Replay) pass(t time.Time) error {
	to := t.Sub(r.base) // saturates at 292 years
	if to <= r.now {
		return nil
	}
	for n := 0; to-r.now > leap; n++ {
		if n == leaps {
			r.now += (to - r.now) / leap * leap
			break
		}
		r.now += leap
		if err := r.sweep(r.now); err != nil {
			return err
		}
	}
	if to-r.swept >= sweepPeriod {
		if err := r.sweep(to); err != nil {
			return err
		}
	}
	r.now = to
	return nil
}

// sweep has the engine look at the whole table: first to end the pass that it is in, and then, since it begins one a
// second, for another one.
func (r *Replay) sweep(to time.Duration) error {
	for _, at := range [...]time.Duration{max(to-sweepPeriod, r.now), to} {
		r.now = at
		for range r.most/sweepSlice + 2 {
			if _, err := r.engine.Step(tick(at)); err != nil {
				return err
			}
		}
	}
	r.swept = to
	return nil
}

// Explain says what would become of the next frame, which is then over: those before it have been judged as in Next.
func (r *Replay) Explain(state *conntrack.State) (dataplane.Explanation, error) {
	if !r.ahead {
		return dataplane.Explanation{}, r.failed
	}
	c := r.next
	if err := r.pass(c.Time); err != nil {
		return dataplane.Explanation{}, err
	}
	if _, err := r.engine.Step(tick(r.now)); err != nil { // its time
		return dataplane.Explanation{}, err
	}
	var f [1]packet.Frame
	r.wire.Capture.Receive(c.Port, f[:])
	x, err := r.engine.Explain(context.Background(), f[0].Data, c.Port, state)
	r.wire.Capture.Release(f[:])
	r.read()
	return x, err
}

// Connections calls visit with the connections that are left, some at a time. Their timeouts count from the last frame.
func (r *Replay) Connections(visit func([]conntrack.Info) error) error {
	return r.engine.Connections(context.Background(), visit)
}

// Stats returns the engine's counters.
func (r *Replay) Stats() (dataplane.Stats, error) { return r.engine.Stats(context.Background()) }

// Close completes the output files and closes everything.
func (r *Replay) Close() error {
	return errors.Join(r.engine.Close(), r.wire.Close())
}
