package ipset

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"corewire/internal/spelling"
)

// Handle is a set as rules know it: it stays the same when two sets swap their elements, and when the set's file is read
// again. Its methods that take a packet may be called by any number of goroutines.
type Handle struct {
	set atomic.Pointer[Set]

	// The registry's lock guards the rest.
	name   string
	index  int  // place in the registry, the order of listings
	refs   int  // of rules and lists
	loaded bool // from a file
	file   string
	line   int // of the file, where the set was created; 0 when that was not in a file
}

// Options are what a registry is made with.
type Options struct {
	// Budget is how many bytes the sets may take, about. 0: DefaultBudget.
	Budget int64
	// Random draws the secret of the hash and what `create` draws; nil: from the operating system.
	Random *rand.ChaCha8
}

// DefaultBudget is some 40 million elements of hash:ip.
const DefaultBudget = 2 << 30

// maxSets is the most sets there may be (IPSET_INVALID_ID).
const maxSets = 65534

// Registry holds the sets by their names. All methods may be called by any goroutine.
type Registry struct {
	mu     sync.Mutex
	byName map[string]*Handle
	list   []*Handle // by index; nil where one was destroyed
	secret *secret
	random func() uint64
	budget int64
	room   int64 // bytes left

	generation atomic.Uint64
}

// New makes a registry without sets.
func New(o Options) *Registry {
	r := &Registry{byName: make(map[string]*Handle), budget: o.Budget, random: rand.Uint64}
	if o.Random != nil {
		r.random = o.Random.Uint64
	}
	if r.budget == 0 {
		r.budget = DefaultBudget
	}
	r.room = r.budget
	r.secret = new(secret)
	for i := range r.secret {
		r.secret[i] = r.random()
	}
	return r
}

// Generation counts the changes by order of sets that are in use: rules' cached verdicts of before may be wrong.
func (r *Registry) Generation() uint64 { return r.generation.Load() }

// Lookup returns the set of that name, nil for none.
func (r *Registry) Lookup(name string) *Handle {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byName[name]
}

// Unused is a set that no rule asks.
type Unused struct {
	Name string
	File string // that has created it; "" for none
	Line int
}

// Unused returns the sets that are neither among those that rules use nor members of these, in alphabetical order.
func (r *Registry) Unused(used []*Handle) (out []Unused) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := make(map[*Handle]bool)
	for _, h := range used {
		asked[h] = true
		if s := h.set.Load(); s.kind == ListSet {
			for _, m := range *s.list.Load() {
				asked[m.handle] = true
			}
		}
	}
	for _, name := range sorted(r.byName) {
		if h := r.byName[name]; !asked[h] {
			out = append(out, Unused{name, h.file, h.line})
		}
	}
	return out
}

// Names returns the names of all sets in alphabetical order.
func (r *Registry) Names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return sorted(r.byName)
}

