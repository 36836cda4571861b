package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"

	"corewire/tools/lab"
)

// linkFrames are the frames that crossed the hosts' interfaces. The wire sees a host's transmission as its reception.
type linkFrames struct{ fromClient, toClient, fromServer, toServer uint64 }

func (a linkFrames) since(b linkFrames) linkFrames {
	return linkFrames{a.fromClient - b.fromClient, a.toClient - b.toClient, a.fromServer - b.fromServer, a.toServer - b.toServer}
}

// readLinkFrames reads the kernel's counters of the hosts' interfaces.
func readLinkFrames(l *lab.Lab) (n linkFrames, err error) {
	read := func(at lab.Where, port string, sent, received *uint64) {
		if err == nil {
			err = l.Do(at, func() error {
				link, err := netlink.LinkByName(port)
				if err != nil {
					return fmt.Errorf("read counters of %s: %w", port, err)
				}
				*sent, *received = link.Attrs().Statistics.TxPackets, link.Attrs().Statistics.RxPackets
				return nil
			})
		}
	}
	read(lab.Client, lab.ClientPort, &n.fromClient, &n.toClient)
	read(lab.Server, lab.ServerPort, &n.fromServer, &n.toServer)
	return n, err
}

// reassembled is the number of datagrams that the hosts put together from fragments.
type reassembled struct{ client, server uint64 }

// readReassembled reads ReasmOKs (RFC 4293, ipIfStatsReasmOKs) of both hosts.
func readReassembled(l *lab.Lab, family int) (r reassembled, err error) {
	if err := l.Do(lab.Client, func() error { r.client, err = reasmOKs(family); return err }); err != nil {
		return r, err
	}
	return r, l.Do(lab.Server, func() error { r.server, err = reasmOKs(family); return err })
}

// reasmOKs reads the counter of the calling thread's namespace.
func reasmOKs(family int) (uint64, error) {
	if family == 6 {
		text, err := os.ReadFile("/proc/thread-self/net/snmp6") // one name and value a line
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "Ip6ReasmOKs" {
				return strconv.ParseUint(f[1], 10, 64)
			}
		}
		return 0, fmt.Errorf("no Ip6ReasmOKs in /proc/thread-self/net/snmp6")
	}
	text, err := os.ReadFile("/proc/thread-self/net/snmp") // a line of names, then a line of values
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "Ip:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		if i := slices.Index(names, "ReasmOKs"); i > 0 && i < len(f) {
			return strconv.ParseUint(f[i], 10, 64)
		}
	}
	return 0, fmt.Errorf("no ReasmOKs in /proc/thread-self/net/snmp")
}

// portSettings is everything about the wire's ports that corewire could change, as text to compare.
type portSettings map[string]string

// readPortSettings reads it for both ports, and what is pinned in the namespace's BPF file system.
func readPortSettings(l *lab.Lab) (portSettings, error) {
	s := make(portSettings)
	err := l.Do(lab.Wire, func() error {
		tool, err := ethtool.NewEthtool()
		if err != nil {
			return fmt.Errorf("open ethtool socket: %w", err)
		}
		defer tool.Close()
		for _, port := range []string{lab.InsidePort, lab.OutPort} {
			link, err := netlink.LinkByName(port)
			if err != nil {
				return fmt.Errorf("read settings of %s: %w", port, err)
			}
			a := link.Attrs()
			s[port+": flags"] = fmt.Sprintf("%#x", a.RawFlags)
			s[port+": promiscuity"] = fmt.Sprint(a.Promisc)
			s[port+": MTU"] = fmt.Sprint(a.MTU)
			s[port+": XDP program"] = fmt.Sprint(a.Xdp != nil && a.Xdp.Attached)
			features, err := tool.Features(port)
			if err != nil {
				return fmt.Errorf("read features of %s: %w", port, err)
			}
			for feature, on := range features {
				s[port+": "+feature] = fmt.Sprint(on)
			}
			sysctls, _ := filepath.Glob("/proc/sys/net/ipv[46]/conf/" + port + "/*")
			for _, path := range sysctls {
				if value, err := os.ReadFile(path); err == nil && filepath.Base(path) != "stable_secret" {
					s[path] = strings.TrimSpace(string(value))
				}
			}
		}
		pins, err := filepath.Glob("/sys/fs/bpf/*/*")
		s["pins"] = strings.Join(pins, " ")
		return err
	})
	return s, err
}

// difference names a setting that is not as before; "" if all are.
func (s portSettings) difference(after portSettings) string {
	var names []string
	for name := range s {
		if after[name] != s[name] {
			names = append(names, fmt.Sprintf("%s was %q and is %q", name, s[name], after[name]))
		}
	}
	slices.Sort(names)
	return strings.Join(names, "; ")
}
