package main

import (
	"math"
	"time"

	"corewire/conntrack"
)

// pacer is the time of a comparison, which both sides share: the kernel's own, jiffies, and on top of it the seconds by which
// connections were made older without waiting. For every packet that the witness has seen corewire's clock is put to the
// jiffy of that moment, so that both sides find a time passed or not for the same packets: an UDP connection that becomes
// a stream after two seconds shows it. (A jiffy that begins between the tracker and the witness, some microseconds, is a doubt
// that is left for other protocols, see tracked.) Between packets the time is the machine's, held back so far that it never runs ahead of the jiffies.
//
// A pause in a stream below a second is left out: no timeout is shorter. Of a longer one the whole seconds pass, but for a few
// if a connection's time would end within a second of the pause: which side then sees it alive is chance. Corewire's
// clock is put forward, and in the kernel every connection's timeout is shortened (kernel.age). Two things in the kernel
// cannot be made older and have to be waited for: an UDP connection that becomes a stream once it is two seconds old,
// and fragments. While there are any of these the pause is waited for, as long as the stream's allowance for waiting
// lasts. When it is spent the pause is left out, for both sides. So is one beyond the number of pauses that may pass: each
// has the kernel list its table, which takes milliseconds whatever is in it.
type pacer struct {
	start     time.Time
	skipped   time.Duration // beyond the machine's own time
	allowance time.Duration
	pauses    int           // how many more pauses may pass
	slack     time.Duration // how far the sides' deadlines may be apart, since the kernel rounds to seconds
	young     time.Time     // until when there may be a young UDP connection
	synced    bool          // a jiffy was seen: zero and jiffy are valid
	jiffy     uint32        // the first one
	zero      time.Duration // since start, when it was seen
	last      time.Duration // since start, at the last packet that was seen
}

func newPacer(allowance time.Duration) pacer {
	return pacer{start: time.Now(), allowance: allowance, pauses: math.MaxInt}
}

// lag is how far the time between packets is held back: more than a jiffy, of which there are 100 a second at least.
const lag = 20 * time.Millisecond

// now returns the time that both sides are at.
func (p *pacer) now() conntrack.Tick {
	t := time.Since(p.start)
	if p.synced {
		t = max(p.last, t-lag)
	}
	return conntrack.Tick((t + p.skipped) / time.Millisecond)
}

// at returns the time of a packet that the kernel saw at a jiffy.
func (p *pacer) at(jiffies, hertz uint32) conntrack.Tick {
	if !p.synced {
		p.synced, p.jiffy, p.zero = true, jiffies, time.Since(p.start)
	}
	p.last = max(p.last, p.zero+time.Duration(jiffies-p.jiffy)*time.Second/time.Duration(hertz))
	return conntrack.Tick((p.last + p.skipped) / time.Millisecond)
}

// longest is the longest pause: no timeout is longer, and the tick's signed difference holds it.
const longest = 12 * 24 * time.Hour

// streamAge is how long an UDP connection must have existed to become a stream, with some jiffies to be sure.
const streamAge = 2*time.Second + 50*time.Millisecond

// pass lets a pause pass on both sides, and returns the time after it.
func (p *pacer) pass(gap time.Duration, c *comparison) (conntrack.Tick, error) {
	gap = min(gap, longest)
	if gap < time.Second {
		return p.now(), nil
	}
	held, err := c.corewire.held()
	if err != nil {
		return 0, err
	}
	wait := time.Duration(0)
	switch {
	case held > 0:
		wait = gap
	default:
		wait = min(gap, time.Until(p.young))
	}
	if wait > 0 {
		if wait > p.allowance {
			return p.now(), nil
		}
		p.allowance -= wait
		time.Sleep(wait)
		gap -= wait
	}
	if gap = gap.Truncate(time.Second); gap > 0 {
		if p.pauses--; p.pauses < 0 {
			return p.now(), nil
		}
		if gap, err = c.corewire.clear(gap); err != nil {
			return 0, err
		}
		if c.corewire.engine.Count() > 0 {
			if err := c.kernel.age(gap); err != nil {
				return 0, err
			}
		}
		p.skipped += gap
		p.slack = time.Second // see aged
		if err := c.corewire.pass(p.now()); err != nil {
			return 0, err
		}
	}
	return p.now(), nil
}
