package conntrack

import "corewire/internal/packet"

// Reset closes the packet's TCP connection: a RST was sent in the name of one of its ends, which no tracker sees
// (nf_conntrack_tcp_set_closing, net/netfilter/nf_conntrack_proto_tcp.c, for REJECT). It stays for the timeout of that
// state. Without a connection in the table, or one of another protocol, it does nothing.
func (t *Table) Reset(c *Conn, now Tick) {
	if c.Ref == 0 || c.Fresh {
		return
	}
	ref := uint32(c.Ref)
	e := &t.hot.items[ref]
	if e.key.Proto != packet.ProtoTCP || e.state == tcpClose {
		return
	}
	e.state = tcpClose
	t.afterClose(e, ref)
	status := uint32(e.status)
	if t.events != nil {
		t.emit(EventUpdate, ChangedState, ref, now)
	}
	t.refresh(e, ref, status, max(t.setOf(e, ref).tcp[tcpClose], 1), now)
}
