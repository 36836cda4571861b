package config

import (
	"math"
	"slices"
	"strings"
	"sync"
)

// Bounds and defaults of the settings, each with its reason.
const (
	// maxWorkers: a hand-off ring for every ordered pair of workers; 64 is more queues than one port of today's
	// NICs is given for one application.
	maxWorkers = 64
	// The kernel takes chunks from 2,048 bytes to a page (net/xdp/xdp_umem.c). 4,096 holds frames up to 3,840
	// bytes and so every MTU below; 2,048 halves the memory and holds frames up to 1,792 bytes.
	minChunkSize, defaultChunkSize, maxChunkSize = 2048, "4096", 4096
	// A worker needs two full fill rings, two full TX rings and a burst in hand; 16,384 chunks leave as many again
	// for held fragments and hand-off.
	minChunks, defaultChunks, maxChunks = 1024, "16384", 1 << 22
	// Rings of 2,048 descriptors hold 2 ms of 1 Mpps: longer than a collector's pause, short enough to stay in L2.
	minRing, defaultRing, maxRing = 64, "2048", 32768
	// XDP_MAX_TX_SKB_BUDGET (if_xdp.h): with 32, the kernel's own default, up to 7 % of frames were lost in copy mode at
	// 2.15 Mpps where 256 lost none. The kernel refuses values below 32 or above the TX ring's size.
	minBudget, defaultBudget, maxBudget = 32, "256", 32768
	// A worker beats once a turn, at most a few ms apart; a fail mode that takes over for a worker that only
	// waited for a processor would do harm.
	minHeartbeat, defaultHeartbeat, maxHeartbeat = 10, "1000", 60000
	// Bursts of 64 let the cache misses of a burst overlap; larger ones add delay and outgrow L1.
	minBurst, defaultBurst, maxBurst = 1, "64", 256
	// maxEntries keeps an entry's index within 30 bits.
	maxEntries = 1 << 30
)

// Table returns all rows in the order of the documentation. The caller must not change them.
func Table() []Setting { return table() }