func sorted(m map[string]*Handle) []string {
	out := make([]string, 0, len(m))
	for n := range m {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// Kind returns what kind of set it is now; after a swap it may be another one.
func (h *Handle) Kind() Kind { return h.set.Load().kind }

// Family returns the IP version of the set, 4 or 6, and 0 for kinds of no IP version.
func (h *Handle) Family() uint8 { return h.set.Load().family }

// HasInfo says that the set has skbinfo, which --map-set needs.
func (h *Handle) HasInfo() bool { return h.set.Load().spec.SkbInfo }

// Counts says that the set has counters.
func (h *Handle) Counts() bool { return h.set.Load().spec.Counters }

// Hold notes that rules use the sets, so that none of them can be destroyed; Release that they no longer do. grown are
// those that rules add to: they get room beforehand, for a packet cannot make a table larger. It fails when one of them has
// been destroyed meanwhile.
func (r *Registry) Hold(used, grown []*Handle, now Tick) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range used {
		if r.byName[h.name] != h {
			return &Error{Text: "The set with the given name does not exist", Hint: h.name + " was destroyed while rules that name it were made ready"}
		}
	}
	for _, h := range used {
		h.refs++
	}
	for _, h := range grown {
		r.reserve(h, now, map[*Handle]bool{})
	}
	return nil
}

// reserved is how many elements a set that rules add to has room for beforehand; beyond, its table is made larger as it
// fills.
const reserved = 16384

func (r *Registry) reserve(h *Handle, now Tick, seen map[*Handle]bool) {
	if seen[h] {
		return
	}
	seen[h] = true
	s := h.set.Load()
	if s.kind == ListSet {
		for _, m := range *s.list.Load() {
			r.reserve(m.handle, now, seen)
		}
		return
	}
	if t := s.table.Load(); t != nil {
		if want := min(int64(s.spec.MaxElem), reserved); t.limit < want*3/2 {
			_ = r.grow(s, want, now) // without room the set stays as it is
		}
	}
}

// Release is the end of a Hold.
func (r *Registry) Release(used []*Handle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range used {
		h.refs--
	}
}

// newSet makes an empty set; its memory is taken from the room. An error is a text.
func (r *Registry) newSet(c *Spec) (*Set, string) {
	s := &Set{kind: c.Kind, v6: c.Family == 6, family: c.Family, spec: *c, secret: r.secret}
	if c.Counters {
		s.nExt = 2
	}
	s.infoAt = s.nExt
	if c.SkbInfo {
		s.nExt += 2
	}
	switch {
	case c.Kind == ListSet:
		s.list.Store(new([]*member))
	case c.Kind.bitmap():
		if !r.take(bitmapBytes(s, c.elements())) {
			return nil, r.noRoom()
		}
		s.bitmap = newBitmap(s, c.elements())
	default:
		s.layout = layoutOf(c.Kind, s.v6)
		s.locks = new([stripes]stripe)
		if kindTable[c.Kind].noMatch {
			s.nets = new(nets)
		}
		if !r.take(tableBytes(minSlots, &s.layout, s.nExt)) {
			return nil, r.noRoom()
		}
		s.table.Store(newTable(minSlots, &s.layout, s.nExt))
	}
	return s, ""
}

// perSet is what a set takes beside its table, about.
const perSet = 4096

func (r *Registry) take(n int64) bool {
	if r.room < n+perSet {
		return false
	}
	r.room -= n + perSet
	return true
}

func (r *Registry) noRoom() string { return "The sets take more memory than they may" }

// size is what a set has taken of the room.
func (s *Set) size() int64 {
	switch {
	case s.bitmap != nil:
		return bitmapBytes(s, s.bitmap.size) + perSet
	case s.kind == ListSet:
		return 0
	}
	return tableBytes(s.table.Load().mask+1, &s.layout, s.nExt) + perSet
}

// grow makes a set's table larger; false when there is no memory for it.
func (r *Registry) grow(s *Set, elements int64, now Tick) bool {
	before := s.size()
	after := tableBytes(slotsFor(elements), &s.layout, s.nExt) + perSet
	if r.room+before < after {
		return false
	}
	s.grow(elements, now)
	r.room += before - s.size()
	return true
}

// Maintain collects what has expired and makes tables larger before they are full. It is to be called some times a
// second; frames go on meanwhile.
func (r *Registry) Maintain(now Tick) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.list {
		if h == nil {
			continue
		}
		s := h.set.Load()
		switch {
		case s.kind == ListSet:
			r.collectList(s, now)
		case s.bitmap != nil:
			s.collectBits(now)
		default:
			if s.spec.HasTimeout {
				// A tenth of the table at a time, and all of a small one.
				t := s.table.Load()
				s.collect(t, max(1024, (t.mask+1)/10), now)
			}
			if s.crowded() {
				_ = r.grow(s, s.count.Load(), now)
			}
		}
	}
}

// collectList drops members of a list whose time has come.
func (r *Registry) collectList(s *Set, now Tick) {
	old := *s.list.Load()
	if !slices.ContainsFunc(old, func(m *member) bool { return m.late(now) }) {
		return
	}
	keep := make([]*member, 0, len(old))
	for _, m := range old {
		if m.late(now) {
			m.handle.refs--
			continue
		}
		keep = append(keep, m)
	}
	s.list.Store(&keep)
}

// find returns the set of a name; in a listing of names it is the nearest one that a hint gives.
func (r *Registry) find(l *line, w token) *Handle {
	name := l.name(w)
	if l.err != nil {
		return nil
	}
	h := r.byName[name]
	if h == nil {
		l.fail(w, "The set with the given name does not exist", r.didYouMean(name))
	}
	return h
}

func (r *Registry) didYouMean(name string) string {
	if near := Nearest(name, sorted(r.byName)); near != "" {
		return "did you mean " + near + "?"
	}
	return ""
}

// Nearest returns the word of the list that is nearest to s by edit distance, "" when none is near enough to be meant.
func Nearest(s string, list []string) string {
	if len(list) > 1000 || len(s) > 64 {
		return ""
	}
	best, word := len(s)/2+1, ""
	for _, w := range list {
		if d := spelling.Distance(s, w); d < best {
			best, word = d, w
		}
	}
	return word
}

// inOrder returns the sets in the order of `ipset save`: by index, lists last.
func (r *Registry) inOrder() []*Handle {
	var out []*Handle
	for _, h := range r.list {
		if h != nil {
			out = append(out, h)
		}
	}
	slices.SortStableFunc(out, func(a, b *Handle) int {
		last := func(h *Handle) int {
			if h.Kind() == ListSet {
				return 1
			}
			return 0
		}
		return cmp.Or(last(a)-last(b), a.index-b.index)
	})
	return out
}

// link puts a handle into the registry, at the first free index.
func (r *Registry) link(h *Handle) {
	r.byName[h.name] = h
	for i := range r.list {
		if r.list[i] == nil {
			h.index, r.list[i] = i, h
			return
		}
	}
	h.index = len(r.list)
	r.list = append(r.list, h)
}

func (r *Registry) unlink(h *Handle) {
	delete(r.byName, h.name)
	r.list[h.index] = nil
}

// touch notes a change of a set's answers.
func (r *Registry) touch(h *Handle) {
	if h.refs > 0 {
		r.generation.Add(1)
	}
}

// isComment says that a line of a file says nothing.
func isComment(s string) bool {
	s = strings.TrimSpace(s)
	return s == "" || s[0] == '#' || s == "COMMIT"
}
