package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"github.com/vishvananda/netlink"
)

// Names of the interfaces. Rules and commands of every lab can rely on them, since each lab has its own namespaces.
const (
	ClientPort = "client0" // the client's interface
	InsidePort = "in0"     // the wire's port towards the client
	OutPort    = "out0"    // the wire's port towards the server
	ServerPort = "server0" // the server's interface
)

// Hardware addresses of the end hosts; locally administered (IEEE 802).
var (
	clientMAC = net.HardwareAddr{0x02, 0xc0, 0xde, 0, 0, 0x01}
	serverMAC = net.HardwareAddr{0x02, 0xc0, 0xde, 0, 0, 0x02}
)

// Config says how a lab is built. The zero value is a lab with one queue, an MTU of 1500 and the addresses below.
type Config struct {
	// Queues is the number of receive and of transmit queues of each of the four interfaces; 0 means 1. veth takes a
	// native XDP program only where the peer has no more transmit queues than the interface has receive queues.
	Queues int
	// MTU of all four interfaces in bytes; 0 means 1500. veth refuses native XDP without multi-buffer support
	// above a page less headroom, some 3500 bytes.
	MTU int
	// ClientAddr4 … ServerAddr6 are the addresses of the ends with their prefix lengths; the zero values mean
	// 10.73.0.1/24, 10.73.0.2/24, fd73::1/64, fd73::2/64.
	ClientAddr4, ServerAddr4 netip.Prefix
	ClientAddr6, ServerAddr6 netip.Prefix
	// Quiet turns IPv6 off on the wire's two ports, so that the kernel sends no multicast reports through them.
	// Without it they are as an operator would find them.
	Quiet bool
}

func (c *Config) defaults() error {
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.Queues < 1 || c.Queues > 4096 { // veth's own bound, VETH_MAX_QUEUES, follows rtnl's 4096
		return fmt.Errorf("lab with %d queues: must be 1 to 4096", c.Queues)
	}
	if c.MTU < 1280 || c.MTU > 65535 { // RFC 8200 section 5: IPv6 needs 1280
		return fmt.Errorf("lab with an MTU of %d: must be 1280 to 65535", c.MTU)
	}
	for _, d := range []struct {
		addr *netip.Prefix
		text string
	}{
		{&c.ClientAddr4, "10.73.0.1/24"}, {&c.ServerAddr4, "10.73.0.2/24"},
		{&c.ClientAddr6, "fd73::1/64"}, {&c.ServerAddr6, "fd73::2/64"},
	} {
		if *d.addr == (netip.Prefix{}) {
			*d.addr = netip.MustParsePrefix(d.text)
		}
	}
	return nil
}

// Lab is three namespaces in a row: client, wire, server.
type Lab struct {
	config Config
	spaces [namespaces]*namespace
}

