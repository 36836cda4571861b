package lab

import (
	"context"
	"net"
)

// Dial connects from inside a namespace. The address must be numeric: names would be looked up on other threads.
func (l *Lab) Dial(ctx context.Context, w Where, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := l.Do(w, func() (err error) {
		// One address, so the dialer races no second attempt on another goroutine, which would leave the namespace.
		var d net.Dialer
		d.SetMultipathTCP(false)
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen opens a listening stream socket inside a namespace; the address must be numeric.
func (l *Lab) Listen(ctx context.Context, w Where, network, address string) (net.Listener, error) {
	var listener net.Listener
	err := l.Do(w, func() (err error) {
		var c net.ListenConfig
		c.SetMultipathTCP(false)
		listener, err = c.Listen(ctx, network, address)
		return err
	})
	return listener, err
}

// ListenPacket opens a datagram socket inside a namespace; the address must be numeric.
func (l *Lab) ListenPacket(ctx context.Context, w Where, network, address string) (net.PacketConn, error) {
	var conn net.PacketConn
	err := l.Do(w, func() (err error) {
		var c net.ListenConfig
		conn, err = c.ListenPacket(ctx, network, address)
		return err
	})
	return conn, err
}
