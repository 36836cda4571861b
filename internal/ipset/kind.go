package ipset

import (
	"strings"
)

// Kind is a set type, such as hash:ip.
type Kind uint8

const (
	HashIP Kind = iota
	HashMAC
	HashIPMAC
	HashNet
	HashNetNet
	HashIPPort
	HashNetPort
	HashIPPortIP
	HashIPPortNet
	HashNetPortNet
	HashIPMark
	HashNetIface
	BitmapIP
	BitmapIPMAC
	BitmapPort
	ListSet
	kinds
)

// part is one dimension of an element.
type part uint8

const (
	partIP    part = iota
	partNet        // with a prefix length
	partPort       // protocol and port, or ICMP type and code
	partIface      // the name of an interface
	partMAC
	partMark
	partSet // the name of a set
)

// traits are what is fixed for a kind.
type traits struct {
	name, alias string
	parts       []part
	neutral     bool // of no IP version
	v4          bool // for IPv4 only
	noMatch     bool // elements may be exceptions (IPSET_TYPE_NOMATCH)
	zero        bool // prefixes of length 0 are allowed (IP_SET_HASH_WITH_NET0)
	revision    int  // of the kernel's type that this package behaves like, for listings
}

// kindTable has the facts of net/netfilter/ipset/ip_set_*.c, Linux 6.12.
var kindTable = [kinds]traits{
	HashIP:         {name: "hash:ip", alias: "iphash", parts: []part{partIP}, revision: 6},
	HashMAC:        {name: "hash:mac", parts: []part{partMAC}, neutral: true, revision: 1},
	HashIPMAC:      {name: "hash:ip,mac", parts: []part{partIP, partMAC}, revision: 1},
	HashNet:        {name: "hash:net", alias: "nethash", parts: []part{partNet}, noMatch: true, revision: 7},
	HashNetNet:     {name: "hash:net,net", parts: []part{partNet, partNet}, noMatch: true, revision: 4},
	HashIPPort:     {name: "hash:ip,port", alias: "ipporthash", parts: []part{partIP, partPort}, revision: 7},
	HashNetPort:    {name: "hash:net,port", parts: []part{partNet, partPort}, noMatch: true, revision: 8},
	HashIPPortIP:   {name: "hash:ip,port,ip", alias: "ipportiphash", parts: []part{partIP, partPort, partIP}, revision: 6},
	HashIPPortNet:  {name: "hash:ip,port,net", alias: "ipportnethash", parts: []part{partIP, partPort, partNet}, noMatch: true, revision: 8},
	HashNetPortNet: {name: "hash:net,port,net", parts: []part{partNet, partPort, partNet}, noMatch: true, zero: true, revision: 3},
	HashIPMark:     {name: "hash:ip,mark", parts: []part{partIP, partMark}, revision: 3},
	HashNetIface:   {name: "hash:net,iface", parts: []part{partNet, partIface}, noMatch: true, zero: true, revision: 8},
	BitmapIP:       {name: "bitmap:ip", alias: "ipmap", parts: []part{partIP}, v4: true, revision: 3},
	BitmapIPMAC:    {name: "bitmap:ip,mac", alias: "macipmap", parts: []part{partIP, partMAC}, v4: true, revision: 3},
	BitmapPort:     {name: "bitmap:port", alias: "portmap", parts: []part{partPort}, neutral: true, revision: 3},
	ListSet:        {name: "list:set", alias: "setlist", parts: []part{partSet}, neutral: true, revision: 3},
}

// String returns the kind's name, such as "hash:ip".
func (k Kind) String() string { return kindTable[k].name }

// Dimensions returns how many src or dst a rule must give for a packet to be looked up in a set of the kind; 1 for
// list:set, whose members have their own.
func (k Kind) Dimensions() int { return len(kindTable[k].parts) }

func (k Kind) hash() bool   { return k < BitmapIP }
func (k Kind) bitmap() bool { return k == BitmapIP || k == BitmapIPMAC || k == BitmapPort }

// has says whether a dimension of the kind is a p.
func (k Kind) has(p part) bool {
	for _, q := range kindTable[k].parts {
		if p == q {
			return true
		}
	}
	return false
}

// features are what two sets must have in common to be swapped: the bits of ip_set_type.features in
// include/linux/netfilter/ipset/ip_set.h (IP, PORT, MAC, IP2, NAME, IFACE, MARK, NOMATCH).
func (k Kind) features() (f uint16) {
	for _, p := range kindTable[k].parts {
		switch p {
		case partIP, partNet:
			f |= 1 + f&1*7 // the second address is 8
		case partPort:
			f |= 1 << 1
		case partMAC:
			f |= 1 << 2
		case partSet:
			f |= 1 << 4
		case partIface:
			f |= 1 << 5
		case partMark:
			f |= 1 << 6
		}
	}
	if kindTable[k].noMatch {
		f |= 1 << 7
	}
	return f
}

// kindOf finds a kind by its name or its old name.
func kindOf(name string) (Kind, bool) {
	for k := range kindTable {
		if t := &kindTable[k]; strings.EqualFold(t.name, name) || t.alias != "" && t.alias == name {
			return Kind(k), true
		}
	}
	return 0, false
}
