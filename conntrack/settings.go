package conntrack

import (
	"fmt"
	"strconv"
)

// Settings is one immutable snapshot of everything that Linux lets an operator set under net.netfilter, and under net.ipv4
// of fragments, except the maximum and the number of buckets, which belong to Capacity and Table. A Settings is never
// written after it was made: With returns a changed copy, and Table.SetSettings exchanges the pointer between two
// bursts. As in Linux a changed timeout holds from an entry's next packet on; deadlines already set stay.
//
// All timeouts are in milliseconds here, at least 1, in seconds in the table of rows. Switches are 0 or 1.
type Settings struct {
	tcp                 [tcpTimeouts]uint32  // by TCP state (tcpNone … tcpSynSent2), then the two caps
	sctp                [sctpTimeouts]uint32 // by SCTP state
	udp                 uint32               // one direction seen
	udpStream           uint32               // both directions seen, older than 2 s
	icmp, icmpv6        uint32
	generic             uint32
	gre, greStream      uint32
	tcpLoose            uint32    // pick up connections in the middle
	tcpBeLiberal        uint32    // window failures are accepted
	tcpIgnoreInvalidRST uint32    // RST outside the window is ignored instead of INVALID
	tcpMaxRetrans       uint32    // retransmissions after which tcpTimeoutMaxRetrans holds
	logInvalid          uint32    // protocol whose INVALID packets are told of; 255: of every one
	checksum            uint32    // verify transport checksums
	acct                uint32    // count packets and bytes per direction, for connections that begin from now on
	timestamp           uint32    // note when a connection began, likewise
	fragTime            [2]uint32 // incomplete datagrams: IPv4, IPv6
	fragBytes           [2]uint32 // memory of their fragments over all shards: IPv4, IPv6
	fragDistance        uint32    // see DefragConfig.Distance
	expectMax           uint32    // expectations over all shards
	ftpLoose            uint32    // expect data connections to other addresses than the sender's own
	ircChannels         uint32    // DCC offers of one connection at a time
	ircTimeout          uint32    // of an expectation by a DCC offer
	sipTimeout          uint32    // of a connection that carries SIP
	sipDirectSignalling uint32    // expect calls from the registrar only
	sipDirectMedia      uint32    // expect media between the ends of the signalling only
	helpers             assignments
	policies            *[]timeoutPolicy // nil for none; never written
}

// TCP states, with the values of enum tcp_conntrack (uapi/linux/netfilter/nf_conntrack_tcp.h), and behind them the
// two timeouts that belong to no state.
const (
	tcpNone uint8 = iota
	tcpSynSent
	tcpSynRecv
	tcpEstablished
	tcpFinWait
	tcpCloseWait
	tcpLastAck
	tcpTimeWait
	tcpClose
	tcpSynSent2
	tcpTimeoutMaxRetrans // too many retransmissions without an answer
	tcpTimeoutUnack      // data not acknowledged, or picked up and not answered
	tcpTimeouts
)

// SCTP states, with the values of enum sctp_conntrack (uapi/linux/netfilter/nf_conntrack_sctp.h).
const (
	sctpNone uint8 = iota
	sctpClosed
	sctpCookieWait
	sctpCookieEchoed
	sctpEstablished
	sctpShutdownSent
	sctpShutdownRecd
	sctpShutdownAckSent
	sctpHeartbeatSent
	sctpTimeouts
)

// Unit says what a setting's number counts.
type Unit uint8

const (
	UnitSeconds Unit = iota // a timeout
	UnitSwitch              // 0 off, 1 on
	UnitCount               // a plain number
	UnitBytes               // memory
)

// String returns "s", "0|1", "bytes" or "count".
func (u Unit) String() string {
	switch u {
	case UnitSeconds:
		return "s"
	case UnitSwitch:
		return "0|1"
	case UnitBytes:
		return "bytes"
	}
	return "count"
}

// maxTimeout bounds every timeout, in seconds: 2³¹-1 ms, beyond which a wrapping Tick could not be compared (and
// what a kernel with HZ=1000 accepts, proc_dointvec_jiffies in kernel/sysctl.c).
const maxTimeout = (1<<31 - 1) / 1000

