package rulestest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Set is an IP set that generated rules name.
type Set struct {
	Name, Kind string
	Version    int      // 4, 6, or 0 for kinds of no IP version
	Parts      []string // of an element, by dimension: ip, net, port, mac, mark, iface, set
	Members    []string // elements, without their options; of a list:set the names of sets
	Timeout    bool
	Wildcard   bool // has elements with the beginning of a name, which for the kernel are what it begins: rules do not change it, nor for the twin any with interfaces
}

// Set kinds, those first that a kernel of the usual configuration is sure to have.
var setKinds = []string{
	"hash:ip", "hash:net", "hash:ip,port", "hash:net,port", "hash:ip,port,ip", "hash:ip,port,net", "bitmap:ip", "bitmap:ip,mac", "bitmap:port",
	"hash:net,iface", "hash:mac", "hash:ip,mac", "hash:net,net", "hash:net,port,net", "hash:ip,mark",
}

// SetKinds are the kinds that MakeSets knows, but for list:set.
func SetKinds() []string { return slices.Clone(setKinds) }

// Seconds that elements are given: those of Brief are gone by the next phase of a test that pauses, the others stay.
const (
	Brief = 2
	Long  = 600
)

// MakeSets makes sets of the kinds given, mostly for an IP version, 4 or 6, in g.Sets, for rules to name, and returns them
// as ipset restore takes them. Members come from the pools that addresses and ports of rules and packets come from. The
// last sets are lists of the others.
func (g *Generator) MakeSets(version int, kinds []string) string {
	var b strings.Builder
	g.Sets = nil
	n := 4 + g.IntN(4)
	for i := range n {
		s := Set{Name: fmt.Sprintf("s%d", i), Kind: kinds[g.IntN(len(kinds))], Version: version}
		if i == 0 {
			s.Kind = kinds[0] // one that every rule can name
		}
		if i > 0 && g.one(10) {
			s.Version = 10 - version
		}
		most := 14
		method, parts, _ := strings.Cut(s.Kind, ":")
		s.Parts = strings.Split(parts, ",")
		fmt.Fprintf(&b, "create %s %s", s.Name, s.Kind)
		switch {
		case s.Kind == "bitmap:port":
			s.Version = 0
			b.WriteString(" range 0-60000")
		case method == "bitmap":
			s.Version = 4
			b.WriteString(" range 10.0.0.0-10.0.255.255")
		case s.Kind == "hash:mac":
			s.Version = 0
		default:
			b.WriteString(map[int]string{4: " family inet", 6: " family inet6"}[s.Version])
			if g.one(6) && s.Kind == "hash:ip" {
				b.WriteString(" netmask " + map[int]string{4: g.Pick("24", "31"), 6: g.Pick("64", "127")}[s.Version])
			}
			if g.one(8) {
				b.WriteString(" maxelem 6")
				most = 6
			}
		}
		withMAC := slices.Contains(s.Parts, "mac")
		var counters, info bool
		// To the kernel the seconds of an element that waits for its MAC address are a time (bitmap_ipmac_do_add).
		if s.Timeout = g.one(2) && !(withMAC && method == "bitmap"); s.Timeout {
			fmt.Fprintf(&b, " timeout %s", g.Pick("0", "600", "900"))
		}
		if counters = !g.one(3); counters {
			b.WriteString(" counters")
		}
		if info = g.one(3); info {
			b.WriteString(" skbinfo")
		}
		b.WriteByte('\n')
		s.Wildcard = slices.Contains(s.Parts, "iface") && (g.one(2) || g.Side == Twin)
		for range g.IntN(most) {
			m, option := g.member(&s)
			if m == "" {
				continue
			}
			s.Members = append(s.Members, m)
			fmt.Fprintf(&b, "add %s %s%s%s\n", s.Name, m, g.memberOptions(s.Timeout, s.lasting(g.Side), counters, info), option)
		}
		g.Sets = append(g.Sets, s)
	}
	for i := range g.IntN(3) {
		s := Set{Name: fmt.Sprintf("l%d", i), Kind: "list:set", Parts: []string{"set"}, Timeout: g.one(3)}
		counters, info := !g.one(3), g.one(3)
		fmt.Fprintf(&b, "create %s list:set", s.Name)
		if s.Timeout {
			b.WriteString(" timeout 600")
		}
		if counters {
			b.WriteString(" counters")
		}
		if info {
			b.WriteString(" skbinfo")
		}
		b.WriteByte('\n')
		for _, k := range g.Perm(n)[:1+g.IntN(3)] {
			m := g.Sets[k].Name
			fmt.Fprintf(&b, "add %s %s", s.Name, m)
			if len(s.Members) > 0 && !g.one(3) {
				at := g.IntN(len(s.Members))
				if g.one(2) {
					fmt.Fprintf(&b, " before %s", s.Members[at])
				} else {
					fmt.Fprintf(&b, " after %s", s.Members[at])
					at++
				}
				s.Members = slices.Insert(s.Members, at, m)
			} else {
				s.Members = append(s.Members, m)
			}
			s.Wildcard = s.Wildcard || g.Sets[k].Wildcard
			b.WriteString(g.memberOptions(s.Timeout, false, counters, info) + "\n")
		}
		g.Sets = append(g.Sets, s)
	}
	return b.String()
}

