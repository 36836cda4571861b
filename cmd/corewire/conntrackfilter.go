package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"corewire/internal/control"
)

// filterFlags are the options that select connections and say how they are printed, or what a new one shall be.
type filterFlags struct {
	filter     control.Filter
	family     string
	output     []string
	labels     []string
	masks      [2]string // --mask-src, --mask-dst
	zones      [2]string // --orig-zone, --reply-zone
	replyKeys  [2]string // --reply-key-src, --reply-key-dst
	translated [3]string // --src-nat, --dst-nat, --any-nat
	secmark    string
	asJSON     bool
}

// add adds the flags, with conntrack's names. -m is the caller's where it sets a mark, and so is -u.
func (x *filterFlags) add(flags *pflag.FlagSet) {
	f := &x.filter
	flags.StringVarP(&x.family, "family", "f", "", "ipv4 or ipv6")
	flags.StringVarP(&f.Proto, "proto", "p", "", "protocol: tcp, udp, icmp, icmpv6, sctp, gre, udplite, dccp, or a number")
	flags.StringVarP(&f.Src, "src", "s", "", "source address or network")
	flags.StringVarP(&f.Dst, "dst", "d", "", "destination address or network")
	flags.StringVarP(&f.ReplySrc, "reply-src", "r", "", "source address or network of the reply direction")
	flags.StringVarP(&f.ReplyDst, "reply-dst", "q", "", "destination address or network of the reply direction")
	flags.StringVar(&x.masks[0], "mask-src", "", "mask of the source address, such as 255.255.255.0")
	flags.StringVar(&x.masks[1], "mask-dst", "", "mask of the destination address")
	flags.IntVar(&f.SrcPort, "sport", 0, "source port")
	flags.IntVar(&f.DstPort, "dport", 0, "destination port")
	flags.IntVar(&f.ReplySrcPort, "reply-port-src", 0, "source port of the reply direction")
	flags.IntVar(&f.ReplyDstPort, "reply-port-dst", 0, "destination port of the reply direction")
	flags.StringVar(&f.Type, "icmp-type", "", "type of an ICMP or ICMPv6 request")
	flags.StringVar(&f.Code, "icmp-code", "", "its code")
	flags.StringVar(&f.QueryID, "icmp-id", "", "its identifier")
	flags.StringVar(&f.SrcKey, "srckey", "", "GRE key of the source, decimal or with 0x")
	flags.StringVar(&f.DstKey, "dstkey", "", "GRE key of the destination")
	flags.StringVar(&x.replyKeys[0], "reply-key-src", "", "GRE key of the source, in the reply direction")
	flags.StringVar(&x.replyKeys[1], "reply-key-dst", "", "GRE key of the destination, in the reply direction")
	flags.StringVar(&f.OrigTag, "orig-vtag", "", "SCTP verification tag of the original direction")
	flags.StringVar(&f.ReplyTag, "reply-vtag", "", "SCTP verification tag of the reply direction")
	flags.StringVar(&f.State, "state", "", "TCP or SCTP state, such as ESTABLISHED")
	flags.StringVarP(&f.Zone, "zone", "w", "", "zone")
	flags.StringVar(&x.zones[0], "orig-zone", "", "zone of the original direction, which has the same as the other here")
	flags.StringVar(&x.zones[1], "reply-zone", "", "zone of the reply direction")
	flags.StringSliceVarP(&x.output, "output", "o", nil, "list, extended (the network protocol first), proc (as /proc/net/nf_conntrack), save (as options of create), xml or json; also id, ktimestamp, labels, for events timestamp; several with commas")
	flags.BoolVar(&x.asJSON, "json", false, "print a JSON object a line")
	flags.StringVarP(&x.secmark, "secmark", "c", "", "SELinux mark; refused: a wire has none")
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if short, ok := longNames[name]; ok {
			name = short
		}
		return pflag.NormalizedName(name)
	})
	for _, hidden := range []string{"secmark", "orig-zone", "reply-zone", "reply-key-src", "reply-key-dst"} {
		flags.Lookup(hidden).Hidden = true
	}
}

// select adds the flags that only look for connections.
func (x *filterFlags) selects(flags *pflag.FlagSet) {
	f := &x.filter
	flags.StringSliceVarP(&x.labels, "label", "l", nil, "labels, names or numbers; several with commas must all be set")
	flags.StringVarP(&f.ID, "id", "i", "", "number that listings show with -o id")
	for i, name := range []string{"src-nat", "dst-nat", "any-nat"} {
		flags.StringVarP(&x.translated[i], name, [...]string{"n", "g", "j"}[i], "", "translated connections: a wire has none")
		flags.Lookup(name).NoOptDefVal = "any"
		flags.Lookup(name).Hidden = true
	}
}