// Setting is one row of the table of settings.
type Setting struct {
	Name    string // Linux' name, as under /proc/sys/net/netfilter
	Default uint32 // Linux' default
	Min     uint32
	Max     uint32
	Unit    Unit
	Help    string
	// Param is where Linux has a setting that is a module's parameter and no sysctl, below /sys/module; "" for the others.
	Param string

	field func(*Settings) *uint32
}

// tcpRow, sctpRow and row build rows of the table below.
func tcpRow(state uint8, name string, def uint32, help string) Setting {
	return row("nf_conntrack_tcp_timeout_"+name, def, help, func(s *Settings) *uint32 { return &s.tcp[state] })
}

func sctpRow(state uint8, name string, def uint32, help string) Setting {
	return row("nf_conntrack_sctp_timeout_"+name, def, help, func(s *Settings) *uint32 { return &s.sctp[state] })
}

func row(name string, def uint32, help string, field func(*Settings) *uint32) Setting {
	return Setting{Name: name, Default: def, Max: maxTimeout, Unit: UnitSeconds, Help: help, field: field}
}

func switchRow(name string, def uint32, help string, field func(*Settings) *uint32) Setting {
	return Setting{Name: name, Default: def, Max: 1, Unit: UnitSwitch, Help: help, field: field}
}

// paramRow marks a row as a parameter of a helper's module.
func paramRow(helper, param string, r Setting) Setting {
	r.Param = "nf_conntrack_" + helper + "/parameters/" + param
	return r
}