// lasting says that elements are not brief: of a network with interfaces the kernel lets expired elements hide shorter ones
// until they are collected; and the twin does not know how long a network is that a packet adds while expired ones still count.
func (s *Set) lasting(side Side) bool {
	return slices.Contains(s.Parts, "iface") || side == Twin && slices.Contains(s.Parts, "net")
}

// memberOptions returns what stands behind an element.
func (g Generator) memberOptions(timeout, lasting, counters, info bool) string {
	var b strings.Builder
	if timeout && !g.one(3) {
		n := []int{0, Brief, Brief, Long, Long}[g.IntN(5)]
		if lasting {
			n = Long
		}
		fmt.Fprintf(&b, " timeout %d", n)
	}
	if counters { // given, for the kernel leaves the counters of a deleted element to the one that takes its place
		n := g.IntN(4)
		fmt.Fprintf(&b, " packets %d bytes %d", n, n*(28+g.IntN(50)))
	}
	if info && !g.one(4) {
		b.WriteString(" skbmark " + g.Pick("0x1/0x3", "0x2", "0x0", "0x3/0x1"))
	}
	return b.String()
}

// member returns an element of a set, and an option that goes with it. "" if there is none.
func (g Generator) member(s *Set) (text, option string) {
	version := s.Version
	if version == 0 {
		version = 4
	}
	var parts []string
	for _, p := range s.Parts {
		switch p {
		case "ip":
			a := g.Addr(version)
			if strings.HasPrefix(s.Kind, "bitmap") {
				a = netip.AddrFrom4([4]byte{10, 0, byte(g.IntN(2) * 128), byte(g.IntN(4))})
			}
			if a.IsUnspecified() || s.Kind == "hash:ip" && a == netip.IPv6Loopback() { // what a netmask may leave nothing of
				return "", ""
			}
			parts = append(parts, a.String())
		case "net":
			n := []int{1, 8, 16, 17, 24, 31, 32, 32}[g.IntN(8)]
			if version == 6 {
				n = []int{16, 32, 40, 48, 64, 127, 128, 128}[g.IntN(8)]
			}
			if strings.Contains(s.Kind, "iface") && g.one(6) {
				n = 0
			}
			parts = append(parts, netip.PrefixFrom(g.Addr(version), n).Masked().String())
			if g.one(4) {
				option = " nomatch"
			}
		case "port":
			if s.Kind == "bitmap:port" {
				parts = append(parts, fmt.Sprint(min(g.Port(), 60000)))
				continue
			}
			icmp := "icmp:" + g.Pick("8/0", "0/0", "3/1", "13/0")
			if version == 6 {
				icmp = "icmpv6:" + g.Pick("128/0", "129/0", "1/1", "135/0")
			}
			parts = append(parts, g.Pick("tcp:", "tcp:", "udp:", "udp:", "sctp:", "udplite:")+fmt.Sprint(g.Port()))
			if g.one(4) {
				parts[len(parts)-1] = g.Pick(icmp, icmp, "gre:0", "esp:0")
			}
		case "mac":
			if s.Kind == "bitmap:ip,mac" && g.one(3) {
				continue // the first packet tells
			}
			parts = append(parts, g.Pick("02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"))
		case "mark":
			parts = append(parts, g.Pick("0x0", "0x1", "0x2", "0x3"))
		case "iface":
			name := g.Pick("inside", "outside", "eth0", "eth1", "lo")
			if g.Side == Kernel {
				name = g.Pick("br0", "br0", "lo")
			}
			if s.Wildcard && name != "lo" {
				name, option = name[:2], option+" wildcard"
			}
			parts = append(parts, name)
		}
	}
	return strings.Join(parts, ","), option
}

