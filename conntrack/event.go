package conntrack

// EventKind is what happened to a connection.
type EventKind uint8

const (
	EventNew     EventKind = iota // it was entered into the table
	EventUpdate                   // Event.Changed says what changed
	EventDestroy                  // it has left the table, for whatever reason
	EventKinds                    // number of kinds
)

// String returns the spelling of `conntrack -E`'s lines: NEW, UPDATE, DESTROY.
func (k EventKind) String() string {
	switch k {
	case EventNew:
		return "NEW"
	case EventUpdate:
		return "UPDATE"
	case EventDestroy:
		return "DESTROY"
	}
	return "unknown"
}

// Bits of Event.Changed, the causes of an update (enum ip_conntrack_events,
// include/uapi/linux/netfilter/nf_conntrack_common.h). What was not the cause of an event is not shown in its line: neither
// a TCP state nor a mark of 0 (ctnetlink_conntrack_event, net/netfilter/nf_conntrack_netlink.c).
const (
	ChangedState  uint8 = 1 << 0 // the protocol's state (IPCT_PROTOINFO)
	ChangedStatus uint8 = 1 << 1 // SEEN_REPLY or ASSURED was set (IPCT_REPLY, IPCT_ASSURED)
	ChangedMark   uint8 = 1 << 2 // IPCT_MARK
	ChangedLabels uint8 = 1 << 3 // IPCT_LABEL
)

// Event is one change of the table.
type Event struct {
	Kind    EventKind
	Changed uint8
	At      Tick // when it happened
	Info    Info // the connection afterwards; Left is 0 if it has expired
}

// EventSink takes events. Push takes those that it has room for and returns how many they are; it keeps nothing of the
// slice and does not wait. A ring.SPSC of Events is one.
type EventSink interface {
	Push([]Event) int
}

// Listen has every event from now on pushed to sink; nil ends that. Events that the sink has no room for are counted in
// EventsLost. Without a sink an event costs one comparison. It is called between two bursts.
func (t *Table) Listen(sink EventSink) { t.events = sink }

// Heard reports whether Listen has a sink.
func (t *Table) Heard() bool { return t.events != nil }

// EventsLost returns how many events found no room in their sink since New.
func (t *Table) EventsLost() uint64 { return t.eventsLost }

// emit pushes one event.
func (t *Table) emit(kind EventKind, changed uint8, ref uint32, now Tick) {
	v := &t.event[0]
	v.Kind, v.Changed, v.At = kind, changed, now
	t.fill(ref, &v.Info, now, t.sweep.extend(now))
	if t.events.Push(t.event[:]) == 0 {
		t.eventsLost++
	}
}

// changes reports what a packet has changed of an entry that had this state and these status bits before.
func (e *entry) changes(state uint8, status uint16) (changed uint8) {
	if e.state != state {
		changed = ChangedState
	}
	if (e.status^status)&uint16(StatusSeenReply|StatusAssured) != 0 {
		changed |= ChangedStatus
	}
	return changed
}
