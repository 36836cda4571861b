package ring

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The netdev family of generic netlink (include/uapi/linux/netdev.h), Linux 6.3.
const (
	netdevGet      = 1      // NETDEV_CMD_DEV_GET
	netdevIndex    = 1      // NETDEV_A_DEV_IFINDEX, u32
	netdevFeatures = 3      // NETDEV_A_DEV_XDP_FEATURES, u64
	featureXmit    = 1 << 2 // NETDEV_XDP_ACT_NDO_XMIT: takes frames that another interface's program redirects to it
)

// genlHeader is struct genlmsghdr: command, version, and two reserved bytes, which this family wants to be zero.
type genlHeader [nl.SizeofGenlmsg]byte

func (h genlHeader) Len() int          { return len(h) }
func (h genlHeader) Serialize() []byte { return h[:] }

// xdpFeatures asks the kernel what the interface can do with XDP at this moment. Kernels before 6.3 cannot say: an error.
// Only on a thread in the interface's network namespace.
func (h *host) xdpFeatures(index int) (uint64, error) {
	family, err := h.nl.GenlFamilyGet("netdev")
	if err != nil {
		return 0, fmt.Errorf("look up netlink family netdev: %w", err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	req.AddData(genlHeader{netdevGet, 1})
	req.AddData(nl.NewRtAttr(netdevIndex, nl.Uint32Attr(uint32(index))))
	msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, fmt.Errorf("ask for xdp features: %w", err)
	}
	for _, m := range msgs {
		if len(m) < nl.SizeofGenlmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, fmt.Errorf("read xdp features: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == netdevFeatures && len(a.Value) == 8 {
				return binary.NativeEndian.Uint64(a.Value), nil
			}
		}
	}
	return 0, fmt.Errorf("ask for xdp features: none in the answer")
}