// status adds the flag that selects by status.
func (x *filterFlags) status(flags *pflag.FlagSet) {
	flags.StringVarP(&x.filter.Status, "status", "u", "", "ASSURED, SEEN_REPLY, UNREPLIED, EXPECTED, FIXED_TIMEOUT; several with commas must all hold")
}

// mark adds the flag that selects by mark.
func (x *filterFlags) mark(flags *pflag.FlagSet) {
	flags.StringVarP(&x.filter.Mark, "mark", "m", "", "mark or mark/mask")
}

// longNames are further names that conntrack has for some options.
var longNames = map[string]string{
	"protonum": "proto", "orig-src": "src", "orig-dst": "dst", "orig-port-src": "sport", "orig-port-dst": "dport", "event-mask": "events",
	"icmpv6-type": "icmp-type", "icmpv6-code": "icmp-code", "icmpv6-id": "icmp-id", "orig-key-src": "srckey", "orig-key-dst": "dstkey",
	"tuple-src": "src", "tuple-dst": "dst", "tuple-port-src": "sport", "tuple-port-dst": "dport",
}

// read returns what the flags say.
func (x *filterFlags) read(set *pflag.FlagSet) (control.Filter, error) {
	f := x.filter
	refuse := func(format string, args ...any) (control.Filter, error) {
		return f, &usageError{fmt.Errorf(format, args...)}
	}
	switch strings.ToLower(x.family) {
	case "":
	case "ipv4", "4":
		f.Family = 4
	case "ipv6", "6":
		f.Family = 6
	default:
		return refuse("--family is %q: expected ipv4 or ipv6", x.family)
	}
	for _, port := range []struct {
		name  string
		value int
	}{{"sport", f.SrcPort}, {"dport", f.DstPort}, {"reply-port-src", f.ReplySrcPort}, {"reply-port-dst", f.ReplyDstPort}} {
		if set.Changed(port.name) && (port.value < 1 || port.value > 65535) {
			return refuse("--%s is %d: expected a port from 1 to 65535", port.name, port.value)
		}
	}
	if x.secmark != "" {
		return refuse("--secmark is not carried out: connections on a wire have no SELinux context")
	}
	for i, side := range []*string{&f.Src, &f.Dst} {
		if x.masks[i] == "" {
			continue
		}
		name := [...]string{"src", "dst"}[i]
		length, ok := maskLength(x.masks[i])
		if *side == "" || strings.Contains(*side, "/") || !ok {
			return refuse("--mask-%s is %q: expected a mask such as 255.255.255.0 of an address in --%s", name, x.masks[i], name)
		}
		*side += "/" + strconv.Itoa(length)
	}
	for _, same := range []struct {
		name string
		a    *string
		b    string
	}{{"zone", &f.Zone, x.zones[0]}, {"zone", &f.Zone, x.zones[1]}, {"source key", &f.SrcKey, x.replyKeys[1]}, {"destination key", &f.DstKey, x.replyKeys[0]}} {
		if same.b == "" {
			continue
		}
		if *same.a != "" && *same.a != same.b {
			return refuse("the %s is %s in one direction and %s in the other: both directions have the same on a wire", same.name, *same.a, same.b)
		}
		*same.a = same.b
	}
	if x.translated[2] != "" && x.translated[0]+x.translated[1] != "" {
		return refuse("--any-nat excludes --src-nat and --dst-nat")
	}
	f.Translated = x.translated != [3]string{}
	f.Labels = strings.Join(x.labels, ",")
	for _, word := range x.output {
		switch word {
		case "id", "timestamp", "ktimestamp", "labels", "userspace":
			f.Show = append(f.Show, word)
		default:
			f.Format = control.Format(word) // the firewall knows which there are
		}
	}
	if slices.Contains(x.output, "save") && len(x.output) > 1 {
		return refuse("-o save goes with no other form of output")
	}
	if x.asJSON {
		f.Format = control.FormatJSON
	}
	return f, nil
}

// maskLength returns how many ones a mask such as 255.255.255.0 or ffff:: begins with; false if others follow.
func maskLength(text string) (int, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return 0, false
	}
	for n := range a.BitLen() + 1 {
		ones := netip.IPv6Unspecified()
		full := netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
		if a.Is4() {
			full = netip.AddrFrom4([4]byte{255, 255, 255, 255})
		}
		if p, err := full.Prefix(n); err == nil {
			ones = p.Addr()
		}
		if ones == a {
			return n, true
		}
	}
	return 0, false
}
