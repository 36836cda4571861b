package dataplane

import (
	"fmt"
	"slices"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/rules"
)

// What rules remember of connections (-m connlimit) is tied to these by tickets: the matcher takes one when a rule counts
// a connection, the connection's shard keeps it, and gives it back when the connection has closed or gone. Nobody looks
// through connections to count them.

// tickets is a worker's room for those of one packet.
type tickets struct {
	held, taken [rules.MaxTickets]rules.Ticket
}

// keepTickets prepares the worker's table for a rule set that has tickets.
func (w *Worker) keepTickets(rs *rules.Ruleset) error {
	if rs.Needs()&rules.NeedTickets == 0 {
		return nil
	}
	err := w.table.KeepTickets(func(t uint64) { w.matcher.Ruleset().Release(t) })
	if err != nil {
		return fmt.Errorf("worker %d: prepare for connlimit rules: %w", w.id, err)
	}
	return nil
}

// showTickets writes those of the packet's connection into the context. Of a packet without connection the one counts that
// its addresses and ports name (get_ct_or_tuple_from_skb, net/netfilter/nf_conncount.c).
func (w *Worker) showTickets(p *packet.Packet, conn *conntrack.Conn) {
	c, of := &w.context, *conn
	if of.Ref == 0 {
		of = w.table.Lookup(p)
		c.Status = w.table.Status(&of)
	}
	c.Held = w.table.Tickets(&of, w.tickets.held[:0])
	c.Taken = w.tickets.taken[:0]
}

// tieTickets ties what the rules took for a packet to its connection. What finds none goes back: the packet was dropped
// before it could begin one, or has none, or its connection has closed.
func (w *Worker) tieTickets(conn *conntrack.Conn) {
	c := &w.context
	held := w.table.Tickets(conn, w.tickets.held[:0]) // of another one than before, if Confirm found the connection there
	for _, t := range c.Taken {
		if slices.Contains(held, t) || !w.table.AddTicket(conn, t) {
			w.matcher.Ruleset().Release(t)
		}
	}
	c.Taken = c.Taken[:0]
}
