package rules

import (
	"iter"
	"strconv"

	"corewire/internal/ipset"
	"corewire/internal/packet"
)

// Options are what a rule set is compiled for.
type Options struct {
	InsideName, OutsideName string // the interfaces' names, which -i and -o may use beside inside and outside; may be empty

	// Timeouts are the timeout policies that rules may name, with the number of the protocol that each is for; 0 for a
	// policy of the protocols that connection tracking has no tracker for.
	Timeouts map[string]uint8

	// Sets are the sets that rules may name; nil for none.
	Sets Sets

	// RecentList is how many addresses a list of -m recent holds (ip_list_tot); 0: DefaultRecentList. RecentTimes is how many
	// times of each it keeps at least (ip_pkt_list_tot); 0: as many as the rules' hit counts ask for, or 32.
	RecentList, RecentTimes uint32

	// Connections is for how many connections each -m connlimit has room, at most 2³²-2: the maximum of the caller's table.
	// A rule that has none left drops, as Linux does without memory. 0: 262144.
	Connections int

	// What the caller can do. Without, a rule that asks for it is an error (Clock), or does less, with a warning.
	Clock   bool // it sets Context.Now: -m limit
	Wall    bool // it sets Context.Wall: -m time
	Counts  bool // connections are counted: -m connbytes
	Clamps  bool // it sets Context.MTU: -j TCPMSS --clamp-mss-to-pmtu
	Rejects bool // it answers packets for which Reject is not RejectNone: -j REJECT
	Logs    bool // it passes on what Matcher.Logged tells: -j LOG, -j NFLOG
}

// Ruleset is a compiled rule set. It is immutable; any number of Matchers use it at the same time.
type Ruleset struct {
	compiled    []Info               // of the rules that were compiled, by RuleID; those that went since are still there
	late        []Info               // of the rules that changes of one rule put in, by RuleID behind all others; likewise
	count       int                  // rules in force
	line        *line                // of changes of one rule
	chains      []ChainInfo          // in order of files and declaration
	lists       []*RuleList          // their rules
	pieces      map[chainKey][]piece // of each chain, ignored ones too, in order
	prints      []uint32             // by RuleID, of the rules that were compiled: see Rule.print
	files       []*File              // as compiled; see filesNow
	warnings    []Warning
	prog        [programs]program // by place
	has         [programs]bool    // by place: a file has the table; filter's are not looked at
	way         [2]way            // by IP version
	long        bool              // packets pass more than filter's FORWARD, or rules change something
	assign      []uint32          // by RuleID, as far as there are any: what the rule gives, as Early.Assign
	assignments []*CTTarget
	memory      memory
	needs       Needs
	opt         Options
	sets        []*ipset.Handle // that the rules name
	movedSets   []*ipset.Handle // that they add to or delete from
	patches     int             // changes of one rule since everything was compiled
	steps       []step          // these
}

// RuleID names what decided a packet, or a counter: a rule, the policy of a base chain for an IP version, or the drop of
// packets with a short header. Compile numbers the rules in the order of the files, from 0. A rule keeps its RuleID through
// changes of other rules for as long as it lives, and none is given twice.
//
//	rules as compiled | policies, short headers, no room (idExtra) | rules that changes put in (maxPatches)
type RuleID uint32

// The identities behind the compiled rules, added to their number.
const (
	idPolicy = 0           // policies of the base chains, by place
	idShort  = programs    // a match asked for a header that the packet does not have: dropped, as xtables' hotdrop
	idFull   = idShort + 1 // what a match remembers has no room for the packet's address: dropped likewise
	idExtra  = idFull + 1
)

// Info describes one rule of a rule set, for listings.
type Info struct {
	Table   string
	Chain   string
	Number  int    // place in its chain, from 1; written by Rule and Rules
	Family  Family // the IP versions that it is for
	piece   int32  // of Ruleset.chains
	Rule    *Rule  // as parsed: position, text, parts
	Counter Counter
}

// ChainInfo describes one chain of a rule set, for listings.
type ChainInfo struct {
	Table  string
	Name   string
	Family Family
	Policy Policy
	Chain  *Chain // as parsed: its position and its counter, and the rules that it had then

	parts []int32 // of Ruleset.chains: what files before have of the same chain, whose rules are numbered first
}

// chainKey names a chain.
type chainKey struct{ table, name string }

// Needs says which fields of Context the rule set looks at, beside State, which is always needed.
type Needs uint16

