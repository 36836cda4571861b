package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progress says on standard error how far something is that takes longer than slow: then, and every slow from then on.
type progress struct {
	what string
	w    io.Writer
	stop chan struct{}
	done sync.WaitGroup
	once sync.Once

	mu sync.Mutex
	at string
}

// slow is after what time somebody who waits is told that something goes on.
const slow = 2 * time.Second

// beginProgress begins to watch.
func beginProgress(w io.Writer, what string) *progress {
	p := &progress{what: what, w: w, stop: make(chan struct{})}
	p.done.Go(func() {
		tick := time.NewTicker(slow)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				p.mu.Lock()
				at := p.at
				p.mu.Unlock()
				if at == "" {
					at = "still at work"
				}
				fmt.Fprintf(p.w, "%s: %s\n", p.what, at)
			}
		}
	})
	return p
}

// say notes how far it is.
func (p *progress) say(at string) {
	p.mu.Lock()
	p.at = at
	p.mu.Unlock()
}

// end says nothing more. It may be called twice.
func (p *progress) end() {
	p.once.Do(func() { close(p.stop) })
	p.done.Wait()
}
