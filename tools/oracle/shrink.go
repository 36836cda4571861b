package main

import (
	"strings"
	"time"
)

// shrinkTime bounds the search for a smaller trial.
const shrinkTime = 20 * time.Second

// shrink returns a trial that still shows a difference, with as few frames and rules as can be found: whatever can be left
// out, first in large parts and then one by one, is.
func (j *judges) shrink(t *trial, d *verdictDifference) (*trial, error) {
	end := time.Now().Add(shrinkTime)
	small := *t
	small.frames = small.frames[:d.Frame]
	differs := func(x *trial) bool {
		r, err := j.run(x)
		return err == nil && r.difference != nil
	}
	frames := func() {
		small.frames = reduce(small.frames, end, func(list []shot) bool {
			x := small
			x.frames = list
			return differs(&x)
		})
	}
	lines := func() {
		list := strings.SplitAfter(small.text, "\n")
		// Tables and chains stay for the rules' sake: only rules, and chains that no rule names, can go.
		list = reduce(list, end, func(list []string) bool {
			x := small
			x.text = strings.Join(list, "")
			return differs(&x)
		})
		small.text = strings.Join(list, "")
		small.sets = strings.Join(reduce(strings.SplitAfter(small.sets, "\n"), end, func(list []string) bool {
			x := small
			x.sets = strings.Join(list, "")
			return x.sets != "" && differs(&x)
		}), "")
	}
	frames()
	lines()
	frames()
	return &small, nil
}

// reduce leaves out of a list what can be left out so that it still holds.
func reduce[T any](list []T, end time.Time, holds func([]T) bool) []T {
	for size := (len(list) + 1) / 2; size > 0; size /= 2 {
		for at := 0; at < len(list) && time.Now().Before(end); {
			less := append(append([]T{}, list[:at]...), list[min(at+size, len(list)):]...)
			if holds(less) {
				list = less
			} else {
				at += size
			}
		}
	}
	return list
}