const (
	NeedDir Needs = 1 << iota
	NeedStatus
	NeedExpires
	NeedMark // the rules look at the packet's mark; see Context.Mark
	NeedConnMark
	NeedNow
	NeedCounts
	NeedHelper
	NeedLabels
	NeedWall
	WritesLabels   // not a need: rules may change Context.Labels
	WritesConnMark // not a need: rules may change Context.ConnMark
	WritesSegments // not a need: rules may change the packet behind its IP header
	NeedTickets    // Held, Taken and Status, and that who has them calls Release
	NeedMaster     // Status as well
)

// Context is what the packet's connection adds to the packet. Match keeps nothing of it. It writes Mark and ConnMark as
// the rules do, and Labels; what then is in ConnMark and Labels is the connection's from then on, whatever the verdict,
// unless the packet would have begun the connection and is dropped.
type Context struct {
	State   State
	Dir     Dir    // NeedDir; Original when the packet has no connection
	Status  uint32 // NeedStatus; Status… bits
	Expires uint32 // NeedExpires; seconds until the connection would expire

	Mark     uint32      // of the packet: 0, or Early.Mark
	ConnMark uint32      // NeedConnMark; of the connection
	Counted  bool        // NeedCounts; the connection's packets are counted: Packets and Bytes are valid
	Packets  [2]uint64   // NeedCounts; by direction, with the packet at hand
	Bytes    [2]uint64   // NeedCounts; likewise
	Master   packet.Addr // NeedMaster; the address that began the connection that announced this one, when Status says it is expected
	Helper   string      // NeedHelper; of the connection that announced this one; "" for none
	Labels   [2]uint64   // NeedLabels; bit n%64 of element n/64 is label n
	Wall     int64       // NeedWall; seconds since 1970-01-01T00:00:00Z
	MTU      uint32      // the lesser of both ports', for -j TCPMSS --clamp-mss-to-pmtu; 0 when it is not known: nothing is clamped
	Now      int64       // NeedNow; nanoseconds since some origin, the same for all matchers of a rule set; may wrap

	// NeedTickets: what the connection is counted by (-m connlimit), and room for MaxTickets, to which Match appends what it is
	// counted by from now on. The caller ties these to the connection, or hands them back to Ruleset.Release.
	Held, Taken []Ticket

	looking bool // Explain asks: nothing is to change
}

// Verdict is what becomes of a packet.
type Verdict uint8

const (
	Drop Verdict = iota // the zero value
	Accept
)

// String returns "accept" or "drop".
func (v Verdict) String() string {
	if v == Accept {
		return "accept"
	}
	return "drop"
}

// Result is the outcome of Match. It has no more than four fields, so that the compiler keeps it in registers: a copy in memory would
// wait for each of them to be written.
type Result struct {
	Verdict Verdict
	Keep    Keep
	Rule    RuleID // what decided
	Trace   uint32 // for Count; below 1<<TraceBits. 0: there was no room to keep it, and Match has counted the packet itself
}

// Keep says how long every later packet of the same connection, direction, state and port would take the same trace.
type Keep uint8

const (
	KeepNot       Keep = iota // it may take another one
	KeepOn                    // as long as the rules are the same
	KeepUntilSets             // and until a set is changed by order: one was asked on the way
)

// Cacheable says that the result is that of later packets too.
func (r Result) Cacheable() bool { return r.Keep != KeepNot }

// keepOf returns how long a result holds that is cacheable or not, and had sets asked for it or not.
func keepOf(cacheable, asked bool) Keep {
	switch {
	case !cacheable:
		return KeepNot
	case asked:
		return KeepUntilSets
	}
	return KeepOn
}

// Len returns the number of rules.
func (rs *Ruleset) Len() int { return rs.count }

// Rules gives the rules in the order of files, chains and numbers, for listings. What a rule consists of must not be changed.
func (rs *Ruleset) Rules() iter.Seq2[RuleID, Info] {
	return func(yield func(RuleID, Info) bool) {
		for i := range rs.chains {
			number := rs.before(i)
			for id := range rs.lists[i].All() {
				number++
				info := *rs.info(id)
				if info.Number = number; !yield(id, info) {
					return
				}
			}
		}
	}
}

// Rule describes one rule; ok is false when the RuleID is none of a rule's. Of a rule that has gone the number is 0.
func (rs *Ruleset) Rule(id RuleID) (info Info, ok bool) {
	if !rs.isRule(id) {
		return Info{}, false
	}
	info = *rs.info(id)
	info.Number = 0
	if at := rs.at(id); at >= 0 {
		info.Number = rs.before(int(info.piece)) + at + 1
	}
	return info, true
}

