package rules

import "corewire/internal/packet"

// File is a parsed rule file. It keeps what is needed to compile it and to print it back.
type File struct {
	Name     string
	Family   Family
	Tables   []*Table  // the tables that have a meaning here, in the file's order
	Warnings []Warning // what was ignored, in the order of the lines
}

// Table is one "*table … COMMIT" section.
type Table struct {
	Name   string
	Pos    Pos
	Chains []*Chain // in the order of their first appearance
}

// chain returns the table's chain of that name, or nil. Tables with many chains are looked up by the parser's own map.
func (t *Table) chain(name string) *Chain {
	for _, c := range t.Chains {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Policy is what becomes of a packet that reaches the end of a chain.
type Policy uint8

const (
	PolicyNone   Policy = iota // a user chain: return to the caller
	PolicyAccept               // base chains only
	PolicyDrop                 // base chains only
)

// String returns "-", "ACCEPT" or "DROP", as iptables-save writes a chain's policy.
func (p Policy) String() string { return [...]string{"-", "ACCEPT", "DROP"}[p] }

// Counter counts packets and their bytes. Bytes are those of the IP datagram, without link layer header and padding,
// as ip_tables counts (ADD_COUNTER with skb->len).
type Counter struct{ Packets, Bytes uint64 }

// Chain is a chain of rules.
type Chain struct {
	Name    string
	Pos     Pos
	Policy  Policy
	Counter Counter // of the policy, as the file has it
	Rules   []*Rule
	Ignored bool // its rules cannot apply on a transparent wire: it is neither checked nor compiled
}

// Rule is one rule. A line with several addresses in -s or -d is several rules, as in iptables.
type Rule struct {
	Pos     Pos
	Text    string // the line as it stands in the file, without surrounding blanks
	Family  Family // the IP versions that it is for
	Counter Counter
	Counted bool // the line has counters ("[1:2] -A …" or -c)

	Src, Dst AddrMatch
	In, Out  InterfaceMatch
	Proto    ProtoMatch
	Fragment FragmentMatch
	Matches  []Match // in the order they stand, which is the order they are tested in
	Target   Target

	bad   []*Error  // what is wrong with it, while it is unknown whether its chain matters
	notes []Warning // what is to be said of it, likewise
}

// AddrMatch is -s or -d. The zero value matches every address.
type AddrMatch struct {
	Pos  Pos
	Addr packet.Addr // already masked
	Mask packet.Addr // for IPv4 the upper 96 bits are ones: addresses are ::ffff:a.b.c.d
	Set  bool
	Not  bool
}

// InterfaceMatch is -i or -o. The zero value matches every interface.
type InterfaceMatch struct {
	Pos  Pos
	Name string // up to 15 bytes; a "+" at the end stands for any rest
	Not  bool
}

// ProtoMatch is -p. The zero value matches every protocol.
type ProtoMatch struct {
	Pos Pos
	Num uint8 // 0 when not given
	Not bool
}

// FragmentMatch is -f: second and further fragments of IPv4.
type FragmentMatch uint8

const (
	FragmentAny FragmentMatch = iota // not asked
	FragmentYes                      // -f
	FragmentNo                       // ! -f
)

// Extension is a module behind -m or a target behind -j, with its options.
type Extension interface {
	// Name returns the name behind -m or -j.
	Name() string
	// AppendSave appends the options as iptables-save prints them, each with a blank before it.
	AppendSave(b []byte) []byte
}

// Match is one -m module with its options. The types are this package's own, one per module.
type Match interface {
	Extension
	// compile adds what the module asks to the rule's conditions, by compiler.ask, in the order in which xtables asks it.
	compile(c *compiler)
}

// Verb says what a rule does with a packet that it matches.
type Verb uint8

const (
	VerbNone   Verb = iota // no target: count and go on
	VerbAccept             // -j ACCEPT
	VerbDrop               // -j DROP
	VerbReturn             // -j RETURN
	VerbJump               // -j CHAIN
	VerbGoto               // -g CHAIN
	VerbReject             // -j REJECT: drop, and answer
	VerbLog                // -j LOG or NFLOG: log, and go on
	VerbEffect             // a target that changes something, and goes on
)

// Name returns the target as it stands behind -j or -g; "" when there is none.
func (t *Target) Name() string {
	switch t.Verb {
	case VerbAccept:
		return "ACCEPT"
	case VerbDrop:
		return "DROP"
	case VerbReturn:
		return "RETURN"
	case VerbReject:
		return "REJECT"
	case VerbLog:
		return t.Log.Name()
	case VerbEffect:
		return t.Effect.Name()
	}
	if t.CT != nil {
		return t.CT.Name()
	}
	return t.Chain
}

// Target is -j or -g.
type Target struct {
	Pos   Pos
	Verb  Verb
	Chain string // for VerbJump and VerbGoto

	Reject RejectWith // for VerbReject
	Log    *LogTarget // for VerbLog
	CT     *CTTarget  // -j CT and NOTRACK: with VerbNone, as the packet goes on
	Effect Effect     // for VerbEffect
}
