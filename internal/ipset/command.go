package ipset

import (
	"fmt"
	"slices"
)

func (b *batch) create(l *line) {
	w := l.next("setname")
	name := l.name(w)
	t := l.next("typename")
	if l.err != nil {
		return
	}
	k, ok := kindOf(t.text)
	if !ok {
		var names []string
		for i := range kindTable {
			names = append(names, kindTable[i].name)
		}
		hint := ""
		if near := Nearest(t.text, names); near != "" {
			hint = "did you mean " + near + "?"
		}
		l.fail(t, "Syntax error: typename '"+clip(t.text)+"' is unknown", hint)
		return
	}
	c := l.parseSpec(k)
	if l.err != nil {
		return
	}
	r := b.r
	if old := r.byName[name]; old != nil {
		if !l.exist || !old.set.Load().spec.same(&c) {
			l.fail(w, "Set cannot be created: set with the same name already exists", "")
		}
		return
	}
	if len(r.byName) >= maxSets {
		l.fail(w, "Kernel error received: maximal number of sets reached, cannot create more.", "")
		return
	}
	if c.InitVal == 0 {
		c.InitVal = uint32(r.random())
	}
	s, text := r.newSet(&c)
	if s == nil {
		l.fail(w, text, fmt.Sprintf("%d bytes", r.budget))
		return
	}
	h := &Handle{name: name, loaded: b.loaded, file: l.file, line: l.n}
	h.set.Store(s)
	r.link(h)
	b.fresh[s] = true
	b.undo = append(b.undo, func() { r.unlink(h); r.room += s.size() })
}

func (b *batch) destroy(l *line) {
	r := b.r
	if len(l.words) == 0 || l.words[0].text[:min(1, len(l.words[0].text))] == "-" {
		w := l.end
		l.last()
		refs := make(map[*Handle]int) // those of lists go with the lists
		for _, h := range r.byName {
			s := h.set.Load()
			if s.kind == ListSet {
				for _, m := range *s.list.Load() {
					refs[m.handle]++
				}
			}
		}
		for _, n := range sorted(r.byName) {
			if h := r.byName[n]; h.refs > refs[h] || h.refs > 0 {
				l.fail(w, "Set cannot be destroyed: it is in use by a kernel component", "set "+n+" is in use")
			}
		}
		if l.err == nil {
			for _, h := range r.inOrder() {
				b.drop(h)
			}
		}
		return
	}
	w := l.next("setname")
	l.last()
	if l.err != nil {
		return
	}
	if r.byName[w.text] == nil && l.exist {
		return
	}
	h := r.find(l, w)
	if h == nil {
		return
	}
	if h.refs > 0 {
		l.fail(w, "Set cannot be destroyed: it is in use by a kernel component", "rules or a list:set name it")
		return
	}
	b.drop(h)
}

// drop takes a set that nobody uses out of the registry.
func (b *batch) drop(h *Handle) {
	r, s := b.r, h.set.Load()
	if s.kind == ListSet {
		for _, m := range *s.list.Load() {
			m.handle.refs--
		}
	}
	r.unlink(h)
	b.gone = append(b.gone, s)
	b.undo = append(b.undo, func() {
		r.byName[h.name], r.list[h.index] = h, h
		if s.kind == ListSet {
			for _, m := range *s.list.Load() {
				m.handle.refs++
			}
		}
	})
}

func (b *batch) flush(l *line) {
	var all []*Handle
	if len(l.words) > 0 && l.words[0].text != "" && l.words[0].text[0] != '-' {
		if h := b.r.find(l, l.next("setname")); h != nil {
			all = append(all, h)
		}
	} else {
		all = b.r.inOrder()
	}
	l.last()
	for _, h := range all {
		if l.err != nil {
			return
		}
		old := h.set.Load()
		s, text := b.r.newSet(&old.spec)
		if s == nil {
			l.fail(l.end, text, "")
			return
		}
		b.fresh[s] = b.fresh[old]
		if old.kind == ListSet {
			for _, m := range *old.list.Load() {
				m.handle.refs--
			}
		}
		h.set.Store(s)
		b.r.touch(h)
		b.gone = append(b.gone, old)
		b.undo = append(b.undo, func() {
			if s.kind == ListSet {
				for _, m := range *old.list.Load() {
					m.handle.refs++
				}
			}
			b.r.room += s.size()
			h.set.Store(old)
		})
	}
}

func (b *batch) rename(l *line) {
	w, v := l.next("setname"), l.next("setname")
	h, name := b.r.find(l, w), l.name(v)
	l.last()
	switch {
	case l.err != nil:
	case h.refs > 0:
		l.fail(w, "Set cannot be renamed: it is in use by another system", "rules or a list:set name it")
	case b.r.byName[name] != nil:
		l.fail(v, "Set cannot be renamed: a set with the new name already exists", "")
	default:
		old := h.name
		move := func(from, to string) {
			delete(b.r.byName, from)
			h.name = to
			b.r.byName[to] = h
		}
		move(old, name)
		b.undo = append(b.undo, func() { move(name, old) })
	}
}

