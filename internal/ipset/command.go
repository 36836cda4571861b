package ipset

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// batch is a sequence of commands that takes effect whole or not at all: what each did is undone when a later one
// fails. Frames may see the first ones' effects before the last ones', as with ipset restore; who wants many elements to
// change at once fills another set and swaps.
type batch struct {
	r      *Registry
	now    Tick
	loaded bool // from a file: elements are marked
	undo   []func()
	fresh  map[*Set]bool // made by this batch: nothing in them is undone
	gone   []*Set        // destroyed; their memory comes back at the end
}

// back undoes everything.
func (b *batch) back() {
	for _, f := range slices.Backward(b.undo) {
		f()
	}
}

// finish makes it final.
func (b *batch) finish() {
	for _, s := range b.gone {
		b.r.room += s.size()
	}
}

// Restore carries out commands as `ipset save` writes them and `ipset restore` reads them, all or none. name is what
// errors call the text. exist is -exist for every line. The error is *Error.
func (r *Registry) Restore(name string, src []byte, exist bool, now Tick) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.restore(name, src, exist, false, now)
}

func (r *Registry) restore(name string, src []byte, exist, loaded bool, now Tick) error {
	b := &batch{r: r, now: now, loaded: loaded, fresh: make(map[*Set]bool)}
	l := &line{file: name}
	text := string(src)
	for n := 1; text != ""; n++ {
		row, rest, _ := strings.Cut(text, "\n")
		text = rest
		if isComment(row) {
			continue
		}
		*l = line{file: name, n: n, words: l.words, exist: exist}
		words := l.words[:0]
		if l.split(row) {
			words = l.words
			b.do(l)
		}
		if l.err != nil {
			b.back()
			return l.err
		}
		l.words = words
	}
	b.finish()
	return nil
}

// Do carries out one command, such as add NAME 10.0.0.1, of the words after ipset; it may be one of create, add, del, test,
// flush, destroy, rename and swap. test answers whether the element is in the set; the others answer true. The error is
// *Error, with ipset's words.
func (r *Registry) Do(words []string, exist bool, now Tick) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := &batch{r: r, now: now, fresh: make(map[*Set]bool)}
	l := &line{exist: exist}
	for i, w := range words {
		l.words = append(l.words, token{text: w, col: i + 1})
	}
	ok := b.do(l)
	if l.err != nil {
		b.back()
		return false, l.err
	}
	b.finish()
	return ok, nil
}

// do carries out a command; what is wrong is left in the line.
func (b *batch) do(l *line) bool {
	w := l.next("a command")
	for l.flag(w) && len(l.words) > 0 {
		w = l.next("a command")
	}
	// -exist stands behind the rest where ipset prints it for a rule.
	if n := len(l.words); n > 0 && l.flag(l.words[n-1]) {
		l.words = l.words[:n-1]
	}
	switch w.text {
	case "create", "n", "new", "-N", "--create":
		b.create(l)
	case "add", "a", "-A", "--add":
		b.change(l, true)
	case "del", "d", "-D", "--del":
		b.change(l, false)
	case "test", "t", "-T", "--test":
		return b.test(l)
	case "flush", "f", "-F", "--flush":
		b.flush(l)
	case "destroy", "x", "-X", "--destroy":
		b.destroy(l)
	case "rename", "e", "-E", "--rename":
		b.rename(l)
	case "swap", "w", "-W", "--swap":
		b.swap(l)
	default:
		l.fail(w, "No command specified: unknown argument "+clip(w.text), "create, add, del, test, flush, destroy, rename or swap")
	}
	return true
}

// last says that no word is left.
func (l *line) last() {
	for len(l.words) > 0 && l.err == nil {
		if w := l.next(""); !l.flag(w) {
			l.fail(w, "Unknown argument: `"+clip(w.text)+"'", "")
		}
	}
}

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
	h := &Handle{name: name, loaded: b.loaded}
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

// maxRange bounds how many elements one command may stand for.
const maxRange = 1 << 24

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

