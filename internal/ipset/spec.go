package ipset

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
)

// Spec is what `create` says of a set.
type Spec struct {
	Kind       Kind
	Family     uint8  // 4 or 6; 0 for kinds of no IP version
	HashSize   uint32 // as given, rounded up to a power of two; here it is kept for listings, and tables have the size they need
	MaxElem    uint32 // hash types: most elements
	BucketSize uint8  // kept for listings
	InitVal    uint32 // kept for listings; the hash here has a secret that nobody sees
	NetMask    int    // addresses are cut to so many bits; 0: not at all
	MarkMask   uint32 // hash:ip,mark
	HasTimeout bool
	Timeout    uint32 // seconds that an element gets when it is given none; 0: it stays
	Counters   bool
	Comment    bool
	SkbInfo    bool
	ForceAdd   bool   // a full set drops an element for a new one
	Size       uint32 // list:set; kept for listings

	hasBitMask  bool    // mask was given by bitmask
	mask        address // that addresses are cut with
	first, last uint64  // bitmap types: the range
}

// Defaults and bounds of `create` (include/linux/netfilter/ipset/ip_set.h and ip_set_hash.h).
const (
	defaultHashSize   = 1024
	minHashSize       = 64
	defaultMaxElem    = 65536
	defaultBucketSize = 12
	defaultListSize   = 8
	minListSize       = 4
	maxTimeout        = math.MaxUint32 >> 1 / 1000 // IPSET_MAX_TIMEOUT, seconds: twice as many milliseconds are half of Tick
	maxName           = 31                         // IPSET_MAXNAMELEN - 1
	maxComment        = 255                        // IPSET_MAX_COMMENT_SIZE
)

// append writes the options as ipset save does, with a blank before each.
func (c *Spec) append(b []byte) []byte {
	if c.Kind.hash() {
		if c.Family != 0 {
			b = append(b, " family inet"...)
			if c.Family == 6 {
				b = append(b, '6')
			}
		}
		b = fmt.Appendf(b, " hashsize %d maxelem %d", c.HashSize, c.MaxElem)
		if c.Kind == HashIPMark && c.MarkMask != math.MaxUint32 {
			b = fmt.Appendf(b, " markmask 0x%08x", c.MarkMask)
		}
	}
	mask := func(k Kind) {
		if c.Kind != k {
			return
		}
		switch {
		case c.hasBitMask:
			b = c.mask.append(append(b, " bitmask "...), c.Family == 6)
		case c.NetMask != 0:
			b = strconv.AppendInt(append(b, " netmask "...), int64(c.NetMask), 10)
		}
	}
	switch c.Kind {
	case BitmapIP, BitmapIPMAC:
		b = address{0, c.first}.append(append(b, " range "...), false)
		b = address{0, c.last}.append(append(b, '-'), false)
	case BitmapPort:
		b = fmt.Appendf(b, " range %d-%d", c.first, c.last)
	case ListSet:
		b = fmt.Appendf(b, " size %d", c.Size)
	}
	mask(HashIP)
	mask(BitmapIP)
	if c.HasTimeout {
		b = fmt.Appendf(b, " timeout %d", c.Timeout)
	}
	for _, o := range [...]struct {
		on   bool
		text string
	}{{c.Counters, " counters"}, {c.Comment, " comment"}, {c.ForceAdd, " forceadd"}, {c.SkbInfo, " skbinfo"}} {
		if o.on {
			b = append(b, o.text...)
		}
	}
	if c.Kind.hash() {
		b = fmt.Appendf(b, " bucketsize %d initval 0x%08x", c.BucketSize, c.InitVal)
	}
	mask(HashIPPort)
	mask(HashNetNet)
	return b
}

// same says whether sets of the two can hold the same elements with the same extras, so that one can take over the
// other's (mtype_same_set).
func (c *Spec) same(d *Spec) bool {
	x, y := *c, *d
	for _, z := range []*Spec{&x, &y} {
		z.HashSize, z.BucketSize, z.InitVal, z.Size = 0, 0, 0, 0
	}
	return x == y
}

