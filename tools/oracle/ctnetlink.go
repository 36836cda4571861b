package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Messages and attributes of ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	ctNew    = unix.NFNL_SUBSYS_CTNETLINK << 8
	ctGet    = ctNew + 1
	ctDelete = ctNew + 2

	ctaTupleOrig = 1
	ctaTimeout   = 7
	ctaID        = 12
	ctaZone      = 18
)

// flush removes all connections.
func (k *kernel) flush() error {
	return k.do(func() error {
		if n, err := connections(); n == 0 {
			return err
		}
		if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			return fmt.Errorf("flush the kernel's connections: %w", err)
		}
		return nil
	})
}

// aged is what is known of an entry whose timeout was set: the kernel takes whole seconds only, and would lose a part of one
// each time.
type aged struct {
	deadline time.Time     // set in the kernel, by the machine's clock
	off      time.Duration // what the true deadline is later than that
}

// age makes every connection older by a whole number of seconds: its timeout is set to what is left of it, and it is
// removed if that is nothing. Deadlines move by less than a second in all, however often it is called.
func (k *kernel) age(by time.Duration) error {
	return k.do(func() error {
		if err := k.ageAll(by); err != nil {
			return fmt.Errorf("age the kernel's connections: %w", err)
		}
		return nil
	})
}

func (k *kernel) ageAll(by time.Duration) error {
	before := k.aged
	k.aged = map[string]aged{}
	dump := nl.NewNetlinkRequest(ctGet, unix.NLM_F_DUMP)
	dump.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC})
	entries, err := dump.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return err
	}
	for _, e := range entries {
		attrs, err := nl.ParseRouteAttr(e[nl.SizeofNfgenmsg:])
		if err != nil {
			return err
		}
		change := nl.NewNetlinkRequest(ctDelete, unix.NLM_F_ACK)
		change.AddData(&nl.Nfgenmsg{NfgenFamily: e[0]})
		var left time.Duration
		var name string
		for _, a := range attrs {
			switch a.Attr.Type & nl.NLA_TYPE_MASK {
			case ctaTupleOrig, ctaID, ctaZone:
				change.AddData(nl.NewRtAttr(int(a.Attr.Type), a.Value))
				name += string(a.Value)
			case ctaTimeout:
				left = time.Duration(binary.BigEndian.Uint32(a.Value))*time.Second + time.Second/2 // it was cut
			}
		}
		if was, ok := before[name]; ok {
			if exact := time.Until(was.deadline); (exact - left).Abs() <= time.Second {
				left = exact + was.off
			}
		}
		left -= by
		if seconds := (left + time.Second/2) / time.Second; left > 0 {
			seconds = max(seconds, 1)
			k.aged[name] = aged{time.Now().Add(seconds * time.Second), left - seconds*time.Second}
			change.Type = ctNew
			change.AddData(nl.NewRtAttr(ctaTimeout, binary.BigEndian.AppendUint32(nil, uint32(seconds))))
		}
		// It may have expired meanwhile.
		if _, err := change.Execute(unix.NETLINK_NETFILTER, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}