// New builds a lab: when it returns, all four interfaces are up, have carrier, and the ends have usable addresses.
// It needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN in the initial user namespace. On an error nothing is left.
func New(c Config) (*Lab, error) {
	if err := c.defaults(); err != nil {
		return nil, err
	}
	l := &Lab{config: c}
	for w := range l.spaces {
		n, err := newNamespace()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("make %v namespace: %w", Where(w), err), l.Close())
		}
		l.spaces[w] = n
	}
	if err := l.connect(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Close removes the lab: commands that still run are killed, interfaces and namespaces go. The commands' owner still
// has to Wait for them. Close may be called twice.
func (l *Lab) Close() error {
	var errs []error
	for w, n := range l.spaces {
		if n != nil {
			errs = append(errs, n.close())
			l.spaces[w] = nil
		}
	}
	return errors.Join(errs...)
}

// Do calls f on a thread inside a namespace and returns its error. Sockets and files that f opens stay in the namespace
// and may be used anywhere; goroutines that f starts do not run in it. The thread ends with f, and with it every
// child process that f itself started with a parent-death signal. A runtime.Goexit in f (testing.T.FailNow) ends the
// calling goroutine, too. A Do inside a Do is allowed.
func (l *Lab) Do(w Where, f func() error) error {
	if err := l.spaces[w].do(f); err != nil {
		return fmt.Errorf("%v namespace: %w", w, err)
	}
	return nil
}

// Start starts cmd inside a namespace, in a process group of its own unless cmd.SysProcAttr is set. The process is
// killed when the lab is closed or this process dies; see Close. The caller waits for it with cmd.Wait.
func (l *Lab) Start(w Where, cmd *exec.Cmd) error {
	if err := l.spaces[w].start(cmd); err != nil {
		return fmt.Errorf("start %s in %v namespace: %w", cmd.Path, w, err)
	}
	return nil
}

// Run starts cmd inside a namespace and waits for it. The error is that of Start or of cmd.Wait.
func (l *Lab) Run(w Where, cmd *exec.Cmd) error {
	if err := l.Start(w, cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// Enter returns the shell command prefix by which a person enters a namespace while the lab lives.
func (l *Lab) Enter(w Where) string {
	n := l.spaces[w]
	return fmt.Sprintf("nsenter --net=/proc/%d/fd/%d --mount=/proc/%d/fd/%d", os.Getpid(), n.net, os.Getpid(), n.mnt)
}

// MTU returns the MTU of the lab's interfaces in bytes.
func (l *Lab) MTU() int { return l.config.MTU }

// Addr returns an end host's address of a family, 4 or 6. The wire has none: the zero Addr.
func (l *Lab) Addr(w Where, family int) netip.Addr {
	switch {
	case w == Client && family == 4:
		return l.config.ClientAddr4.Addr()
	case w == Client && family == 6:
		return l.config.ClientAddr6.Addr()
	case w == Server && family == 4:
		return l.config.ServerAddr4.Addr()
	case w == Server && family == 6:
		return l.config.ServerAddr6.Addr()
	}
	return netip.Addr{}
}

// MAC returns an end host's hardware address; nil for the wire.
func (l *Lab) MAC(w Where) net.HardwareAddr {
	switch w {
	case Client:
		return append(net.HardwareAddr(nil), clientMAC...)
	case Server:
		return append(net.HardwareAddr(nil), serverMAC...)
	}
	return nil
}

// carrierTimeout bounds the wait for carrier; veth gives it at once, so a longer wait would only hide a fault.
const carrierTimeout = 5 * time.Second

// connect makes the two veth pairs and sets up what is in the namespaces.
func (l *Lab) connect() error {
	ends := []struct {
		at         Where
		name, port string
		mac        net.HardwareAddr
		addrs      []netip.Prefix
	}{
		{Client, ClientPort, InsidePort, clientMAC, []netip.Prefix{l.config.ClientAddr4, l.config.ClientAddr6}},
		{Server, ServerPort, OutPort, serverMAC, []netip.Prefix{l.config.ServerAddr4, l.config.ServerAddr6}},
	}
	err := l.Do(Wire, func() error {
		if err := up("lo"); err != nil {
			return err
		}
		for _, e := range ends {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MTU = e.port, l.config.MTU
			attrs.NumRxQueues, attrs.NumTxQueues = l.config.Queues, l.config.Queues
			pair := netlink.NewVeth(attrs)
			pair.PeerName, pair.PeerHardwareAddr, pair.PeerMTU = e.name, e.mac, uint32(l.config.MTU)
			pair.PeerNumRxQueues, pair.PeerNumTxQueues = uint32(l.config.Queues), uint32(l.config.Queues)
			pair.PeerNamespace = netlink.NsFd(l.spaces[e.at].net)
			if err := netlink.LinkAdd(pair); err != nil {
				return fmt.Errorf("make veth pair %s and %s: %w", e.port, e.name, err)
			}
			if l.config.Quiet {
				if err := setSysctl("net/ipv6/conf/"+e.port+"/disable_ipv6", "1"); err != nil {
					return err
				}
			}
			if err := up(e.port); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range ends {
		if err := l.Do(e.at, func() error { return setHost(e.name, e.addrs) }); err != nil {
			return err
		}
	}
	return l.Do(Wire, func() error {
		for _, e := range ends {
			if err := waitCarrier(e.port); err != nil {
				return err
			}
		}
		return nil
	})
}
