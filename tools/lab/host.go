package lab

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostFeatures is what the interface of an end host is set to, by the kernel's feature names (net/ethtool/common.c).
// Features that the interface does not have are passed over.
var hostFeatures = map[string]bool{
	"tx-checksum-ipv4":             false,
	"tx-checksum-ipv6":             false,
	"tx-checksum-ip-generic":       false,
	"tx-checksum-sctp":             false,
	"tx-tcp-segmentation":          false,
	"tx-tcp-ecn-segmentation":      false,
	"tx-tcp-mangleid-segmentation": false,
	"tx-tcp6-segmentation":         false,
	"tx-generic-segmentation":      false,
	"tx-udp-segmentation":          false,
	"rx-gro":                       true,
}

// setHost sets up an end host in the calling thread's namespace: loopback, features, addresses, carrier.
func setHost(name string, addrs []netip.Prefix) error {
	if err := up("lo"); err != nil {
		return err
	}
	if err := setFeatures(name, hostFeatures); err != nil {
		return err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	// The kernel would give the link-local address itself, but keep it tentative for a second (RFC 4862 section 5.4).
	if err := netlink.LinkSetIP6AddrGenMode(link, ip6AddrGenModeNone); err != nil {
		return fmt.Errorf("set address generation of %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set interface %s up: %w", name, err)
	}
	for _, a := range append([]netip.Prefix{linkLocal(link.Attrs().HardwareAddr)}, addrs...) {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}}
		if a.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %v to %s: %w", a, name, err)
		}
	}
	return waitCarrier(name)
}

// ip6AddrGenModeNone is IN6_ADDR_GEN_MODE_NONE (include/uapi/linux/if_link.h).
const ip6AddrGenModeNone = 1

// linkLocal returns the address that RFC 4291 appendix A derives from a hardware address.
func linkLocal(mac net.HardwareAddr) netip.Prefix {
	a := [16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]}
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// up sets an interface of the calling thread's namespace up.
func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set interface %s up: %w", name, err)
	}
	return nil
}

// waitCarrier waits until an interface is up, running and has carrier.
func waitCarrier(name string) error {
	for deadline := time.Now().Add(carrierTimeout); ; time.Sleep(time.Millisecond) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find interface %s: %w", name, err)
		}
		if link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 && link.Attrs().OperState != netlink.OperDown {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("interface %s has no carrier after %v", name, carrierTimeout)
		}
	}
}

// setFeatures sets those of the given features that an interface of the calling thread's namespace has.
func setFeatures(name string, want map[string]bool) error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open ethtool socket: %w", err)
	}
	defer e.Close()
	have, err := e.FeaturesWithState(name)
	if err != nil {
		return fmt.Errorf("read features of %s: %w", name, err)
	}
	change := make(map[string]bool)
	for feature, on := range want {
		if state, ok := have[feature]; ok && state.Available && !state.NeverChanged && state.Active != on {
			change[feature] = on
		}
	}
	if len(change) == 0 {
		return nil
	}
	if err := e.Change(name, change); err != nil {
		return fmt.Errorf("set features of %s: %w", name, err)
	}
	return nil
}

// setSysctl writes a value below /proc/sys; names under net belong to the calling thread's namespace.
func setSysctl(name, value string) error {
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	return nil
}
