package ipset

import "slices"

// Source is a file of sets.
type Source struct {
	Name string // for errors
	Text []byte
}

// Stage is the content of set files, read and checked, before it takes effect: rules can be compiled against it first.
type Stage struct {
	live, read *Registry
	done       bool // committed: the live sets are what there is
}

// Stage reads set files into a registry of their own. The error is *Error, and nothing has happened then.
//
// Commit makes the live sets what the files say, in this sense: a set of a file exists with the options that the file
// gives it; the elements that the file has are there; elements that a file had before and has no more are not there.
// What stays keeps its time, its counters and its place; what an operator or a rule has added to such a set stays too,
// until it expires or is deleted. An element that a file has and somebody has deleted, or that has expired, is there
// again. A set whose type, family or options have changed begins anew with what its file says. Sets that no file had are
// left alone. A list:set of a file names sets of the files.
func (r *Registry) Stage(files []Source, now Tick) (*Stage, error) {
	r.mu.Lock()
	st := &Stage{live: r, read: &Registry{byName: make(map[string]*Handle), secret: r.secret, random: r.random, budget: r.budget, room: r.room}}
	r.mu.Unlock()
	for _, f := range files {
		if err := st.read.restore(f.Name, f.Text, false, true, now); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// Lookup returns the set that will have the name once the stage is committed, nil for none.
func (st *Stage) Lookup(name string) *Handle {
	st.live.mu.Lock()
	defer st.live.mu.Unlock()
	h, x := st.live.byName[name], st.read.byName[name]
	switch {
	case st.done:
		return h
	case h == nil:
		return x
	case x == nil && h.loaded:
		return nil // its file has it no more
	}
	return h
}

// Names returns the names of the sets that there will be.
func (st *Stage) Names() []string {
	st.live.mu.Lock()
	defer st.live.mu.Unlock()
	all := make(map[string]*Handle)
	for n, h := range st.live.byName {
		if st.done || !h.loaded || st.read.byName[n] != nil {
			all[n] = h
		}
	}
	for n, h := range st.read.byName {
		if !st.done {
			all[n] = h
		}
	}
	return sorted(all)
}

// Commit makes it so. It cannot fail. Sets that a file had before and has no more stay until Finish.
func (st *Stage) Commit(now Tick) {
	r := st.live
	r.mu.Lock()
	defer r.mu.Unlock()
	st.done = true
	handles := make(map[*Handle]*Handle) // of the files' registry, to the live ones
	for _, x := range st.read.inOrder() {
		h := r.byName[x.name]
		if h == nil {
			r.link(x)
			handles[x] = x
			x.refs = 0
			r.room -= x.set.Load().size()
			continue
		}
		handles[x] = h
		old, s := h.set.Load(), x.set.Load()
		h.loaded = true
		switch {
		case old.kind == ListSet: // below
		case old.spec.same(&s.spec):
			if r.merge(old, s, now) {
				r.touch(h)
			}
			old.spec = s.spec
		default:
			r.room += old.size() - s.size()
			h.set.Store(s)
			r.touch(h)
		}
	}
	for x, h := range handles {
		s := x.set.Load()
		if s.kind != ListSet {
			continue
		}
		old := h.set.Load()
		var list []*member
		for _, m := range *s.list.Load() {
			m.handle = handles[m.handle]
			m.handle.refs++
			if h != x && old.kind == ListSet {
				if i := slices.IndexFunc(*old.list.Load(), func(o *member) bool { return o.handle == m.handle }); i >= 0 && old.spec.same(&s.spec) {
					o := (*old.list.Load())[i]
					o.loaded, o.note = true, m.note
					m = o
				}
			}
			list = append(list, m)
		}
		if h != x && old.kind == ListSet {
			for _, o := range *old.list.Load() {
				if !o.loaded && !slices.ContainsFunc(list, func(m *member) bool { return m.handle == o.handle }) {
					list = append(list, o)
					continue
				}
				o.handle.refs--
			}
		}
		s.list.Store(&list)
		if h != x {
			h.set.Store(s)
			r.touch(h)
		}
	}
}

// merge gives a live set the elements of a file's, and takes those away that came from a file and are in it no more. It
// returns whether anything has changed for the frames.
func (r *Registry) merge(s, file *Set, now Tick) bool {
	changed := false
	b := &batch{r: r, now: now, loaded: true, fresh: map[*Set]bool{s: true}}
	var gone []fields
	s.each(now, func(e *Entry) bool {
		if _, ok := file.entry(&e.fields, now); e.loaded && !ok {
			gone = append(gone, e.fields)
		}
		return true
	})
	for i := range gone {
		changed = b.remove(s, &gone[i]) == done || changed
	}
	file.each(now, func(e *Entry) bool {
		x := extras{exist: true, loaded: true, noMatch: e.noMatch, timeout: e.left, packets: e.packets, bytes: e.bytes, comment: e.comment, info: e.info}
		if old, ok := s.entry(&e.fields, now); ok {
			x.timeout, x.packets, x.bytes = old.left, unset, unset
			if old.loaded && old.noMatch == x.noMatch && old.comment == x.comment && old.info == x.info {
				return true // as it was
			}
			changed = changed || old.noMatch != x.noMatch || old.info != x.info
		} else {
			changed = true
		}
		f := e.fields
		_ = b.put(s, &f, &x) // as much as fits: what rules have added may have taken the room
		return true
	})
	return changed
}

// Finish destroys the sets that a file had before and has no more, unless something still names them. It is to be called
// when the rules that named them are no longer in force.
func (st *Stage) Finish() {
	r := st.live
	r.mu.Lock()
	defer r.mu.Unlock()
	b := &batch{r: r, fresh: make(map[*Set]bool)}
	for _, h := range slices.Backward(r.inOrder()) { // lists first: they name others
		if h.loaded && st.read.byName[h.name] == nil && h.refs == 0 {
			b.drop(h)
		}
	}
	b.finish()
}