// expand calls visit with every single element that an element stands for, until it returns false.
func (r *Registry) expand(s *Set, e *element, visit func(*fields) bool) {
	f := e.fields
	second := func() bool {
		if !e.bRange {
			return visit(&f)
		}
		for at := e.b.lo; ; {
			last, n := rangeToPrefix(uint32(at), uint32(e.bTo.lo))
			f.b, f.cidr2 = address{0, at}, n
			if !visit(&f) {
				return false
			}
			if uint64(last) >= e.bTo.lo {
				return true
			}
			at = uint64(last) + 1
		}
	}
	ports := func() bool {
		if !s.kind.has(partPort) || s.kind.hash() && !e.withPort {
			return second()
		}
		for p := int(e.port); p <= int(e.portTo); p++ {
			f.port = uint16(p)
			if !second() {
				return false
			}
		}
		return true
	}
	step := uint64(1)
	switch s.kind {
	case HashIP, HashIPPort, HashNetNet:
		f.a = f.a.and(s.spec.mask)
		f.b = f.b.and(s.spec.mask)
		if s.kind == HashIP && s.spec.NetMask != 0 {
			step = 1 << (32 - s.spec.NetMask&31)
		}
	case BitmapIP:
		if s.spec.NetMask != 0 {
			step = 1 << (32 - s.spec.NetMask)
		}
	}
	if !e.aRange {
		ports()
		return
	}
	network := kindTable[s.kind].parts[0] == partNet
	for at := f.a.lo; at <= e.aTo.lo; {
		last := at + step - 1
		if network {
			end, n := rangeToPrefix(uint32(at), uint32(e.aTo.lo))
			last, f.cidr = uint64(end), n
		}
		f.a = address{0, at}
		if s.kind == HashIPPort {
			f.a = f.a.and(s.spec.mask)
		}
		if !ports() {
			return
		}
		at = last + 1
	}
}

// rangeToPrefix returns the largest network that begins at from and ends at or before to: its last address and its
// length, at least 1 (ip_set_range_to_cidr in pfxlen.c).
func rangeToPrefix(from, to uint32) (last uint32, length uint8) {
	for n := uint8(1); n < 32; n++ {
		m := uint32(math.MaxUint32) << (32 - n)
		if from&m == from && from|^m <= to {
			return from | ^m, n
		}
	}
	return from, 32
}

// put adds one element, making room for it, and notes how to undo it.
func (b *batch) put(s *Set, f *fields, x *extras) result {
	var old saved
	keep := !b.fresh[s]
	if keep {
		old = s.save(f, b.now)
	}
	if s.bitmap != nil {
		r := s.putBit(f, x, b.now)
		if r == done && keep {
			b.note(s, *f, old)
		}
		return r
	}
	var k key
	s.encode(f, &k)
	r := s.put(&k, x, b.now)
	for tries := 0; r == errRoom && tries < 8; tries++ {
		if !b.r.grow(s, s.count.Load()+s.count.Load()/2+minSlots/4, b.now) {
			return errRoom
		}
		r = s.put(&k, x, b.now)
	}
	if r == done && keep {
		b.note(s, *f, old)
	}
	return r
}

func (b *batch) remove(s *Set, f *fields) result {
	var old saved
	keep := !b.fresh[s]
	if keep {
		old = s.save(f, b.now)
	}
	var r result
	if s.bitmap != nil {
		r = s.removeBit(f, b.now)
	} else {
		var k key
		s.encode(f, &k)
		r = s.remove(&k, b.now, false)
	}
	if r == done && keep {
		b.note(s, *f, old)
	}
	return r
}

// saved is an element as it was, for undoing.
type saved struct {
	there bool
	x     extras
	mac   uint64
}

// save returns what the set has for an element.
func (s *Set) save(f *fields, now Tick) (o saved) {
	entry, ok := s.entry(f, now)
	if !ok {
		return o
	}
	o.there, o.mac = true, entry.mac
	o.x = extras{exist: true, loaded: entry.loaded, noMatch: entry.noMatch, timeout: entry.left, packets: entry.packets, bytes: entry.bytes, comment: entry.comment, info: entry.info}
	return o
}

