package conntrack

// Dump is the slow twin of Copy and Infos: it copies entries to out, from the place that cursor names (0 to begin), and returns how many they are and the
// cursor to go on with; 0 when the listing is complete. Expired entries are left out. An entry that is there during the
// whole listing is in it exactly once; one that comes or goes meanwhile is in it or not. The cost of a call is bounded
// by len(out): it examines at most that many entries and eight times as many empty places, so that a call may copy
// nothing and still not be the last.
func (t *Table) Dump(cursor uint64, out []Info, now Tick) (n int, next uint64) {
	ext := t.sweep.extend(now)
	return t.walk(cursor, len(out), now, func(ref uint32, at int) bool { return t.info(ref, &out[at], now, ext) })
}
