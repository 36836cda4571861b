package conntrack

import (
	"fmt"
	"strconv"
	"strings"

	"corewire/internal/packet"
)

// Helper names a connection helper: a parser of a protocol whose control connections announce further connections. The
// names are Linux' (-j CT --helper).
type Helper uint8

const (
	HelperNone Helper = iota
	HelperFTP         // TCP, both families
	HelperTFTP        // UDP, both families
	HelperIRC         // TCP, IPv4
	HelperSIP         // UDP and TCP, both families
	HelperPPTP        // TCP, IPv4
	Helpers           // number of helpers
)

// Classes of expectations: all but SIP have one (enum sip_expectation_classes, linux/netfilter/nf_conntrack_sip.h).
const (
	sipSignalling uint8 = iota
	sipAudio
	sipVideo
	sipImage
	expectClasses // number of classes
)

// policy bounds a helper's expectations of one class (struct nf_conntrack_expect_policy).
type policy struct {
	max     uint8  // expectations of one master at a time
	timeout uint32 // ms
}

// helpers describes the helpers: names, transports and policies, from nf_conntrack_{ftp,tftp,irc,sip,pptp}.c. A helper's
// port is its default there.
var helpers = [Helpers]struct {
	name     string
	port     uint16
	tcp, udp bool
	ipv6     bool
	policy   [expectClasses]policy
	class    [expectClasses]string // names of the classes, as /proc/net/nf_conntrack_expect shows them
}{
	HelperFTP:  {name: "ftp", port: 21, tcp: true, ipv6: true, policy: [expectClasses]policy{{1, 300_000}}},
	HelperTFTP: {name: "tftp", port: 69, udp: true, ipv6: true, policy: [expectClasses]policy{{1, 300_000}}},
	HelperIRC:  {name: "irc", port: 6667, tcp: true, policy: [expectClasses]policy{{8, 300_000}}},
	HelperSIP: {name: "sip", port: 5060, tcp: true, udp: true, ipv6: true,
		policy: [expectClasses]policy{sipSignalling: {1, 180_000}, sipAudio: {4, 180_000}, sipVideo: {4, 180_000}, sipImage: {2, 180_000}},
		class:  [expectClasses]string{sipSignalling: "signalling", sipAudio: "audio", sipVideo: "video", sipImage: "image"}},
	HelperPPTP: {name: "pptp", port: 1723, tcp: true, policy: [expectClasses]policy{{2, 300_000}}},
}

// String returns the helper's name; "" for HelperNone.
func (h Helper) String() string {
	if h < Helpers {
		return helpers[h].name
	}
	return "unknown"
}

// HelperByName returns the helper of that name, as -j CT --helper has it.
func HelperByName(name string) (Helper, error) {
	for h := HelperNone + 1; h < Helpers; h++ {
		if helpers[h].name == name {
			return h, nil
		}
	}
	return HelperNone, fmt.Errorf("helper %q is not known (ftp, tftp, irc, sip or pptp)", name)
}

// fits reports whether a helper reads connections of a protocol and family. Linux refuses such an assignment
// when the rule is made; here the connection is left without a helper.
func (h Helper) fits(proto, family uint8) bool {
	if h == HelperNone || h >= Helpers || family == 6 && !helpers[h].ipv6 {
		return false
	}
	return proto == packet.ProtoTCP && helpers[h].tcp || proto == packet.ProtoUDP && helpers[h].udp
}

// maxAssignments bounds the ports that get a helper by themselves: each new connection compares its own with all of
// them. Linux' modules take eight ports for each helper (MAX_PORTS).
const maxAssignments = 32

// assignment gives connections to a port a helper.
type assignment struct {
	port   uint16
	helper Helper
}

// assignments is a set of them; immutable.
type assignments struct {
	n    int
	list [maxAssignments]assignment
}

// find returns the helper of a new connection to a port.
func (a *assignments) find(port uint16, proto, family uint8) Helper {
	for i := range a.list[:a.n] {
		if x := &a.list[i]; x.port == port && x.helper.fits(proto, family) {
			return x.helper
		}
	}
	return HelperNone
}

// WithHelpers returns a copy of s in which connections to the listed ports get a helper by themselves, as kernels before
// 6.0 did with nf_conntrack_helper=1: "ftp=21,ftp=2121,tftp=69", or "ftp,tftp" for the usual ports, or "1" for all
// helpers on their usual ports; "" or "0" for none, the default. A port may be listed for several helpers only if their
// transports differ.
func (s *Settings) WithHelpers(list string) (*Settings, error) {
	c := *s
	c.helpers = assignments{}
	switch strings.TrimSpace(list) {
	case "0":
		list = ""
	case "1":
		list = "ftp,tftp,irc,sip,pptp"
	}
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		name, text, given := strings.Cut(item, "=")
		h, err := HelperByName(strings.TrimSpace(name))
		if err != nil {
			return nil, fmt.Errorf("assign helpers: %w", err)
		}
		a := assignment{helpers[h].port, h}
		if given {
			n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 16)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("assign helper %s: %q is not a port (1 to 65535)", h, text)
			}
			a.port = uint16(n)
		}
		for _, b := range c.helpers.list[:c.helpers.n] {
			if b.port == a.port && (helpers[b.helper].tcp && helpers[h].tcp || helpers[b.helper].udp && helpers[h].udp) {
				return nil, fmt.Errorf("assign helper %s: port %d has helper %s already", h, a.port, b.helper)
			}
		}
		if c.helpers.n == maxAssignments {
			return nil, fmt.Errorf("assign helpers: more than %d ports", maxAssignments)
		}
		c.helpers.list[c.helpers.n] = a
		c.helpers.n++
	}
	return &c, nil
}

// Helpers returns the list that WithHelpers took, every port written out.
func (s *Settings) Helpers() string {
	var b []byte
	for i, a := range s.helpers.list[:s.helpers.n] {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, a.helper.String()...)
		b = append(b, '=')
		b = strconv.AppendUint(b, uint64(a.port), 10)
	}
	return string(b)
}