// note undoes a change of one element.
func (b *batch) note(s *Set, f fields, old saved) {
	b.undo = append(b.undo, func() {
		f := f
		if s.bitmap != nil {
			_ = s.removeBit(&f, b.now)
			if old.there {
				f.mac = old.mac
				_ = s.putBit(&f, &old.x, b.now)
			}
			return
		}
		var k key
		s.encode(&f, &k)
		if old.there {
			_ = s.put(&k, &old.x, b.now)
		} else {
			_ = s.remove(&k, b.now, false)
		}
	})
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

// test says whether an element is in the set, as the kernel's test for user space does: of a network that is one address,
// whether a network of the set has it; else whether it is there as it stands.
func (b *batch) test(l *line) bool {
	h := b.r.find(l, l.next("setname"))
	w := l.next("an element")
	if l.err != nil {
		return false
	}
	s := h.set.Load()
	e := l.parseElement(s, w, true)
	x := l.parseExtras(s, &e)
	if l.err != nil {
		return false
	}
	f := &e.fields
	switch {
	case s.kind == ListSet:
		return b.testList(l, s, &e, w)
	case s.bitmap != nil:
		id, ok := s.id(f)
		if !ok {
			return false
		}
		m := uint64(0)
		if s.bitmap.mac != nil {
			m = s.bitmap.mac[id]
		}
		return s.bitmap.has(id) && !s.bitmap.late(id, b.now) && (m == 0 || f.mac == 0 || m == f.mac|macFilled)
	case s.kind == HashIP || s.kind == HashIPPort || s.kind == HashNetNet:
		f.a, f.b = f.a.and(s.spec.mask), f.b.and(s.spec.mask)
	}
	if nullish(s, f) {
		l.fail(w, "Null-valued element, cannot be stored in a hash type of set", "")
		return false
	}
	a := &asking{q: &Query{}, now: b.now, keep: true}
	t := s.table.Load()
	var r hit
	host := uint8(hostBits(s.v6))
	switch s.kind {
	case HashIPPortNet:
		r = miss
		if f.cidr2 == host {
			r = s.lookNet(t, a, f)
		} else {
			r = s.lookKey(t, a, f)
		}
	case HashNet, HashNetPort:
		if f.cidr == host {
			r = s.lookNet(t, a, f)
		} else {
			r = s.lookKey(t, a, f)
		}
	case HashNetNet, HashNetPortNet:
		if f.cidr == host && f.cidr2 == host {
			r = s.lookNets(t, a, f)
		} else {
			r = s.lookKey(t, a, f)
		}
	case HashNetIface:
		r = s.testIface(t, a, f, f.cidr == host)
	default:
		r = s.lookKey(t, a, f)
	}
	if x.noMatch {
		r = -r
	}
	return r == found
}

// testIface is the test of hash:net,iface for user space, which tells physdev: names from others.
func (s *Set) testIface(t *table, a *asking, f *fields, all bool) hit {
	whole := f.a
	for n := hostBits(s.v6); n >= 0; n-- {
		if all && !s.nets.occurs(0, n) || !all && n != int(f.cidr) {
			continue
		}
		r, over := miss, false
		s.each(a.now, func(e *Entry) bool {
			if e.cidr != uint8(n) || e.a != whole.and(prefix(n, s.v6)) || e.physdev != f.physdev {
				return true
			}
			over = true
			if Name(e.iface) != Name(f.iface) && !(e.wildcard && Name(f.iface).begins(Name(e.iface))) {
				return true
			}
			r = found
			if e.noMatch {
				r = except
			}
			return false
		})
		if r != miss || over {
			return r
		}
	}
	return miss
}

func (b *batch) testList(l *line, s *Set, e *element, w token) bool {
	m := b.r.byName[e.member]
	if m == nil {
		l.fail(w, "Set to be added/deleted/tested as element does not exist.", b.r.didYouMean(e.member))
		return false
	}
	var alive []*Handle
	for _, o := range *s.list.Load() {
		if !o.late(b.now) {
			alive = append(alive, o.handle)
		}
	}
	at := slices.Index(alive, m)
	if at < 0 || e.before == 0 {
		return at >= 0
	}
	ref := b.r.byName[e.ref]
	if ref == nil {
		l.fail(w, "The reference set to be added/deleted/tested does not exist.", b.r.didYouMean(e.ref))
		return false
	}
	beside := at + int(e.before)
	return beside >= 0 && beside < len(alive) && alive[beside] == ref
}