// AllSettings returns the table of settings in the order in which it is shown. The slice is the caller's.
//
// Defaults: tcp_timeouts in nf_conntrack_proto_tcp.c, udp_timeouts in nf_conntrack_proto_udp.c, sctp_timeouts in
// nf_conntrack_proto_sctp.c, gre_timeouts in nf_conntrack_proto_gre.c, nf_ct_icmp_timeout, nf_ct_icmpv6_timeout,
// nf_ct_generic_timeout. What Linux has as parameters of the modules nf_conntrack_ftp, _irc and _sip has a row here, named
// after the module and the parameter; NF_CT_EXPECT_MAX_CNT bounds the DCC channels. Linux computes
// nf_conntrack_expect_max from the number of buckets: 4096 for its default on a machine with more than 4 GiB.
func AllSettings() []Setting {
	return []Setting{
		tcpRow(tcpSynSent, "syn_sent", 120, "a SYN was seen, no answer yet"),
		tcpRow(tcpSynRecv, "syn_recv", 60, "a SYN/ACK was seen"),
		tcpRow(tcpEstablished, "established", 5*24*3600, "the connection is open"),
		tcpRow(tcpFinWait, "fin_wait", 120, "one side sent a FIN"),
		tcpRow(tcpCloseWait, "close_wait", 60, "the FIN was acknowledged"),
		tcpRow(tcpLastAck, "last_ack", 30, "both sides sent a FIN"),
		tcpRow(tcpTimeWait, "time_wait", 120, "both FINs were acknowledged"),
		tcpRow(tcpClose, "close", 10, "a RST was seen"),
		tcpRow(tcpTimeoutMaxRetrans, "max_retrans", 300, "cap once nf_conntrack_tcp_max_retrans retransmissions went unanswered"),
		tcpRow(tcpTimeoutUnack, "unacknowledged", 300, "cap while data is not acknowledged"),
		switchRow("nf_conntrack_tcp_loose", 1, "pick up connections whose start was not seen", func(s *Settings) *uint32 { return &s.tcpLoose }),
		switchRow("nf_conntrack_tcp_be_liberal", 0, "accept segments outside the window, except RST", func(s *Settings) *uint32 { return &s.tcpBeLiberal }),
		switchRow("nf_conntrack_tcp_ignore_invalid_rst", 0, "let a RST outside the window pass without closing the connection", func(s *Settings) *uint32 { return &s.tcpIgnoreInvalidRST }),
		{Name: "nf_conntrack_tcp_max_retrans", Default: 3, Max: 255, Unit: UnitCount, Help: "retransmissions without an answer before max_retrans holds", field: func(s *Settings) *uint32 { return &s.tcpMaxRetrans }},
		row("nf_conntrack_udp_timeout", 30, "one direction seen", func(s *Settings) *uint32 { return &s.udp }),
		row("nf_conntrack_udp_timeout_stream", 120, "both directions seen for more than 2 s", func(s *Settings) *uint32 { return &s.udpStream }),
		row("nf_conntrack_icmp_timeout", 30, "ICMP requests", func(s *Settings) *uint32 { return &s.icmp }),
		row("nf_conntrack_icmpv6_timeout", 30, "ICMPv6 requests", func(s *Settings) *uint32 { return &s.icmpv6 }),
		row("nf_conntrack_generic_timeout", 600, "every protocol without a tracker", func(s *Settings) *uint32 { return &s.generic }),
		sctpRow(sctpClosed, "closed", 10, "SCTP closed"),
		sctpRow(sctpCookieWait, "cookie_wait", 3, "SCTP INIT seen"),
		sctpRow(sctpCookieEchoed, "cookie_echoed", 3, "SCTP COOKIE ECHO seen"),
		sctpRow(sctpEstablished, "established", 210, "SCTP association open"),
		sctpRow(sctpShutdownSent, "shutdown_sent", 3, "SCTP SHUTDOWN seen in the original direction"),
		sctpRow(sctpShutdownRecd, "shutdown_recd", 3, "SCTP SHUTDOWN seen in the reply direction"),
		sctpRow(sctpShutdownAckSent, "shutdown_ack_sent", 3, "SCTP SHUTDOWN ACK seen"),
		sctpRow(sctpHeartbeatSent, "heartbeat_sent", 30, "SCTP HEARTBEAT of an unknown association seen"),
		row("nf_conntrack_gre_timeout", 30, "GRE, one direction seen", func(s *Settings) *uint32 { return &s.gre }),
		row("nf_conntrack_gre_timeout_stream", 180, "GRE, both directions seen", func(s *Settings) *uint32 { return &s.greStream }),
		switchRow("nf_conntrack_checksum", 1, "verify transport checksums; a wrong one is INVALID", func(s *Settings) *uint32 { return &s.checksum }),
		{Name: "nf_conntrack_log_invalid", Default: 0, Max: 255, Unit: UnitCount, Help: "number of the protocol whose INVALID packets go to the packet log, with the check that failed; 255 = all, 0 = none", field: func(s *Settings) *uint32 { return &s.logInvalid }},
		switchRow("nf_conntrack_acct", 0, "count packets and bytes of connections that begin from now on", func(s *Settings) *uint32 { return &s.acct }),
		switchRow("nf_conntrack_timestamp", 0, "note when connections that begin from now on began", func(s *Settings) *uint32 { return &s.timestamp }),
		{Name: "ipfrag_time", Default: 30, Min: 1, Max: maxTimeout, Unit: UnitSeconds, Help: "how long an incomplete IPv4 datagram is kept", field: func(s *Settings) *uint32 { return &s.fragTime[0] }},
		{Name: "ipfrag_high_thresh", Default: 4 << 20, Min: 1, Max: 1<<32 - 1, Unit: UnitBytes, Help: "memory for fragments of IPv4 datagrams, over all workers", field: func(s *Settings) *uint32 { return &s.fragBytes[0] }},
		{Name: "ipfrag_max_dist", Default: 64, Max: 1<<31 - 1, Unit: UnitCount, Help: "an incomplete IPv4 datagram is begun anew after so many other fragments of its sender; 0 = never", field: func(s *Settings) *uint32 { return &s.fragDistance }},
		{Name: "nf_conntrack_frag6_timeout", Default: 60, Min: 1, Max: maxTimeout, Unit: UnitSeconds, Help: "how long an incomplete IPv6 datagram is kept", field: func(s *Settings) *uint32 { return &s.fragTime[1] }},
		{Name: "nf_conntrack_frag6_high_thresh", Default: 4 << 20, Min: 1, Max: 1<<32 - 1, Unit: UnitBytes, Help: "memory for fragments of IPv6 datagrams, over all workers", field: func(s *Settings) *uint32 { return &s.fragBytes[1] }},
		{Name: "nf_conntrack_expect_max", Default: 4096, Min: 1, Max: MaxExpectations, Unit: UnitCount, Help: "expected connections at a time", field: func(s *Settings) *uint32 { return &s.expectMax }},
		paramRow("ftp", "loose", switchRow("nf_conntrack_ftp_loose", 0, "ftp: expect data connections to other addresses than the sender's own", func(s *Settings) *uint32 { return &s.ftpLoose })),
		paramRow("irc", "max_dcc_channels", Setting{Name: "nf_conntrack_irc_max_dcc_channels", Default: 8, Min: 1, Max: 255, Unit: UnitCount, Help: "irc: expected DCC connections of one IRC connection", field: func(s *Settings) *uint32 { return &s.ircChannels }}),
		paramRow("irc", "dcc_timeout", row("nf_conntrack_irc_dcc_timeout", 300, "irc: how long an offered DCC connection is expected", func(s *Settings) *uint32 { return &s.ircTimeout })),
		paramRow("sip", "sip_timeout", row("nf_conntrack_sip_timeout", 3600, "sip: a connection that carries SIP", func(s *Settings) *uint32 { return &s.sipTimeout })),
		paramRow("sip", "sip_direct_signalling", switchRow("nf_conntrack_sip_direct_signalling", 1, "sip: expect calls from the registrar only", func(s *Settings) *uint32 { return &s.sipDirectSignalling })),
		paramRow("sip", "sip_direct_media", switchRow("nf_conntrack_sip_direct_media", 1, "sip: expect media between the ends of the signalling only", func(s *Settings) *uint32 { return &s.sipDirectMedia })),
	}
}