// bridged says that a set has interfaces: to the kernel that of every packet on a bridge is the bridge, so that rules which
// ask for the interfaces by other matches cannot be asked beside.
func (g Generator) bridged() bool {
	return g.Side == Kernel && slices.ContainsFunc(g.Sets, func(s Set) bool { return strings.Contains(s.Kind, "iface") })
}

// set returns one of the sets that a rule of an IP version can name: iptables refuses those of the other one, which are asked
// in lists only.
func (g Generator) set(version int) *Set {
	for {
		if s := &g.Sets[g.IntN(len(g.Sets))]; g.Side == Twin || s.Version == 0 || s.Version == version {
			return s
		}
	}
}

// setName returns a set with directions, as options take it, mostly as many as its kind has.
func (g Generator) setName(s *Set) string {
	n := len(s.Parts)
	if s.Kind == "list:set" {
		n = 1 + g.IntN(3)
	}
	if g.one(8) {
		n = max(1, n+g.IntN(3)-1)
	}
	var dirs []string
	for range n {
		dirs = append(dirs, g.Pick("src", "dst"))
	}
	return s.Name + " " + strings.Join(dirs, ",")
}

// setMatch returns -m set.
func (g Generator) setMatch(version int) string {
	s := g.set(version)
	var b strings.Builder
	b.WriteString(" -m set " + g.Not() + "--match-set " + g.setName(s))
	some := func(n int, text string) {
		if g.one(n) {
			b.WriteString(" " + text)
		}
	}
	some(5, "--return-nomatch")
	some(5, "! --update-counters")
	some(6, "! --update-subcounters")
	some(6, g.Pick("--packets-eq", "! --packets-eq", "--packets-lt", "--packets-gt")+fmt.Sprintf(" %d", g.IntN(8)))
	some(8, g.Pick("--bytes-eq", "! --bytes-eq", "--bytes-lt", "--bytes-gt")+fmt.Sprintf(" %d", g.IntN(400)))
	return b.String()
}

// setTarget returns -j SET.
func (g Generator) setTarget(version int, table string) string {
	one := func() string {
		for {
			if s := g.set(version); !s.Wildcard {
				return g.setName(s)
			}
		}
	}
	brief := Brief
	if g.Side == Twin {
		brief = Long
	}
	add := func() string {
		return " --add-set " + one() + g.Pick("", " --exist") + g.Pick("", "", fmt.Sprintf(" --timeout %d", []int{0, brief, Long}[g.IntN(3)]))
	}
	n := 4
	if table == "mangle" {
		n = 6
	}
	switch g.IntN(n) {
	case 0, 1:
		return " -j SET" + add()
	case 2:
		return " -j SET --del-set " + one()
	case 3:
		return " -j SET" + add() + " --del-set " + one()
	}
	return " -j SET --map-set " + one() + " --map-mark"
}
