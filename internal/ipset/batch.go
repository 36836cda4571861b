package ipset

import (
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
		if !b.r.grow(s, s.count.Load()+s.count.Load()/4+minSlots/4, b.now) {
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
