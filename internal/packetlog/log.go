package packetlog

import (
	"context"
	"sync"
)

// Log keeps the last entries in memory, for whoever asks for them and for what comes after. Its methods may be called
// from any goroutine.
type Log struct {
	mu   sync.Mutex
	kept []Entry       // a ring: entry n is at n % len
	last uint64        // number of the newest entry
	more chan struct{} // closed with the next entry; nil while nobody waits
}

// New makes a log that keeps so many entries, at least one.
func New(keep int) *Log { return &Log{kept: make([]Entry, max(keep, 1))} }

// Add appends entries, which must not be changed afterwards, and gives them their numbers.
func (l *Log) Add(entries []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range entries {
		l.last++
		entries[i].Number = l.last
		l.kept[l.last%uint64(len(l.kept))] = entries[i]
	}
	if l.more != nil && len(entries) > 0 {
		close(l.more)
		l.more = nil
	}
}

// Since returns the entries behind number, at most room of them, those first that are kept, and the number of the last
// one that was looked at. A number that is not reached yet is taken for the newest. missed is how many between number
// and the first one returned are not kept any more.
func (l *Log) Since(number uint64, room int) (entries []Entry, last, missed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	number = min(number, l.last)
	oldest := l.last - min(l.last, uint64(len(l.kept))) // the number before the oldest one kept
	if number < oldest {
		missed = oldest - number
		number = oldest
	}
	for ; number < l.last && len(entries) < room; number++ {
		entries = append(entries, l.kept[(number+1)%uint64(len(l.kept))])
	}
	return entries, number, missed
}

// Last returns the number behind which the newest n entries that admits lets through are, as far as they are kept.
func (l *Log) Last(n int, admits func(*Entry) bool) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.last
	for oldest := l.last - min(l.last, uint64(len(l.kept))); at > oldest && n > 0; at-- {
		if admits(&l.kept[at%uint64(len(l.kept))]) {
			n--
		}
	}
	return at
}

// followBatch is how many entries Follow gives at once.
const followBatch = 256

// Follow calls f with the entries behind number, some at a time, and then, if wait is set, with those that come, until f
// returns an error or ctx ends; that error is returned. missed is how many entries in front of these were overwritten
// before f could have them.
func (l *Log) Follow(ctx context.Context, number uint64, wait bool, f func(entries []Entry, missed uint64) error) error {
	for {
		more := l.waiter()
		entries, last, missed := l.Since(number, followBatch)
		if len(entries) > 0 || missed > 0 {
			if err := f(entries, missed); err != nil {
				return err
			}
			number = last
			if err := ctx.Err(); err != nil {
				return err
			}
			continue
		}
		if !wait {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// waiter returns a channel that is closed with the next entry.
func (l *Log) waiter() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more == nil {
		l.more = make(chan struct{})
	}
	return l.more
}
