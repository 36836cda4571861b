package ring

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"

	"corewire/internal/packet"

	"corewire/internal/spelling"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// host is our way to the kernel's network devices. Its handles belong to the network namespace of the thread that opened
// it, and go on doing so on any thread.
type host struct {
	nl    *netlink.Handle
	eth   *ethtool.Ethtool
	netns *os.File // the network namespace, for what goes by paths
}

func openHost() (*host, error) {
	netns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_GENERIC)
	if err != nil {
		netns.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	eth, err := ethtool.NewEthtool()
	if err != nil {
		netns.Close()
		nl.Close()
		return nil, fmt.Errorf("open ethtool socket: %w", err)
	}
	return &host{nl: nl, eth: eth, netns: netns}, nil
}

func (h *host) close() error {
	h.nl.Close()
	h.eth.Close()
	return h.netns.Close()
}

// inside runs f on a thread in the host's network namespace: this one, or if it is in another, one that goes there.
func (h *host) inside(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var there, here unix.Stat_t
	if err := unix.Fstat(int(h.netns.Fd()), &there); err != nil {
		return fmt.Errorf("look at network namespace: %w", err)
	}
	if err := unix.Stat("/proc/thread-self/ns/net", &here); err != nil {
		return fmt.Errorf("look at network namespace: %w", err)
	}
	if there.Ino == here.Ino && there.Dev == here.Dev {
		return f()
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, nobody else gets its namespace
		err := unix.Setns(int(h.netns.Fd()), unix.CLONE_NEWNET)
		if err != nil {
			err = fmt.Errorf("enter network namespace: %w", err)
		} else {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// device is an interface as the kernel describes it at one moment.
type device struct {
	port   packet.Port
	name   string // the real name, also where an alternative name was given
	index  int
	mtu    int
	attrs  netlink.LinkAttrs
	driver string // kernel module, "" if it does not say
	rx, tx int    // queues in use
}

// device looks name up, which may be an alternative name (ip link property add altname).
func (h *host) device(port packet.Port, name string) (*device, error) {
	if name == "" {
		return nil, fmt.Errorf("%s interface: no name given", port)
	}
	l, err := h.nl.LinkByName(name)
	if err != nil {
		var none netlink.LinkNotFoundError
		if errors.As(err, &none) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("%s interface %s: no such interface%s", port, name, h.suggest(name))
		}
		return nil, fmt.Errorf("look up %s interface %s: %w", port, name, err)
	}
	a := l.Attrs()
	d := &device{port: port, name: a.Name, index: a.Index, mtu: a.MTU, attrs: *a}
	d.driver, _ = h.eth.DriverName(d.name) // only for the report; a device without ethtool has none
	h.queues(d)
	return d, nil
}

// refresh reads d again, by its index: it may have been renamed. It reports false if the interface is gone.
func (h *host) refresh(d *device) (bool, error) {
	l, err := h.nl.LinkByIndex(d.index)
	if err != nil {
		var none netlink.LinkNotFoundError
		if errors.As(err, &none) || errors.Is(err, unix.ENODEV) {
			return false, nil
		}
		return false, fmt.Errorf("look up %s interface %s: %w", d.port, d.name, err)
	}
	a := l.Attrs()
	d.name, d.mtu, d.attrs = a.Name, a.MTU, *a
	return true, nil
}

// queues fills in the numbers of queues in use: from ethtool, where the driver knows it, else those it was made with.
func (h *host) queues(d *device) {
	d.rx, d.tx = max(d.attrs.NumRxQueues, 1), max(d.attrs.NumTxQueues, 1)
	if c, err := h.eth.GetChannels(d.name); err == nil {
		if rx := c.CombinedCount + c.RxCount; rx > 0 {
			d.rx = int(rx)
		}
		if tx := c.CombinedCount + c.TxCount; tx > 0 {
			d.tx = int(tx)
		}
	}
}

// suggest returns a hint with up to three interfaces whose names are near, else with all that there are.
func (h *host) suggest(name string) string {
	links, err := h.nl.LinkList()
	if err != nil {
		return ""
	}
	var all, near []string
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 {
			continue
		}
		all = append(all, a.Name)
		for _, n := range append([]string{a.Name}, a.AltNames...) {
			if spelling.Distance(n, name) <= 2 || strings.EqualFold(n, name) || strings.HasPrefix(n, name) {
				near = append(near, n)
			}
		}
	}
	slices.Sort(all)
	slices.SortStableFunc(near, func(a, b string) int { return spelling.Distance(a, name) - spelling.Distance(b, name) })
	switch {
	case len(near) > 0:
		return " (did you mean " + strings.Join(near[:min(len(near), 3)], " or ") + "?)"
	case len(all) == 0:
		return " (this network namespace has none but the loopback)"
	case len(all) <= 8:
		return " (there are " + strings.Join(all, ", ") + ")"
	}
	return fmt.Sprintf(" (there are %s and %d more)", strings.Join(all[:8], ", "), len(all)-8)
}

// linkOverhead is what a frame may have beyond the MTU: the Ethernet header and two VLAN tags.
const linkOverhead = 14 + 2*4

// chunkFor returns the chunk size that holds the frames of an MTU: the one asked for, or with 0 the smallest that does.
func chunkFor(mtu, size int) (int, error) {
	if size == 0 {
		size = DefaultChunkSize
		if mtu+linkOverhead > size-Headroom {
			size = MaxChunkSize
		}
	}
	if most := size - Headroom - linkOverhead; mtu > most {
		hint := "lower the MTU of both interfaces and of what is behind them"
		if size < MaxChunkSize {
			hint += fmt.Sprintf(", or take a chunk size of %d", MaxChunkSize)
		}
		return 0, fmt.Errorf("mtu %d does not fit a chunk of %d bytes, which holds up to %d (%s)", mtu, size, most, hint)
	}
	return size, nil
}

// checkDevice refuses an interface that cannot be a port of a wire.
func (h *host) checkDevice(d *device) error {
	a := &d.attrs
	switch {
	case a.Flags&net.FlagLoopback != 0:
		return fmt.Errorf("%s interface %s is the loopback device (a port needs an ethernet interface)", d.port, d.name)
	case a.EncapType != "ether":
		return fmt.Errorf("%s interface %s is not ethernet, but %s", d.port, d.name, a.EncapType)
	case a.MasterIndex != 0:
		master, kind := fmt.Sprintf("interface %d", a.MasterIndex), "another interface"
		if l, err := h.nl.LinkByIndex(a.MasterIndex); err == nil {
			master, kind = l.Attrs().Name, l.Type()
		}
		return fmt.Errorf("%s interface %s belongs to the %s %s, which would get no frames any more (ip link set %s nomaster)",
			d.port, d.name, kind, master, d.name)
	case d.tx < d.rx:
		return fmt.Errorf("%s interface %s has %d receive queues but %d transmit queues (ethtool -L %s)", d.port, d.name, d.rx, d.tx, d.name)
	}
	return nil
}

// checkPair refuses two interfaces that cannot be the ports of one wire.
func checkPair(in, out *device) error {
	switch {
	case in.index == out.index:
		return fmt.Errorf("inside and outside are the same interface %s", in.name)
	case in.attrs.ParentIndex == out.index && out.attrs.ParentIndex == in.index && in.driver == "veth":
		return fmt.Errorf("inside interface %s and outside interface %s are the two ends of one veth pair: every frame would circle", in.name, out.name)
	case in.mtu != out.mtu:
		return fmt.Errorf("inside interface %s has mtu %d, outside interface %s has %d (a transparent wire needs the same: ip link set %s mtu %d)",
			in.name, in.mtu, out.name, out.mtu, larger(in, out).name, min(in.mtu, out.mtu))
	}
	return nil
}

func larger(a, b *device) *device {
	if a.mtu > b.mtu {
		return a
	}
	return b
}