// isRule says that a RuleID is one of a rule, which may have gone.
func (rs *Ruleset) isRule(id RuleID) bool {
	k := int(id) - len(rs.compiled)
	return k < 0 || k >= idExtra && k < idExtra+len(rs.late)
}

// info returns a rule's description; its Number says nothing.
func (rs *Ruleset) info(id RuleID) *Info {
	if k := int(id) - len(rs.compiled); k >= idExtra {
		return &rs.late[k-idExtra]
	}
	return &rs.compiled[id]
}

// extra returns the RuleID of a policy or one of the other counters that are no rule's.
func (rs *Ruleset) extra(k int) RuleID { return RuleID(len(rs.compiled) + k) }

// before returns how many rules of a chain stand in files before.
func (rs *Ruleset) before(chain int) int {
	n := 0
	for _, k := range rs.chains[chain].parts {
		n += rs.lists[k].Len()
	}
	return n
}

// at returns the index of a rule in its chain, -1 when it has gone.
func (rs *Ruleset) at(id RuleID) int { return rs.lists[rs.info(id).piece].index(id) }

// Chains returns the chains, for listings. The caller must not change it.
func (rs *Ruleset) Chains() []ChainInfo { return rs.chains }

// List returns the rules of a chain, by its index in Chains.
func (rs *Ruleset) List(chain int) *RuleList { return rs.lists[chain] }

// Warnings returns what was ignored in the files, and what compiling found.
func (rs *Ruleset) Warnings() []Warning { return rs.warnings }

// Needs returns which fields of Context Match looks at.
func (rs *Ruleset) Needs() Needs { return rs.needs }

// Counters returns the number of counters, one for each RuleID that there is or may be after changes of one rule.
func (rs *Ruleset) Counters() int { return len(rs.compiled) + idExtra + maxPatches }

// RuleName returns how events and listings call a rule: "FORWARD 3", "FORWARD policy", "mychain 2", "short header",
// "raw PREROUTING 1".
func (rs *Ruleset) RuleName(id RuleID) string {
	if r, ok := rs.Rule(id); ok {
		name := r.Chain + " " + strconv.Itoa(r.Number)
		if r.Table != "filter" {
			name = r.Table + " " + name
		}
		return name
	}
	switch k := int(id) - len(rs.compiled); {
	case k < filterPlace+2:
		return "FORWARD policy"
	case k < programs:
		return baseTable[k/2].table + " " + baseTable[k/2].chain + " policy"
	case k == idShort:
		return "short header"
	case k == idFull:
		return "no room"
	}
	return "?"
}

// Reject returns how a packet that the rule decided is to be answered.
func (rs *Ruleset) Reject(id RuleID) RejectWith {
	if rs.isRule(id) {
		return rs.info(id).Rule.Target.Reject
	}
	return RejectNone
}

// PolicyID returns the RuleID of FORWARD's policy for an IP version.
func (rs *Ruleset) PolicyID(f Family) RuleID {
	return rs.ChainPolicyID("filter", "FORWARD", f)
}

// program is the compiled rules of one IP version, without pointers into the parsed form.
//
// Each chain is a few trees over the same chain's rules, see tree.go; each tree leads a header to a short run of
// entries, in order of rank, which are compared one by one, see run.go. What a rank is says rank.go.
type program struct {
	chains     []chain
	names      map[string]uint32 // of the chains that packets come to
	overlays   []overlay         // of changes since the chains were compiled
	rules      []compiledRule    // chain by chain, each with one more at its end that is no rule; nor are those that are room, see rank.go
	does       []uint32          // indices in deeds, as rules; nil while rules have room for them
	gap        uint8             // bits of a rank below the index in rules
	late       []late            // by rank
	leaders    []uint32          // indices in rules of those that lead to another chain, rising
	deeds      []deed            // of the rules
	done       map[deed]uint32   // numbers of deeds, while compiling
	trees      []slot            // the roots
	slots      []slot
	places     []slot           // where runs go on
	narrow     []narrow         // entries of IPv4
	shapes     []shape          // of these
	interned   map[shape]uint32 // numbers of shapes, while compiling; later there are few new ones
	wide       []wide           // entries of IPv6
	preds      []pred           // conditions that entries do not hold
	addrs      []prefix
	ports      []PortRange
	buckets    []*bucket  // shared by all matchers
	counters   []*counter // shared by all matchers
	sets       []setQuery
	setChanges []setChange
	// The rules that buckets and counters belong to, see Adopt.
	bucketRules, counterRules []RuleID
	texts                     []*text
	hashes                    []*hashTable // shared by all matchers, as what follows
	recents                   []recentRule
	conns                     []*connCounts
	connRules                 []RuleID // that conns belong to
	quotas                    []*quota // shared by all matchers
	quotaRules                []RuleID
	spis                      []SPIMatch
	frags                     []FragMatch
	headers                   []HeadersMatch
	options                   []OptionsMatch
	u32s                      []U32Match
	times                     []TimeMatch
	bytes                     []ByteMatch
	helpers                   []HelperMatch
	chunks                    []ChunkMatch
	routes                    []RoutingMatch
	segments                  []SegmentMatch
	bpfs                      []bpfProgram
	hashMarks                 []HashMarkTarget
	effects                   []effect
	strips                    [][8]uint32 // sets of TCP options, by kind
	policy                    Verdict
	v6                        bool
	depth                     int // the longest chain of nested calls
}

