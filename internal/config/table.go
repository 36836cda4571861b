package config

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/packet"
	"corewire/ring"
	"corewire/rules"
)

// Bounds and defaults of the settings, each with its reason.
const (
	// maxWorkers: a hand-off ring for every ordered pair of workers; 64 is more queues than one port of today's
	// NICs is given for one application.
	maxWorkers = 64
	// A worker needs two full fill rings, two full TX rings and a burst in hand; ring.DefaultChunks leaves as many
	// again for held fragments and hand-off.
	minChunks, maxChunks = 256, 1 << 22
	minRing, maxRing     = 64, 32768
	// XDP_MAX_TX_SKB_BUDGET (if_xdp.h): with 32, the kernel's own default, up to 7 % of frames were lost in copy mode at
	// 2.15 Mpps where 256 lost none. The kernel refuses values below 32.
	// The ring itself takes no more than its size.
	minBudget, defaultBudget, maxBudget = 32, 256, 32768
	// Bursts of 64 let the cache misses of a burst overlap; larger ones add delay and outgrow L1.
	defaultBurst, maxBurst = 64, 1024
	// Looking on instead of sleeping saves the wake-up, some 10 µs, and takes the whole processor. Measured with
	// bench/inline on veth: 50 µs forward no more at full load, and cost 1.4 times the time at 200,000 frames a second.
	defaultSpin, maxSpin = 0, 1000000
	// maxEntries keeps an entry's index within 30 bits.
	maxEntries = 1 << 30
	// maxBuckets are 4 GiB; each has a cache line.
	maxBuckets = 1 << 26
	// maxInterval is an hour.
	maxInterval = 3600000
	// maxLogHistory are 128 MiB at 2 KiB a packet; maxLogRate is more than any reader of a log can want.
	maxLogHistory, maxLogRate = 1 << 16, 1000000
)

// Table returns all rows in the order of the documentation. The caller must not change them.
func Table() []Setting { return table() }