func (b *batch) swap(l *line) {
	w, v := l.next("setname"), l.next("setname")
	x := b.r.find(l, w)
	if l.err == nil && b.r.byName[v.text] == nil {
		l.fail(v, "Sets cannot be swapped: the second set does not exist", b.r.didYouMean(v.text))
	}
	l.last()
	if l.err != nil {
		return
	}
	y := b.r.byName[v.text]
	s, t := x.set.Load(), y.set.Load()
	if s.kind.features() != t.kind.features() || s.family != t.family {
		l.fail(w, "The sets cannot be swapped: their type does not match", s.kind.String()+" and "+t.kind.String())
		return
	}
	x.set.Store(t)
	y.set.Store(s)
	b.r.touch(x)
	b.r.touch(y)
	b.undo = append(b.undo, func() { x.set.Store(s); y.set.Store(t) })
}

// change adds or deletes.
func (b *batch) change(l *line, add bool) {
	h := b.r.find(l, l.next("setname"))
	w := l.next("an element")
	if l.err != nil {
		return
	}
	s := h.set.Load()
	e := l.parseElement(s, w, false)
	x := l.parseExtras(s, &e)
	if l.err != nil {
		return
	}
	x.exist, x.loaded = l.exist, b.loaded
	if s.kind == ListSet {
		b.changeList(l, s, &e, &x, w, add)
		if l.err == nil {
			b.r.touch(h)
		}
		return
	}
	n := 0
	b.r.expand(s, &e, func(f *fields) bool {
		if n++; n > maxRange {
			l.fail(w, "The range is too large", fmt.Sprintf("at most %d elements at a time", maxRange))
			return false
		}
		if s.kind.hash() && nullish(s, f) {
			l.fail(w, "Null-valued element, cannot be stored in a hash type of set", "")
			return false
		}
		var r result
		if add {
			r = b.put(s, f, &x)
		} else {
			r = b.remove(s, f)
		}
		switch r {
		case errExist:
			if !x.exist {
				l.fail(w, "Element cannot be added to the set: it's already added", "")
			}
		case errMissing:
			if !l.exist {
				l.fail(w, "Element cannot be deleted from the set: it's not added", "")
			}
		case errFull:
			l.fail(w, "Hash is full, cannot add more elements", fmt.Sprintf("maxelem is %d", s.spec.MaxElem))
		case errRoom:
			l.fail(w, b.r.noRoom(), fmt.Sprintf("%d bytes", b.r.budget))
		case errRange:
			l.fail(w, "Element is out of the range of the set", "")
		}
		return l.err == nil
	})
	if l.err == nil {
		b.r.touch(h)
	}
}

// nullish says that hash types cannot hold the element.
func nullish(s *Set, f *fields) bool {
	switch s.kind {
	case HashIP, HashIPPort:
		return f.a.zero()
	case HashIPMark:
		return f.a.zero() && f.mark == 0
	case HashMAC, HashIPMAC:
		return f.mac == 0
	}
	return false
}

// changeList adds to a list, or deletes from it (list_set_uadd, list_set_udel).
func (b *batch) changeList(l *line, s *Set, e *element, x *extras, w token, add bool) {
	m := b.r.byName[e.member]
	if m == nil {
		l.fail(w, "Set to be added/deleted/tested as element does not exist.", b.r.didYouMean(e.member))
		return
	}
	if m.Kind() == ListSet {
		l.fail(w, "Sets with list:set type cannot be added to the set.", "")
		return
	}
	var ref *Handle
	if e.before != 0 {
		if ref = b.r.byName[e.ref]; ref == nil {
			l.fail(w, "The reference set to be added/deleted/tested does not exist.", b.r.didYouMean(e.ref))
			return
		}
	}
	b.r.collectList(s, b.now)
	old := *s.list.Load()
	at := slices.IndexFunc(old, func(o *member) bool { return o.handle == m })
	refAt := slices.IndexFunc(old, func(o *member) bool { return o.handle == ref })
	wrong := func() {
		l.fail(w, "The set to which you referred with 'before' or 'after' is not added to the set.", e.ref)
	}
	list := slices.Clone(old)
	if !add {
		switch {
		case at < 0 && e.before != 0, at >= 0 && e.before > 0 && refAt != at+1, at >= 0 && e.before < 0 && (refAt < 0 || refAt != at-1):
			wrong()
			return
		case at < 0:
			if !l.exist {
				l.fail(w, "Element cannot be deleted from the set: it's not added", "")
			}
			return
		}
		list = slices.Delete(list, at, at+1)
		m.refs--
		b.undo = append(b.undo, func() { m.refs++; s.list.Store(&old) })
		s.list.Store(&list)
		return
	}
	if e.before != 0 && refAt < 0 {
		wrong()
		return
	}
	n := &member{handle: m, loaded: x.loaded, ext: make([]uint64, s.nExt), note: x.comment}
	n.state.Store(x.bits(s, b.now))
	if at >= 0 {
		if !x.exist {
			l.fail(w, "Element cannot be added to the set: it's already added", "")
			return
		}
		copy(n.ext, old[at].ext)
		s.write(n.ext, x)
		list[at] = n
		b.undo = append(b.undo, func() { s.list.Store(&old) })
		s.list.Store(&list)
		return
	}
	s.write(n.ext, x)
	switch {
	case e.before == 0:
		refAt = len(list)
	case e.before < 0:
		refAt++
	}
	list = slices.Insert(list, refAt, n)
	m.refs++
	b.undo = append(b.undo, func() { m.refs--; s.list.Store(&old) })
	s.list.Store(&list)
}
