package rules

import (
	"math"
	"sync/atomic"
)

// recency knows which of a number of cells was used least recently, for several goroutines without a lock.
//
// Each cell has the number of its last use, or unused. Above these is a tree whose nodes hold the lowest number below them,
// eight to a node, a cache line. Who changes a cell's number goes up from it and makes each node anew of what is below
// it, twice where somebody else changes the node at the same time: then it is that one who has seen the change (P. Jayanti,
// f-arrays: implementation and applications, PODC 2002).
type recency struct {
	levels [][]atomic.Uint64 // of the cells' numbers first, the root last
	uses   atomic.Uint64
}

const (
	recencyFan = 8
	unused     = math.MaxUint64
)

// newRecency makes one for cells 0 to n-1, none of which is used.
func newRecency(n int) *recency {
	r := &recency{}
	for {
		n = (n + recencyFan - 1) / recencyFan * recencyFan
		level := make([]atomic.Uint64, n)
		for i := range level {
			level[i].Store(unused)
		}
		r.levels = append(r.levels, level)
		if n == recencyFan {
			break
		}
		n /= recencyFan
	}
	r.levels = append(r.levels, make([]atomic.Uint64, 1))
	r.levels[len(r.levels)-1][0].Store(unused)
	return r
}

// use makes a cell the one used most recently, and returns the number of the use.
func (r *recency) use(cell int) uint64 {
	n := r.uses.Add(1)
	r.levels[0][cell].Store(n)
	r.rise(cell)
	return n
}

// last returns the number of a cell's last use; unused.
func (r *recency) last(cell int) uint64 { return r.levels[0][cell].Load() }

// drop makes a cell unused, if its last use is still that one.
func (r *recency) drop(cell int, number uint64) {
	r.levels[0][cell].CompareAndSwap(number, unused)
	r.rise(cell)
}

// rise makes the nodes above a cell anew.
func (r *recency) rise(cell int) {
	for l := 1; l < len(r.levels); l++ {
		cell /= recencyFan
		if !r.refresh(l, cell) {
			r.refresh(l, cell)
		}
	}
}

// refresh makes a node anew; false when somebody else has changed it meanwhile.
func (r *recency) refresh(level, node int) bool {
	w := &r.levels[level][node]
	old := w.Load()
	low := uint64(unused)
	below := r.levels[level-1][node*recencyFan : (node+1)*recencyFan]
	for i := range below {
		low = min(low, below[i].Load())
	}
	return low == old || w.CompareAndSwap(old, low)
}

// oldest returns the cell used least recently and the number of that use; false when none is used. While others change
// numbers it may be another one of the oldest.
func (r *recency) oldest() (cell int, number uint64, ok bool) {
again:
	for range 1 << 10 {
		node := 0
		top := len(r.levels) - 1
		low := r.levels[top][0].Load()
		if low == unused {
			return 0, 0, false
		}
		for l := top; l > 0; l-- {
			below := r.levels[l-1][node*recencyFan : (node+1)*recencyFan]
			at := -1
			for i := range below {
				if below[i].Load() == low {
					at = i
				}
			}
			if at < 0 { // changed since its parent was made
				for up, n := l, node; up <= top; up, n = up+1, n/recencyFan {
					r.refresh(up, n)
				}
				continue again
			}
			node = node*recencyFan + at
		}
		return node, low, true
	}
	return 0, 0, false
}