var table = sync.OnceValue(func() []Setting {
	rows := []Setting{
		text("inside", "Wire", "", "an interface name", Restart, "interface of the protected side; rules call it `inside` as well",
			func(c *Config) *string { return &c.Inside }),
		text("outside", "Wire", "", "an interface name", Restart, "interface of the other side; rules call it `outside` as well",
			func(c *Config) *string { return &c.Outside }),
		number("workers", "Wire", "0", 0, maxWorkers, "", Restart, "workers, each with one queue of both interfaces; 0 = as many as the interfaces have queues",
			func(c *Config) *int { return &c.Workers }),
		text("cpus", "Wire", "auto", "auto, none, or processor numbers such as 2,3 or 2-5", Restart, "processors that the workers are pinned to, one each; auto takes the last ones that this process may use, as long as one is left over",
			func(c *Config) *string { return &c.CPUs }),
		choice("fail-mode", "Wire", "closed", Restart, "what happens to frames while no worker is alive: closed drops them, open passes them to the other interface unseen",
			func(c *Config) *string { return &c.FailMode }, "closed", "open"),

		text("sets", groupRules, "", "paths with commas", Live, "files of IP sets as ipset save writes them, read before the rules",
			func(c *Config) *string { return &c.Sets }),
		text("rules", groupRules, "", "a path", Live, "rule file as iptables-save writes it, for IPv4 and IPv6 alike",
			func(c *Config) *string { return &c.Rules }),
		text("rules4", groupRules, "", "a path", Live, "rule file for IPv4 only, as iptables-save writes it",
			func(c *Config) *string { return &c.Rules4 }),
		text("rules6", groupRules, "", "a path", Live, "rule file for IPv6 only, as ip6tables-save writes it",
			func(c *Config) *string { return &c.Rules6 }),

		number("ip_list_tot", groupRules, decimal(rules.DefaultRecentList), 1, rules.MaxRecentList, "addresses", Restart, "addresses that each list of -m recent holds; the one least recently seen makes room for another",
			func(c *Config) *int { return &c.RecentList }),
		number("ip_pkt_list_tot", groupRules, "0", 0, rules.MaxRecentTimes, "times", Restart, "times that a list of -m recent keeps of each address, rounded up to a power of two, unless --hitcount asks for more; 0 = as many as --hitcount asks for, or 32",
			func(c *Config) *int { return &c.RecentTimes }),

		number("icmp_ratelimit", groupRules, decimal(dataplane.DefaultICMPInterval), 0, maxInterval, "ms", Live, "REJECT: time between two ICMP errors to one IPv4 host, on average; six may come at once; 0 = no bound for a host",
			func(c *Config) *int { return &c.ICMP.Interval }),
		number("icmpv6_ratelimit", groupRules, decimal(dataplane.DefaultICMPInterval6), 0, maxInterval, "ms", Live, "REJECT: the same for IPv6 hosts; net.ipv6.icmp.ratelimit of Linux",
			func(c *Config) *int { return &c.ICMP.Interval6 }),
		number("icmp_ratemask", groupRules, decimal(dataplane.DefaultICMPMask), 0, 1<<31-1, "", Live, "REJECT: a bit for each type of IPv4 ICMP errors that is bounded, of which REJECT sends type 3, so 8 or 0",
			func(c *Config) *int { return &c.ICMP.Mask }),
		number("icmp_msgs_per_sec", groupRules, decimal(dataplane.DefaultICMPPerSecond), 0, 1<<31-1, "", Live, "REJECT: most ICMP errors in a second, to all hosts together, of both families",
			func(c *Config) *int { return &c.ICMP.PerSecond }),
		number("icmp_msgs_burst", groupRules, decimal(dataplane.DefaultICMPBurst), 0, 1<<31-1, "", Live, "REJECT: how many of these may come at once",
			func(c *Config) *int { return &c.ICMP.Burst }),

		choice("xdp-mode", "AF_XDP", "native", Restart, "where the XDP program runs: native in the interface's driver, generic in the stack (slower, works everywhere)",
			func(c *Config) *string { return &c.XDPMode }, "native", "generic"),
		choice("copy-mode", "AF_XDP", "auto", Restart, "whether frames are copied between driver and UMEM: auto takes zero copy where both interfaces can",
			func(c *Config) *string { return &c.CopyMode }, "auto", "copy", "zerocopy"),
		choice("driver", "AF_XDP", "auto", Restart, "socket driver: xsk shares one UMEM between both interfaces, asavie copies and runs on kernels before 5.10",
			func(c *Config) *string { return &c.Driver }, "auto", "xsk", "asavie"),
		chunkSize(),
		number("chunks", "AF_XDP", decimal(ring.DefaultChunks), minChunks, maxChunks, "", Restart, "UMEM chunks per worker",
			func(c *Config) *int { return &c.Chunks }),
		power(number("ring-size", "AF_XDP", decimal(ring.DefaultRingSize), minRing, maxRing, "descriptors", Restart, "size of each fill, completion, RX and TX ring",
			func(c *Config) *int { return &c.RingSize })),
		number("tx-budget", "AF_XDP", decimal(defaultBudget), minBudget, maxBudget, "frames", Restart, "frames that one send call may transmit in copy mode, where the kernel has the option (6.17); never more than ring-size",
			func(c *Config) *int { return &c.TXBudget }),
		milliseconds("heartbeat-timeout", "AF_XDP", decimal(ring.DefaultHeartbeatTimeout.Milliseconds()), ring.MinHeartbeatTimeout.Milliseconds(), ring.MaxHeartbeatTimeout.Milliseconds(), Restart, "silence after which a worker counts as dead and the fail mode holds",
			func(c *Config) *int64 { return (*int64)(&c.HeartbeatTimeout) }),
		number("burst", "AF_XDP", decimal(defaultBurst), 1, maxBurst, "frames", Restart, "frames that a worker takes from an interface at once",
			func(c *Config) *int { return &c.Burst }),
		microseconds("spin", "AF_XDP", decimal(defaultSpin), 0, maxSpin, Restart, "how long a worker that finds no frame goes on looking before it sleeps",
			func(c *Config) *int64 { return (*int64)(&c.Spin) }),
		text("pin-path", "AF_XDP", "", "a directory in a BPF file system", Restart, "where program, maps and links are pinned, so that they outlive a killed process; empty = /sys/fs/bpf/corewire, or a BPF file system of our own in /run/corewire",
			func(c *Config) *string { return &c.PinPath }),
		text("state-file", "AF_XDP", "", "a path", Restart, "record of the interface settings that were changed, for the next start and for `corewire release`; empty = /run/corewire/INSIDE-OUTSIDE.json",
			func(c *Config) *string { return &c.StateFile }),
	}
	rows = append(rows, number("vlan-tags", groupNonIP, decimal(packet.MaxTags), 0, packet.MaxTags, "tags", Restart, "VLAN tags behind which IP is looked for; a frame with more is of class other. A Linux bridge looks behind one with bridge-nf-filter-vlan-tagged=1, behind none with 0",
		func(c *Config) *int { return &c.VLANTags }))
	for _, class := range [...]struct{ name, help string }{
		{"arp", "ARP (RFC 826)"}, {"lldp", "LLDP (IEEE 802.1AB)"}, {"stp", "spanning tree (IEEE 802.1D)"}, {"lacp", "LACP and other slow protocols (IEEE 802.3)"},
		{"eapol", "EAPOL (IEEE 802.1X)"}, {"other", "every other frame that is not IP"},
	} {
		rows = append(rows, nonIP(class.name, class.help))
	}
	rows = append(rows,
		number("nf_conntrack_max", groupTracking, "0", 0, maxEntries, "entries", Live, "most connections tracked at once, over all workers; 0 = as many as nf_conntrack_buckets, or where that is 0 too, from memory by Linux's formula",
			func(c *Config) *int { return &c.Max }),
		number("nf_conntrack_buckets", groupTracking, "0", 0, maxBuckets, "buckets", Live, "buckets, of 12 entries each, that the hash table keeps at least, over all workers; 0 = it begins small and grows with its entries",
			func(c *Config) *int { return &c.Buckets }),
		choice("zones", groupTracking, "none", Restart, "what tells connections with the same addresses and ports apart: none nothing, vlan the id of the outermost VLAN tag, which listings show as zone",
			func(c *Config) *string { return &c.Zones }, "none", "vlan"),
		choice("fragment-origin", groupTracking, "one", Restart, "where the fragments of one datagram may come from: one = all from the same port and VLAN, any = from anywhere, as with Linux, where one side of a bridge can spoil the other's datagrams",
			func(c *Config) *string { return &c.FragmentOrigin }, "one", "any"),
		number("fragments-per-datagram", groupTracking, decimal(conntrack.MaxFragments), 2, conntrack.MostFragments, "fragments", Restart, "most fragments of one datagram; Linux has no such bound, and no datagram has more than 8192",
			func(c *Config) *int { return &c.FragmentsPerDatagram }),
		number("fragments", groupTracking, "0", 0, maxChunks, "fragments", Restart, "most fragments that wait in a worker for the rest of their datagrams, then the oldest datagram makes room; 0 = an eighth of its chunks, 64 to 1024. Linux bounds their memory only: ipfrag_high_thresh",
			func(c *Config) *int { return &c.Fragments }),
	)
	rows = append(rows, trackingRows()...)
	rows = append(rows,
		choice("reload-connections", "Operation", "keep", Live, "what becomes of connections when the rules are read again: keep lets them be, rejudge closes those that the new rules would not let begin",
			func(c *Config) *string { return &c.ReloadConnections }, "keep", "rejudge"),
		choice("rule-counters", "Operation", "keep", Live, "counters of rules: keep begins at zero and lets rules that stay go on over a reload, file takes those in the rule files at start and on each reload, as iptables-restore -c does",
			func(c *Config) *string { return &c.RuleCounters }, "keep", "file"),
		text("control-socket", "Operation", "/run/corewire/corewire.sock", "a path", Restart, "unix socket (mode 0600) that the other verbs talk to; empty = none",
			func(c *Config) *string { return &c.ControlSocket }),
		text("metrics-addr", "Operation", "127.0.0.1:9180", "an address and port", Restart, "where /metrics and /healthz are served; empty = nowhere",
			func(c *Config) *string { return &c.MetricsAddr }),
		toggle("metrics-rules", "Operation", "0", Live, "whether /metrics has the counters of every rule",
			func(c *Config) *bool { return &c.MetricsRules }),
		choice("log-level", "Operation", "info", Live, "least severe messages that are logged",
			func(c *Config) *string { return &c.LogLevel }, "debug", "info", "warn", "error"),
		choice("log-format", "Operation", "text", Restart, "form of the log on standard error",
			func(c *Config) *string { return &c.LogFormat }, "text", "json"),
		number("log-history", groupLog, "1024", 1, maxLogHistory, "packets", Restart, "packets of LOG and NFLOG rules that are kept in memory for `corewire log`, up to 2 KiB each",
			func(c *Config) *int { return &c.LogHistory }),
		number("log-rate", groupLog, "100", 0, maxLogRate, "lines", Live, "most lines of LOG rules that go to the log on standard error in a second; what is above is counted; 0 = none",
			func(c *Config) *int { return &c.LogRate }),
		text("log-capture", groupLog, "", "a path", Restart, "pcapng files that packets of LOG and NFLOG rules are written to, in turn, with a number before the extension (log.pcapng: log-0.pcapng, log-1.pcapng, …); empty = none",
			func(c *Config) *string { return &c.LogCapture }),
		number("log-capture-size", groupLog, "16", 1, 1<<20, "MiB", Restart, "size after which the next file of log-capture begins",
			func(c *Config) *int { return &c.LogCaptureSize }),
		number("log-capture-files", groupLog, "8", 1, 10000, "", Restart, "how many files log-capture has before the oldest is overwritten",
			func(c *Config) *int { return &c.LogCaptureFiles }),
	)
	return rows
})