var table = sync.OnceValue(func() []Setting {
	rows := []Setting{
		text("inside", "Wire", "", "an interface name", Restart, "interface of the protected side; rules call it `inside` as well",
			func(c *Config) *string { return &c.Inside }),
		text("outside", "Wire", "", "an interface name", Restart, "interface of the other side; rules call it `outside` as well",
			func(c *Config) *string { return &c.Outside }),
		number("workers", "Wire", "0", 0, maxWorkers, "", Restart, "workers, each with one queue of both interfaces; 0 = as many as there are queues, leaving one processor free",
			func(c *Config) *int { return &c.Workers }),
		choice("fail-mode", "Wire", "closed", Restart, "what happens to frames while no worker is alive: closed drops them, open passes them to the other interface unseen",
			func(c *Config) *string { return &c.FailMode }, "closed", "open"),

		text("rules", "Rules", "", "a path", Live, "rule file as iptables-save writes it, for IPv4 and IPv6 alike",
			func(c *Config) *string { return &c.Rules }),
		text("rules4", "Rules", "", "a path", Live, "rule file for IPv4 only, as iptables-save writes it",
			func(c *Config) *string { return &c.Rules4 }),
		text("rules6", "Rules", "", "a path", Live, "rule file for IPv6 only, as ip6tables-save writes it",
			func(c *Config) *string { return &c.Rules6 }),

		choice("xdp-mode", "AF_XDP", "native", Restart, "where the XDP program runs: native in the interface's driver, generic in the stack (slower, works everywhere)",
			func(c *Config) *string { return &c.XDPMode }, "native", "generic"),
		choice("copy-mode", "AF_XDP", "auto", Restart, "whether frames are copied between driver and UMEM: auto takes zero copy where both interfaces can",
			func(c *Config) *string { return &c.CopyMode }, "auto", "copy", "zerocopy"),
		choice("driver", "AF_XDP", "auto", Restart, "socket driver: xsk shares one UMEM between both interfaces, asavie copies and runs on kernels before 5.10",
			func(c *Config) *string { return &c.Driver }, "auto", "xsk", "asavie"),
		power(number("chunk-size", "AF_XDP", defaultChunkSize, minChunkSize, maxChunkSize, "bytes", Restart, "size of a UMEM chunk: one frame, and 256 bytes of headroom",
			func(c *Config) *int { return &c.ChunkSize })),
		number("chunks", "AF_XDP", defaultChunks, minChunks, maxChunks, "", Restart, "UMEM chunks per worker",
			func(c *Config) *int { return &c.Chunks }),
		power(number("ring-size", "AF_XDP", defaultRing, minRing, maxRing, "descriptors", Restart, "size of each fill, completion, RX and TX ring",
			func(c *Config) *int { return &c.RingSize })),
		number("tx-budget", "AF_XDP", defaultBudget, minBudget, maxBudget, "frames", Restart, "frames that one send call may transmit in copy mode, where the kernel has the option (6.17)",
			func(c *Config) *int { return &c.TXBudget }),
		milliseconds("heartbeat-timeout", "AF_XDP", defaultHeartbeat, minHeartbeat, maxHeartbeat, Restart, "silence after which a worker counts as dead and the fail mode holds",
			func(c *Config) *int64 { return (*int64)(&c.HeartbeatTimeout) }),
		number("burst", "AF_XDP", defaultBurst, minBurst, maxBurst, "frames", Restart, "frames that a worker takes from an interface at once",
			func(c *Config) *int { return &c.Burst }),
		text("pin-path", "AF_XDP", "/sys/fs/bpf/corewire", "a directory in a BPF file system", Restart, "where program, maps and links are pinned, so that they outlive a killed process",
			func(c *Config) *string { return &c.PinPath }),
		text("state-file", "AF_XDP", "/run/corewire/state.json", "a path", Restart, "record of the interface settings that were changed, for `corewire release`",
			func(c *Config) *string { return &c.StateFile }),
	}
	for _, class := range [...]struct{ name, help string }{
		{"arp", "ARP (RFC 826)"}, {"lldp", "LLDP (IEEE 802.1AB)"}, {"stp", "spanning tree (IEEE 802.1D)"}, {"lacp", "LACP and other slow protocols (IEEE 802.3)"},
		{"eapol", "EAPOL (IEEE 802.1X)"}, {"other", "every other frame that is not IP"},
	} {
		rows = append(rows, nonIP(class.name, class.help))
	}
	rows = append(rows,
		number("nf_conntrack_max", "Connection tracking", "0", 0, maxEntries, "entries", Live, "most connections tracked at once, over all workers; 0 = from memory, by Linux's formula",
			func(c *Config) *int { return &c.Max }),
		number("nf_conntrack_buckets", "Connection tracking", "0", 0, maxEntries, "buckets", Restart, "size of the hash table, over all workers; 0 = from memory, by Linux's formula",
			func(c *Config) *int { return &c.Buckets }),
	)
	rows = append(rows, trackingRows()...)
	rows = append(rows,
		text("control-socket", "Operation", "/run/corewire/corewire.sock", "a path", Restart, "unix socket (mode 0600) that the other verbs talk to; empty = none",
			func(c *Config) *string { return &c.ControlSocket }),
		text("metrics-addr", "Operation", "127.0.0.1:9180", "an address and port", Restart, "where /metrics and /healthz are served; empty = nowhere",
			func(c *Config) *string { return &c.MetricsAddr }),
		choice("log-level", "Operation", "info", Live, "least severe messages that are logged",
			func(c *Config) *string { return &c.LogLevel }, "debug", "info", "warn", "error"),
		choice("log-format", "Operation", "text", Restart, "form of the log on standard error",
			func(c *Config) *string { return &c.LogFormat }, "text", "json"),
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

func milliseconds(name, group, def string, least, most int64, when When, help string, field func(*Config) *int64) Setting {
	return Setting{Name: name, Group: group, Kind: Duration, Default: def, Min: least, Max: most, Unit: "ms", When: when, Help: help,
		get: func(c *Config) string { return decimal(*field(c) / 1e6) },
		set: func(c *Config, _ string, n int64) { *field(c) = n }}
}

func nonIP(class, help string) Setting {
	return Setting{Name: "non-ip-" + class, Group: "Frames that are not IP", Kind: Choice, Default: "pass", Choices: []string{"pass", "drop"}, When: Restart, Help: help,
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
