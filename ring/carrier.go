package ring

import (
	"fmt"
	"sync/atomic"
	"syscall"

	"corewire/internal/packet"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// carrier follows the link state of both ports, from the kernel's notifications (RTNLGRP_LINK).
type carrier struct {
	up     [packet.Ports]atomic.Bool // written by the goroutine, read by anybody
	index  [packet.Ports]int
	h      *host
	socket *nl.NetlinkSocket
	closed atomic.Bool   // set before the socket is closed
	done   chan struct{} // closed when the goroutine has ended
}

// watchCarrier starts to follow the interfaces d. The caller closes it.
func watchCarrier(h *host, d *[packet.Ports]*device) (*carrier, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return nil, fmt.Errorf("subscribe to link changes: %w", err)
	}
	c := &carrier{h: h, socket: s, done: make(chan struct{})}
	for port := range d {
		c.index[port] = d[port].index
	}
	c.look() // after subscribing: no change in between is missed
	go c.run()
	return c, nil
}

// look asks for the present state.
func (c *carrier) look() {
	for port, index := range c.index {
		l, err := c.h.nl.LinkByIndex(index)
		c.up[port].Store(err == nil && l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0)
	}
}

func (c *carrier) run() {
	defer close(c.done)
	for {
		msgs, from, err := c.socket.Receive()
		switch {
		case c.closed.Load():
			return
		case err != nil: // ENOBUFS: notifications were lost
			c.look()
			continue
		case from.Pid != nl.PidKernel:
			continue
		}
		for i := range msgs {
			c.take(&msgs[i])
		}
	}
}

// take follows one notification.
func (c *carrier) take(m *syscall.NetlinkMessage) {
	if len(m.Data) < unix.SizeofIfInfomsg {
		return
	}
	info := nl.DeserializeIfInfomsg(m.Data)
	for port, index := range c.index {
		if int(info.Index) == index {
			c.up[port].Store(m.Header.Type == unix.RTM_NEWLINK && info.Flags&unix.IFF_LOWER_UP != 0)
		}
	}
}

// close ends the goroutine and waits for it.
func (c *carrier) close() {
	c.closed.Store(true)
	c.socket.Close() // ends Receive
	<-c.done
}
