package conntrack

import "corewire/internal/packet"

// tickets are numbers that the caller ties to connections, any number to each: that a connection is counted somewhere. Each
// is handed back once, when the connection leaves the table or its TCP state says that it has closed. A connection's are a
// list, whose first node is in a side array; both arrays exist once KeepTickets is called, and take memory as far as
// they are used: 4 bytes an entry and 16 a ticket.
type tickets struct {
	head  arena[uint32]     // by entry, where entryTicket is set
	nodes arena[ticketNode] // node 0 is not used
	free  uint32            // first of the free nodes
	used  uint32            // nodes ever used
	back  func(uint64)
}

type ticketNode struct {
	ticket uint64 // 0 in a free node
	next   uint32
	_      uint32
}

// ticketsPerEntry bounds the tickets of a shard, on the average: address space, not memory.
const ticketsPerEntry = 2

// KeepTickets has the table keep tickets from now on; each that goes is given to back, in the table's own goroutine, whether
// a packet, the sweep or a command was the cause. It may be called again, with another function.
func (t *Table) KeepTickets(back func(ticket uint64)) error {
	k := &t.tickets
	if k.head.items == nil {
		head, err := newArena[uint32](t.reserve)
		if err != nil {
			return err
		}
		nodes, err := newArena[ticketNode](t.reserve*ticketsPerEntry + 1)
		if err != nil {
			_ = head.close() // the first error is the one to be told
			return err
		}
		head.scattered()
		nodes.scattered()
		k.head, k.nodes = head, nodes
	}
	k.back = back
	return nil
}

// AddTicket ties a ticket, not 0, to a connection. It reports false, and the ticket stays the caller's, when the packet has no
// connection in the table, when that has closed, and when there is no room.
func (t *Table) AddTicket(c *Conn, ticket uint64) bool {
	k := &t.tickets
	e := &t.hot.items[c.Ref]
	if c.Ref == 0 || uint32(e.status)&StatusConfirmed == 0 || k.head.items == nil || e.closed() {
		return false
	}
	n := k.free
	switch {
	case n != 0:
		k.free = k.nodes.items[n].next
	case int(k.used)+1 < len(k.nodes.items):
		k.used++
		n = k.used
	default:
		return false
	}
	next := uint32(0)
	if e.flags&entryTicket != 0 {
		next = k.head.items[c.Ref]
	}
	e.flags |= entryTicket
	k.nodes.items[n] = ticketNode{ticket: ticket, next: next}
	k.head.items[c.Ref] = n
	return true
}

// Tickets appends a connection's tickets to dst, as many as it has room for: it allocates nothing.
func (t *Table) Tickets(c *Conn, dst []uint64) []uint64 {
	if t.hot.items[c.Ref].flags&entryTicket == 0 {
		return dst
	}
	for n := t.tickets.head.items[c.Ref]; n != 0 && len(dst) < cap(dst); n = t.tickets.nodes.items[n].next {
		dst = append(dst, t.tickets.nodes.items[n].ticket)
	}
	return dst
}

// handBack hands back the tickets of an entry, which has some.
func (t *Table) handBack(e *entry, ref uint32) {
	e.flags &^= entryTicket
	k := &t.tickets
	for n := k.head.items[ref]; n != 0; {
		x := &k.nodes.items[n]
		ticket, next := x.ticket, x.next
		*x = ticketNode{next: k.free}
		k.free, n = n, next
		k.back(ticket)
	}
}

// handBackAll hands back every ticket.
func (t *Table) handBackAll() {
	k := &t.tickets
	for n := uint32(1); n <= k.used; n++ {
		if ticket := k.nodes.items[n].ticket; ticket != 0 {
			k.back(ticket)
		}
		k.nodes.items[n].ticket = 0
	}
	k.free, k.used = 0, 0
}

// closed reports whether a TCP connection is over and only waits for its timeout (already_closed,
// net/netfilter/nf_conncount.c).
func (e *entry) closed() bool {
	return e.key.Proto == packet.ProtoTCP && (e.state == tcpTimeWait || e.state == tcpClose)
}

// afterClose hands back what a connection whose state has changed need not keep any more.
func (t *Table) afterClose(e *entry, ref uint32) {
	if e.flags&entryTicket != 0 && e.closed() {
		t.handBack(e, ref)
	}
}

// Lookup returns the connection that a packet's addresses and ports name, for a packet that Track found to have none; its
// Ref is 0 if there is none. Nothing changes.
func (t *Table) Lookup(p *packet.Packet) Conn {
	return Conn{Ref: Ref(t.peek(&p.Key, p.Hash))}
}
