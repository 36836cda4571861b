package ipset

import "slices"

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