func text(name, group, def, what string, when When, help string, field func(*Config) *string) Setting {
	return Setting{Name: name, Group: group, Kind: Text, Default: def, Text: what, When: when, Help: help,
		get: func(c *Config) string { return *field(c) },
		set: func(c *Config, s string, _ int64) { *field(c) = s }}
}

func choice(name, group, def string, when When, help string, field func(*Config) *string, choices ...string) Setting {
	s := text(name, group, def, "", when, help, field)
	s.Kind, s.Choices = Choice, choices
	return s
}

func number(name, group, def string, least, most int64, unit string, when When, help string, field func(*Config) *int) Setting {
	return Setting{Name: name, Group: group, Kind: Number, Default: def, Min: least, Max: most, Unit: unit, When: when, Help: help,
		get: func(c *Config) string { return decimal(int64(*field(c))) },
		set: func(c *Config, _ string, n int64) { *field(c) = int(n) }}
}

func power(s Setting) Setting {
	s.Power = true
	return s
}

func toggle(name, group, def string, when When, help string, field func(*Config) *bool) Setting {
	return Setting{Name: name, Group: group, Kind: Switch, Default: def, When: when, Help: help,
		get: func(c *Config) string {
			if *field(c) {
				return "1"
			}
			return "0"
		},
		set: func(c *Config, _ string, n int64) { *field(c) = n != 0 }}
}

