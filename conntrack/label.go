package conntrack

// Labels are the 128 labels that a connection can have (-m connlabel, `conntrack --label-add`); label n is bit n%64 of
// element n/64, as in struct nf_conn_labels (include/net/netfilter/nf_conntrack_labels.h).
type Labels [2]uint64

// MaxLabel is the highest label (XT_CONNLABEL_MAXBIT, include/uapi/linux/netfilter/xt_connlabel.h).
const MaxLabel = 127

// Set sets label n, 0 to MaxLabel.
func (l *Labels) Set(n int) { l[n>>6] |= 1 << (n & 63) }

// Has reports whether label n, 0 to MaxLabel, is set.
func (l *Labels) Has(n int) bool { return l[n>>6]>>(n&63)&1 != 0 }

// Contains reports whether all of o's labels are among l's.
func (l *Labels) Contains(o Labels) bool { return l[0]&o[0] == o[0] && l[1]&o[1] == o[1] }

// SetLabels adds and then removes labels of the entries that match (all, if match is nil). It is cut into slices like
// Delete. Labels are an array of their own, 16 bytes an entry, which exists once the first label is set.
func (t *Table) SetLabels(cursor uint64, budget int, match func(*Info) bool, add, del Labels, now Tick) (n int, next uint64, err error) {
	if err := t.reserveLabels(); err != nil {
		return 0, 0, err
	}
	n, next = t.visit(cursor, budget, match, now, func(ref uint32) {
		e := &t.hot.items[ref]
		l := &t.labels.items[ref]
		if e.flags&entryLabel == 0 {
			e.flags |= entryLabel
			*l = Labels{}
		}
		old := *l
		for i := range l {
			l[i] = (l[i] | add[i]) &^ del[i]
		}
		e.verdict = [2]uint32{} // it may depend on the labels
		if t.events != nil && *l != old {
			t.emit(EventUpdate, ChangedLabels, ref, now)
		}
	})
	return n, next, nil
}

// reserveLabels reserves the labels' array.
func (t *Table) reserveLabels() (err error) {
	if t.labels.items == nil {
		if t.labels, err = newArena[Labels](t.reserve); err == nil {
			t.labels.scattered()
		}
	}
	return err
}

// Labels returns the connection's labels.
func (t *Table) Labels(c *Conn) Labels {
	if c.Ref == 0 || t.hot.items[c.Ref].flags&entryLabel == 0 {
		return Labels{}
	}
	return t.labels.items[c.Ref]
}

// AddLabels sets labels of the connection, beside those that it has. Other labels than before clear the cached verdicts.
// Without an entry it does nothing. The error is that of reserving memory for the labels of the whole table.
func (t *Table) AddLabels(c *Conn, add Labels) error {
	if c.Ref == 0 {
		return nil
	}
	if err := t.reserveLabels(); err != nil {
		return err
	}
	e, l := &t.hot.items[c.Ref], &t.labels.items[c.Ref]
	if e.flags&entryLabel == 0 {
		e.flags |= entryLabel
		*l = Labels{}
	}
	if l.Contains(add) {
		return nil
	}
	l[0] |= add[0]
	l[1] |= add[1]
	e.verdict = [2]uint32{}
	if t.events != nil && uint32(e.status)&StatusConfirmed != 0 {
		t.emit(EventUpdate, ChangedLabels, uint32(c.Ref), t.sweep.last)
	}
	return nil
}