// parseSpec reads what stands behind `create NAME TYPE`.
func (l *line) parseSpec(k Kind) Spec {
	c := Spec{Kind: k, HashSize: defaultHashSize, MaxElem: defaultMaxElem, BucketSize: defaultBucketSize, MarkMask: math.MaxUint32, Size: defaultListSize}
	t := &kindTable[k]
	if !t.neutral {
		c.Family = 4
	}
	var ranges token
	var masks token
	seen := map[string]bool{}
	for len(l.words) > 0 && l.err == nil {
		w := l.next("")
		name := w.text
		if l.flag(w) {
			continue
		}
		known := func(ok bool) bool {
			if !ok {
				l.fail(w, "Unknown argument: `"+clip(name)+"'", "`create "+t.name+"` does not know it")
			}
			return ok && l.err == nil
		}
		if seen[name] {
			l.fail(w, "Syntax error: "+clip(name)+" already specified", "")
			break
		}
		seen[name] = true
		switch name {
		case "family":
			v := l.next("a family, inet or inet6")
			if !known(!t.neutral) {
				break
			}
			switch v.text {
			case "inet", "ipv4", "-4":
				c.Family = 4
			case "inet6", "ipv6", "-6":
				c.Family = 6
				if t.v4 {
					l.fail(v, t.name+" is for IPv4 only", "")
				}
			default:
				l.fail(v, "Syntax error: unknown INET family "+clip(v.text), "inet or inet6")
			}
		case "hashsize":
			if v := l.number(math.MaxUint32); known(k.hash()) {
				// htable_bits: the next power of two.
				c.HashSize = uint32(min(1<<bits.Len64(max(v, minHashSize)-1), 1<<31))
			}
		case "maxelem":
			if v := l.number(math.MaxUint32); known(k.hash()) {
				c.MaxElem = uint32(v)
			}
		case "bucketsize":
			if v := l.number(255); known(k.hash()) {
				c.BucketSize = uint8(min(max(v+v&1, 2), 12))
			}
		case "initval":
			if v := l.hex(math.MaxUint32); known(k.hash()) {
				c.InitVal = uint32(v)
			}
		case "netmask", "bitmask":
			masks = l.next("a mask")
			known(k == HashIP || k == HashIPPort || k == HashNetNet || k == BitmapIP && name == "netmask")
			if name == "bitmask" {
				c.hasBitMask = true
			}
		case "markmask":
			if v := l.hex(math.MaxUint32); known(k == HashIPMark) {
				c.MarkMask = uint32(v)
				if v == 0 {
					l.fail(w, "The value of the markmask parameter is invalid", "")
				}
			}
		case "range":
			ranges = l.next("a range")
			known(k.bitmap())
		case "size":
			if v := l.number(math.MaxUint32); known(k == ListSet) {
				c.Size = uint32(max(v, minListSize))
			}
		case "timeout":
			c.Timeout, c.HasTimeout = uint32(l.number(maxTimeout)), true
		case "counters":
			c.Counters = true
		case "comment":
			c.Comment = true
		case "skbinfo":
			c.SkbInfo = true
		case "forceadd":
			c.ForceAdd = known(k.hash())
		case "probes", "resize": // of old kernels; ignored by ipset as well
			l.next("a number")
		default:
			known(false)
		}
	}
	if l.err != nil {
		return c
	}
	v6 := c.Family == 6
	c.mask = address{^uint64(0), ^uint64(0)}
	if !v6 {
		c.mask = prefix(32, false)
	}
	if masks.text != "" && seen["netmask"] && seen["bitmask"] {
		l.fail(masks, "bitmask and netmask options are mutually exclusive, provide only one", "")
	} else if c.hasBitMask {
		c.mask = l.address(masks, v6)
		if l.err == nil && c.mask.zero() {
			l.fail(masks, "The value of the netmask parameter is invalid", "")
		}
	} else if masks.text != "" {
		n, err := strconv.ParseUint(masks.text, 10, 8)
		if err != nil || n == 0 || n > uint64(hostBits(v6)) {
			l.fail(masks, "The value of the netmask parameter is invalid", "a number from 1 to "+strconv.Itoa(hostBits(v6)))
			return c
		}
		c.mask = prefix(int(n), v6)
		if int(n) < hostBits(v6) {
			c.NetMask = int(n)
		}
	}
	if k.bitmap() {
		l.parseRange(&c, ranges)
	}
	return c
}

// parseRange reads the range of a bitmap type.
func (l *line) parseRange(c *Spec, w token) {
	if w.text == "" {
		l.fail(l.end, "Mandatory option `range' is missing", "")
		return
	}
	var e element
	if c.Kind == BitmapPort {
		l.ports(w, &e)
		c.first, c.last = uint64(e.port), uint64(e.portTo)
	} else {
		l.addresses(w, &e.a, &e.aTo, nil, false)
		c.first, c.last = e.a.lo, e.aTo.lo
	}
	if l.err != nil {
		return
	}
	if c.first > c.last {
		c.first, c.last = c.last, c.first
	}
	n := c.last - c.first + 1
	if c.Kind == BitmapIP && c.NetMask != 0 {
		hosts := uint64(1) << (32 - c.NetMask)
		if c.first&(hosts-1) != 0 || n&(hosts-1) != 0 {
			l.fail(w, "The netmask and the range do not fit", "the range must begin and end where networks of that size do")
			return
		}
		n /= hosts
	}
	if n > maxBitmap {
		l.fail(w, "The range you specified exceeds the size limit of the set type", fmt.Sprintf("at most %d elements", maxBitmap))
	}
}

// elements returns how many elements a bitmap type may have.
func (c *Spec) elements() uint64 {
	n := c.last - c.first + 1
	if c.Kind == BitmapIP && c.NetMask != 0 {
		n >>= 32 - c.NetMask
	}
	return n
}
