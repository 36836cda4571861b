package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"corewire/conntrack"
)

// More attributes of ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaTupleReply  = 2
	ctaStatus      = 3
	ctaTupleIP     = 1
	ctaTupleProto  = 2
	ctaIPv4Src     = 1
	ctaIPv4Dst     = 2
	ctaProtoNum    = 1
	ctaProtoSource = 2
	ctaProtoDest   = 3
)

// maximum returns nf_conntrack_max, which belongs to the machine: in a namespace it can be read only.
func maximum() (int, error) {
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		return 0, fmt.Errorf("read the kernel's maximum of connections: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// fillFlow returns the ends of connection n of those that fill a table: IPv4, from a port of its own.
func fillFlow(n int) (from, to netip.AddrPort) {
	a := netip.AddrFrom4([4]byte{198, 18, byte(n >> 16), 1})
	b := netip.AddrFrom4([4]byte{198, 19, byte(n >> 16), 2})
	return netip.AddrPortFrom(a, uint16(n)), netip.AddrPortFrom(b, 7)
}

// fill enters connections number first to first+count of fillFlow, UDPLite, into the kernel's table, some hundred a system
// call, as ctnetlink takes them. They are ASSURED or have seen no reply, and live for seconds.
func (k *kernel) fill(first, count int, assured bool, seconds uint32) error {
	return k.do(func() error {
		s, err := nl.Subscribe(unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("fill the kernel's table: %w", err)
		}
		defer s.Close()
		const batch = 256
		var b []byte
		for i := range count {
			b = append(b, fillMessage(first+i, assured, seconds)...)
			if i%batch < batch-1 && i < count-1 {
				continue
			}
			if err := unix.Sendto(s.GetFd(), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
				return fmt.Errorf("fill the kernel's table: %w", err)
			}
			b = b[:0]
		}
		return nil
	})
}

func fillMessage(n int, assured bool, seconds uint32) []byte {
	from, to := fillFlow(n)
	tuple := func(typ int, from, to netip.AddrPort) *nl.RtAttr {
		t := nl.NewRtAttr(typ|unix.NLA_F_NESTED, nil)
		ip := t.AddRtAttr(ctaTupleIP|unix.NLA_F_NESTED, nil)
		ip.AddRtAttr(ctaIPv4Src, from.Addr().AsSlice())
		ip.AddRtAttr(ctaIPv4Dst, to.Addr().AsSlice())
		proto := t.AddRtAttr(ctaTupleProto|unix.NLA_F_NESTED, nil)
		proto.AddRtAttr(ctaProtoNum, []byte{unix.IPPROTO_UDPLITE})
		proto.AddRtAttr(ctaProtoSource, binary.BigEndian.AppendUint16(nil, from.Port()))
		proto.AddRtAttr(ctaProtoDest, binary.BigEndian.AppendUint16(nil, to.Port()))
		return t
	}
	status := uint32(conntrack.StatusConfirmed)
	if assured {
		status |= conntrack.StatusAssured | conntrack.StatusSeenReply
	}
	m := nl.NewNetlinkRequest(ctNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	m.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET})
	m.AddData(tuple(ctaTupleOrig, from, to))
	m.AddData(tuple(ctaTupleReply, to, from))
	m.AddData(nl.NewRtAttr(ctaTimeout, binary.BigEndian.AppendUint32(nil, seconds)))
	m.AddData(nl.NewRtAttr(ctaStatus, binary.BigEndian.AppendUint32(nil, status)))
	return m.Serialize()
}

// counter returns a counter of the kernel's connection tracking, by the name of its column, over all processors.
func (k *kernel) counter(name string) (total uint64, err error) {
	err = k.do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/stat/nf_conntrack")
		if err != nil {
			return fmt.Errorf("read the kernel's counters: %w", err)
		}
		column := -1
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if column < 0 {
				for i := range f {
					if f[i] == name {
						column = i
					}
				}
				if column < 0 {
					return fmt.Errorf("the kernel has no counter %s", name)
				}
				continue
			}
			n, err := strconv.ParseUint(f[column], 16, 64)
			if err != nil {
				return fmt.Errorf("read the kernel's counter %s: %w", name, err)
			}
			total += n
		}
		return nil
	})
	return total, err
}

// count returns the number of the kernel's connections.
func (k *kernel) count() (n int, err error) {
	err = k.do(func() (err error) { n, err = connections(); return err })
	return n, err
}