// scale returns how many of a row's field make one of its unit.
func (r *Setting) scale() uint32 {
	if r.Unit == UnitSeconds {
		return 1000
	}
	return 1
}

// Get reads the row's value from s, in the row's unit.
func (r *Setting) Get(s *Settings) uint32 { return *r.field(s) / r.scale() }

// DefaultSettings returns Linux' defaults.
func DefaultSettings() *Settings {
	s := new(Settings)
	s.tcp[tcpSynSent2] = 120_000 // 2 min in tcp_timeouts (nf_conntrack_proto_tcp.c); no sysctl, hence no row
	for _, r := range AllSettings() {
		*r.field(s) = r.Default * r.scale()
	}
	return s
}

// Defrag returns the limits of the fragment store of one of several shards: the thresholds hold for all of them together
// (ip4_frags_ns_ctl_table in net/ipv4/ip_fragment.c, nf_ct_frag6_sysctl_table in net/ipv6/netfilter/nf_conntrack_reasm.c).
func (s *Settings) Defrag(shards int) DefragConfig {
	c := DefragConfig{
		Timeout4: Tick(s.fragTime[0]), Timeout6: Tick(s.fragTime[1]), Distance: s.fragDistance,
		Bytes4: max(1, int(s.fragBytes[0])/shards), Bytes6: max(1, int(s.fragBytes[1])/shards),
	}
	if c.Distance == 0 {
		c.Distance = 1<<32 - 1 // more than a sender's counter can differ by
	}
	return c
}

// Counts says whether connections that begin are counted (nf_conntrack_acct).
func (s *Settings) Counts() bool { return s.acct != 0 }

// Get reads a setting by Linux' name, in the unit of its row.
func (s *Settings) Get(name string) (uint32, error) {
	r, err := findSetting(name)
	if err != nil {
		return 0, fmt.Errorf("read setting: %w", err)
	}
	return r.Get(s), nil
}

// With returns a copy of s in which the setting of that name has the given value, in the unit of its row.
func (s *Settings) With(name string, value uint32) (*Settings, error) {
	r, err := findSetting(name)
	if err != nil {
		return nil, fmt.Errorf("change setting: %w", err)
	}
	if value < r.Min || value > r.Max {
		return nil, fmt.Errorf("change setting %s: %d is out of range (%d to %d %s)", name, value, r.Min, r.Max, r.Unit)
	}
	c := *s
	*r.field(&c) = value * r.scale()
	if r.Unit == UnitSeconds && value == 0 {
		*r.field(&c) = 1 // trackers take 0 for "leave the deadline"; the row still reads 0
	}
	return &c, nil
}

// WithText is With for a value as text, as sysctl -w and the configuration file have it.
func (s *Settings) WithText(name, value string) (*Settings, error) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("change setting %s: %q is not a whole number", name, value)
	}
	return s.With(name, uint32(n))
}

// findSetting finds the row of that name.
func findSetting(name string) (Setting, error) {
	for _, r := range AllSettings() {
		if r.Name == name {
			return r, nil
		}
	}
	return Setting{}, fmt.Errorf("%q is not known (names are those of /proc/sys/net/netfilter)", name)
}
