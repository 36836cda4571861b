package main

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/rules"
)

// Messages and attributes of cttimeout (include/uapi/linux/netfilter/nfnetlink_cttimeout.h).
const (
	timeoutNew = unix.NFNL_SUBSYS_CTNETLINK_TIMEOUT << 8

	ctaTimeoutName  = 1
	ctaTimeoutL3    = 2
	ctaTimeoutL4    = 3
	ctaTimeoutData  = 4
	timeoutGeneric  = 255 // nf_conntrack_l4proto_generic
	timeoutIPv6Mark = "-6"
)

// timeoutStates are the protocols of timeout policies with their states, in the order of their attributes, which begin at 1.
var timeoutStates = map[string]struct {
	number uint8
	family rules.Family
	states string
}{
	"tcp":     {packet.ProtoTCP, rules.Both, "syn_sent syn_recv established fin_wait close_wait last_ack time_wait close syn_sent2 retrans unacknowledged"},
	"udp":     {packet.ProtoUDP, rules.Both, "unreplied replied"},
	"udplite": {packet.ProtoUDPLite, rules.Both, "unreplied replied"},
	"icmp":    {packet.ProtoICMP, rules.IPv4, "timeout"},
	"icmpv6":  {packet.ProtoICMPv6, rules.IPv6, "timeout"},
	"sctp":    {packet.ProtoSCTP, rules.Both, "closed cookie_wait cookie_echoed established shutdown_sent shutdown_recd shutdown_ack_sent heartbeat_sent"},
	"gre":     {packet.ProtoGRE, rules.Both, "unreplied replied"},
	"generic": {timeoutGeneric, rules.Both, "timeout"},
}

// timeoutName returns the name that a timeout policy has in the kernel: there it is of one IP version, and names are unique.
func timeoutName(name string, family rules.Family) string {
	if family == rules.IPv6 {
		return name + timeoutIPv6Mark
	}
	return name
}

// defineTimeouts gives the calling thread's namespace the timeout policies of the settings, for both IP versions.
func defineTimeouts(s *conntrack.Settings) error {
	for item := range strings.SplitSeq(s.Timeouts(), ";") {
		words := strings.Fields(item)
		if len(words) == 0 {
			continue
		}
		for _, family := range []rules.Family{rules.IPv4, rules.IPv6} {
			if timeoutStates[words[1]].family&family == 0 {
				continue
			}
			if err := defineTimeout(words, family); err != nil {
				return fmt.Errorf("define timeout policy %s in the kernel: %w", words[0], err)
			}
		}
	}
	return nil
}

// defineTimeout makes one policy: name, protocol, and states with seconds.
func defineTimeout(words []string, family rules.Family) error {
	p := timeoutStates[words[1]]
	l3 := uint16(unix.AF_INET)
	if family == rules.IPv6 {
		l3 = unix.AF_INET6
	}
	data := nl.NewRtAttr(ctaTimeoutData|unix.NLA_F_NESTED, nil)
	for i := 2; i+1 < len(words); i += 2 {
		seconds, err := strconv.ParseUint(words[i+1], 10, 32)
		if err != nil {
			return err
		}
		for k, state := range strings.Fields(p.states) {
			if state == words[i] {
				data.AddRtAttr(k+1, binary.BigEndian.AppendUint32(nil, uint32(seconds)))
			}
		}
	}
	m := nl.NewNetlinkRequest(timeoutNew, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	m.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC})
	m.AddData(nl.NewRtAttr(ctaTimeoutName, nl.ZeroTerminated(timeoutName(words[0], family))))
	m.AddData(nl.NewRtAttr(ctaTimeoutL3, binary.BigEndian.AppendUint16(nil, l3)))
	m.AddData(nl.NewRtAttr(ctaTimeoutL4, []byte{p.number}))
	m.AddData(data)
	_, err := m.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}