func microseconds(name, group, def string, least, most int64, when When, help string, field func(*Config) *int64) Setting {
	return Setting{Name: name, Group: group, Kind: Duration, Default: def, Min: least, Max: most, Unit: "µs", When: when, Help: help,
		get: func(c *Config) string { return decimal(*field(c) / 1e3) },
		set: func(c *Config, _ string, n int64) { *field(c) = n }}
}

func milliseconds(name, group, def string, least, most int64, when When, help string, field func(*Config) *int64) Setting {
	return Setting{Name: name, Group: group, Kind: Duration, Default: def, Min: least, Max: most, Unit: "ms", When: when, Help: help,
		get: func(c *Config) string { return decimal(*field(c) / 1e6) },
		set: func(c *Config, _ string, n int64) { *field(c) = n }}
}

// chunkSize is a choice that Config holds as a number, 0 for auto.
func chunkSize() Setting {
	return Setting{Name: "chunk-size", Group: "AF_XDP", Kind: Choice, Default: "auto", Choices: []string{"auto", decimal(ring.MinChunkSize), decimal(ring.MaxChunkSize)}, When: Restart,
		Help: "bytes of a UMEM chunk: 2048 holds frames of up to 1792 bytes, 4096 of up to 3840; auto takes the smaller one that holds the MTU",
		get: func(c *Config) string {
			if c.ChunkSize == 0 {
				return "auto"
			}
			return decimal(int64(c.ChunkSize))
		},
		set: func(c *Config, s string, _ int64) {
			c.ChunkSize, _ = strconv.Atoi(s) // auto is 0
		}}
}

func nonIP(class, help string) Setting {
	return Setting{Name: "non-ip-" + class, Group: groupNonIP, Kind: Choice, Default: "pass", Choices: []string{"pass", "drop"}, When: Restart, Help: help,
		get: func(c *Config) string {
			if c.NonIP[class] {
				return "pass"
			}
			return "drop"
		},
		set: func(c *Config, s string, _ int64) { c.NonIP[class] = s == "pass" }}
}

// find returns the row of a name.
func find(name string) (*Setting, bool) {
	rows := Table()
	i := slices.IndexFunc(rows, func(s Setting) bool { return s.Name == name })
	if i < 0 {
		return nil, false
	}
	return &rows[i], true
}

// unknown returns the problem of a name that is no setting, with the nearest one that is.
func unknown(name string, place Place) *Problem {
	p := &Problem{Place: place, Setting: name, Unknown: true}
	var names []string
	for _, s := range Table() {
		names = append(names, s.Name)
	}
	if near, ok := nearest(strings.ReplaceAll(name, ".", "-"), names); ok {
		p.Hint = "did you mean " + near + "?"
	} else {
		p.Hint = "corewire config docs lists all of them"
	}
	return p
}

// sortProblems orders by place, then name, for messages that do not depend on a map's order.
func sortProblems(p Problems) {
	slices.SortStableFunc(p, func(a, b *Problem) int {
		if a.Place.Line != b.Place.Line {
			return a.Place.Line - b.Place.Line
		}
		return strings.Compare(a.Setting, b.Setting)
	})
}

const noMaximum = math.MaxInt64

// Groups of settings that Judges knows.
const (
	groupRules    = "Rules"
	groupLog      = "Packet log"
	groupTracking = "Connection tracking"
	groupNonIP    = "Frames that are not IP"
)
