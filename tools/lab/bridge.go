package lab

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
)

// BridgePort is the name of the bridge that Bridge makes.
const BridgePort = "br0"

// Bridge connects the wire's two ports by a Linux bridge without an address, spanning tree or multicast snooping. It is
// the alternative that corewire is compared with, and the oracle that its decisions are checked against.
//
// With filter, frames that cross the bridge are shown to iptables and ip6tables (br_netfilter), VLAN-tagged ones
// included; the error says so if the kernel lacks br_netfilter or its module is not loaded. Connections are
// tracked once a rule in the namespace asks for the connection state.
func (l *Lab) Bridge(filter Filter) error {
	return l.Do(Wire, func() error {
		if filter == Netfilter {
			if err := netfilter(); err != nil {
				return err
			}
		}
		off := false
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = BridgePort, l.config.MTU
		bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("make bridge %s: %w", BridgePort, err)
		}
		if err := setSysctl("net/ipv6/conf/"+BridgePort+"/disable_ipv6", "1"); err != nil {
			return err
		}
		for _, port := range []string{InsidePort, OutPort} {
			link, err := netlink.LinkByName(port)
			if err != nil {
				return fmt.Errorf("find interface %s: %w", port, err)
			}
			if err := netlink.LinkSetMaster(link, bridge); err != nil {
				return fmt.Errorf("put %s into bridge %s: %w", port, BridgePort, err)
			}
		}
		if err := up(BridgePort); err != nil {
			return err
		}
		return waitCarrier(BridgePort)
	})
}

// Filter says whether a bridge shows its frames to netfilter.
type Filter uint8

const (
	Plain     Filter = 0 // switch frames, nothing else
	Netfilter Filter = 1 // br_netfilter: iptables' FORWARD chain sees what is switched
)

// netfilter turns br_netfilter on in the calling thread's namespace (net/bridge/br_netfilter_hooks.c).
func netfilter() error {
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-filter-vlan-tagged"} {
		if err := setSysctl("net/bridge/"+name, "1"); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%w (is br_netfilter loaded?)", err)
			}
			return err
		}
	}
	return nil
}

// Receive turns generic receive offload on at the wire's two ports, and with it NAPI: without it, and without an XDP program
// on them, frames that an XDP program redirects into the hosts' interfaces are dropped before they reach the wire.
func (l *Lab) Receive() error {
	return l.Do(Wire, func() error {
		for _, port := range []string{InsidePort, OutPort} {
			if err := setFeatures(port, map[string]bool{"rx-gro": true}); err != nil {
				return err
			}
		}
		return nil
	})
}
