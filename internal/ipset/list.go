package ipset

import "sync/atomic"

// member is an element of a list:set. The list of members is replaced as a whole by who changes it.
type member struct {
	handle *Handle
	state  atomic.Uint64 // expiry, as a slot's
	loaded bool
	ext    []uint64 // counters and skbinfo
	note   string
}

// memberBytes is what a member takes, without its comment.
const memberBytes = 80

func (m *member) late(now Tick) bool { return expired(m.state.Load(), now) }

// lookList asks the members in order (list_set_ktest): the first that has the packet and counts it decides. Counters are
// compared for the list only.
func (s *Set) lookList(a *asking) hit {
	sub := *a
	sub.match = false
	sub.keep = a.keep || a.q.KeepSubCounters
	for _, m := range *s.list.Load() {
		if m.handle.test(&sub) == found && s.accept(m.ext, m.state.Load(), a) {
			return found
		}
	}
	return miss
}
