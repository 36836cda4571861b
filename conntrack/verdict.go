package conntrack

// ClearVerdicts forgets all cached verdicts. It touches every entry, a millisecond or more for a million: for the rare
// moment when the caller's own numbering of its rule sets begins again.
func (t *Table) ClearVerdicts() {
	for i := range t.hot.items[:t.slots.top] {
		t.hot.items[i].verdict = [2]uint32{}
	}
}

// Left returns how long the packet's connection has to live if no packet follows, in whole seconds as a listing shows
// it; 0 without a connection, and for one that is not confirmed: the kernel takes the timeout of such a connection for a
// point in time, which is long past (nf_ct_expires, include/net/netfilter/nf_conntrack.h).
func (t *Table) Left(c *Conn, now Tick) uint32 {
	if c.Ref == 0 || c.Fresh {
		return 0
	}
	return uint32(max(0, int32(t.hot.items[c.Ref].deadline-now))) / 1000
}