// chain is where the trees of a chain are, and its rules.
type chain struct {
	first, n   uint32 // in trees
	begin, end uint32 // in rules; at the end is one that is no rule
}

// rule is what the program knows of a rule beside its entries.
type rule struct {
	id    RuleID
	does  uint32 // index in deeds
	hides bool   // building left out rules behind it where it takes all packets
}

// compiledRule is a rule in 4 bytes: hides:1 | index in deeds:11 | RuleID:20.
type compiledRule uint32

const (
	idBits    = 20
	deedsMost = 1<<11 - 1 // the highest index in deeds that it holds; where there are higher ones, program.does has all
	hides     = 1 << 31
)

// There is room for the RuleIDs of all rules.
const _ = uint(1<<idBits - 1 - MaxRules - idExtra - maxPatches)

func (r compiledRule) id() RuleID { return RuleID(r & (1<<idBits - 1)) }

// compiled returns the rule with an index in rules.
func (g *program) compiled(index uint32) rule {
	r := g.rules[index]
	does := uint32(r >> idBits & deedsMost)
	if g.does != nil {
		does = g.does[index]
	}
	return rule{r.id(), does, r&hides != 0}
}

// deed is what a rule does, and asks beside what its entries hold. Rules that ask no more are of few kinds.
type deed struct {
	pred  uint32 // its conditions in preds: first all of them when early is set, then those that its entries do not hold
	arg   uint32 // VerbJump, VerbGoto: index of the chain; VerbEffect: index in effects
	all   uint8  // how many conditions there are, stored only when early is set
	rest  uint8  // how many conditions its entries do not hold
	verb  Verb
	flags ruleFlags
}

// deed returns what the rule of a rank does.
func (g *program) deed(rank uint32) *deed { return g.deedOf(g.rule(rank)) }

// deedOf returns what a rule does.
func (g *program) deedOf(r rule) *deed { return &g.deeds[r.does] }

// addRule appends a rule to rules.
func (g *program) addRule(id RuleID, does uint32) {
	if does > deedsMost && g.does == nil {
		g.does = make([]uint32, len(g.rules))
		for i, r := range g.rules {
			g.does[i] = uint32(r >> idBits & deedsMost)
		}
	}
	if g.does != nil {
		g.does = append(g.does, does)
	}
	g.rules = append(g.rules, compiledRule(min(does, deedsMost))<<idBits|compiledRule(id&(1<<idBits-1)))
}

// indexOf returns the index of a deed. While compiling the same ones are one; a change of one rule appends its own.
func (g *program) indexOf(d deed) uint32 {
	n, ok := g.done[d]
	if ok {
		return n
	}
	n = keep(&g.deeds, d)
	if g.done != nil {
		g.done[d] = n
	}
	return n
}

type ruleFlags uint8

const (
	needsHeader ruleFlags = 1 << iota // a match drops packets whose transport header is short
	early                             // something is asked before that match beside addresses, protocol and interfaces
	asksProto                         // it has -p, and is for IPv6: it drops packets whose extension headers cannot be followed
)

// entries returns how many entries there are.
func (g *program) entries() int {
	if g.v6 {
		return len(g.wide)
	}
	return len(g.narrow)
}

// prefix is an address and its mask.
type prefix struct{ addr, mask packet.Addr }

// Size returns the bytes that the compiled rules take, without what is kept for listings.
func (rs *Ruleset) Size() int {
	n := 0
	for f := range rs.prog {
		g := &rs.prog[f]
		n += len(g.chains)*16 + (len(g.rules)+len(g.does))*4 + len(g.deeds)*12 + len(g.trees)*8 + len(g.slots)*8 + len(g.places)*8 + len(g.narrow)*16 + len(g.shapes)*16 + len(g.wide)*80 +
			len(g.preds)*16 + len(g.addrs)*32 + len(g.ports)*6
	}
	return n
}
