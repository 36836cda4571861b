package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/packet"
	"corewire/internal/replay"
	"corewire/rules"
)

// trial is a rule set of one IP version, and frames to be judged by it.
type trial struct {
	name    string
	text    string // in iptables-save form
	family  rules.Family
	ports   [packet.Ports]string // the interfaces' names, for the kernel's as well
	sets    string               // in ipset save form
	bridge  string               // what rules call the interface of every packet; "": by ports
	frames  []shot
	marshal marshal
	mtu     int // of the bridge, for rules that clamp to it; 0: as it is, and the rules change no packet and no connection's mark
}

// runTag stands in names of what the kernel remembers for rules: with them go the numbers of the run. New rules are checked
// before the old ones go, so that they would find what those have remembered.
const runTag = "QQ"

// marshal says how the rules of a trial are made for the kernel; nil: kernelText.
type marshal func(f *rules.File, family rules.Family) []byte

// verdictDifference is the first frame of a trial that the two sides do not judge alike.
type verdictDifference struct {
	Frame  int    `json:"frame"` // from 1
	What   string `json:"what"`
	Detail string `json:"detail"`
}

// trialResult is what came of one trial.
type trialResult struct {
	pairs      int // frames that were compared
	matched    int // of these, frames that some rule counted
	hits       int // rules that counted, over all frames
	rules      int
	ruleHits   int            // of rules, those that counted at least once
	explained  int            // frames of which Explain was compared
	skipped    map[string]int // frames that cannot be compared, by row of skipped and lost
	gathered   int            // datagrams that left as fragments
	changed    int            // frames that left other than they came
	odd        map[string]int // frames that left not alike, by row of knownFrames
	marks      int            // connections with a mark at the end
	difference *verdictDifference
}

// judges drives trials through the kernel and through corewire. One goroutine uses it.
type judges struct {
	kernel   *kernel
	settings *conntrack.Settings
	names    [packet.Ports]string // what the kernel's ports are called now
	start    time.Time
	cover    *coverage // nil: not kept
	runs     uint64    // trials so far
	ipsets   bool      // the kernel has sets of the trial before
	mtu      int       // of the bridge; 0: as it was made
}

func newJudges() (*judges, error) {
	const begin = "*mangle\n" + keepTracking + "COMMIT\n"
	settings, err := judgeSettings()
	if err != nil {
		return nil, err
	}
	k, err := newKernel([]byte(begin), []byte(begin), settings)
	if err != nil {
		return nil, err
	}
	j := &judges{kernel: k, settings: settings, names: [2]string{packet.Inside.String(), packet.Outside.String()}, start: time.Now()}
	// 127.0.0.0/8 and ::1 are addresses of every machine, for -m addrtype.
	err = k.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, k.close())
	}
	return j, nil
}

// judgeSettings are the settings of both sides: connections are counted, for -m connbytes.
func judgeSettings() (*conntrack.Settings, error) {
	return conntrack.DefaultSettings().With("nf_conntrack_acct", 1)
}

func (j *judges) close() error { return j.kernel.close() }

// rename gives the kernel's ports the names that the rules of a trial know.
func (j *judges) rename(names [packet.Ports]string) error {
	for p := range names {
		if names[p] == "" {
			names[p] = packet.Port(p).String()
		}
	}
	if names == j.names {
		return nil
	}
	err := j.kernel.do(func() error {
		for _, step := range [][packet.Ports]string{{"port-0", "port-1"}, names} { // they may change places
			for p, name := range step {
				l, err := netlink.LinkByName(j.names[p])
				if err == nil {
					err = netlink.LinkSetName(l, name)
				}
				if err != nil {
					return fmt.Errorf("rename port %s to %s: %w", j.names[p], name, err)
				}
				j.names[p] = name
			}
		}
		return nil
	})
	return err
}

// tableNames are the tables that are compared, in the order in which packets pass them.
var tableNames = []string{"raw", "mangle", "filter", "security"}

// load puts the rules of a trial into the kernel and returns its tables.
func (j *judges) load(t *trial, f *rules.File) (tables []*xtable, err error) {
	if err := j.rename(t.ports); err != nil {
		return nil, err
	}
	if err := j.kernel.flush(); err != nil {
		return nil, err
	}
	if t.mtu != j.mtu {
		err := j.kernel.do(func() error {
			l, err := netlink.LinkByName(bridgeName)
			if err == nil {
				err = netlink.LinkSetMTU(l, cmp.Or(t.mtu, tapMTU))
			}
			if err != nil {
				return fmt.Errorf("set the bridge's MTU: %w", err)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		j.mtu = t.mtu
	}
	text := kernelText
	if t.marshal != nil {
		text = t.marshal
	}
	command, other := "iptables-legacy-restore", "ip6tables-legacy-restore"
	if t.family == rules.IPv6 {
		command, other = other, command
	}
	defer func() {
		if err != nil {
			closeTables(tables)
			tables = nil
		}
	}()
	return tables, j.kernel.do(func() error {
		if t.sets != "" || j.ipsets {
			if err := j.loadSets(t); err != nil {
				return err
			}
		}
		if err := restore(command, text(f, t.family)); err != nil {
			return err
		}
		for _, name := range tableNames {
			x, err := openXtable(name, t.family == rules.IPv6)
			if err != nil {
				return err
			}
			tables = append(tables, x)
		}
		return nil
	})
}

func closeTables(tables []*xtable) {
	for _, x := range tables {
		x.close()
	}
}

// slot is a counter that both sides have.
type slot struct {
	table *xtable
	at    int // in table.rules
	id    rules.RuleID
	name  string
	base  rules.Counter // the kernel's before the first frame
	k, c  rules.Counter // of both sides, after the last frame
}

// slots finds the counter of corewire for each of the kernel's.
func slots(tables []*xtable, rs *rules.Ruleset, f rules.Family) ([]slot, error) {
	type place struct {
		table, chain string
		number       int
	}
	ids := map[place]rules.RuleID{}
	for id, r := range rs.Rules() {
		if r.Family&f != 0 {
			ids[place{r.Table, r.Chain, r.Number}] = id
		}
	}
	for _, c := range rs.Chains() {
		if c.Policy != rules.PolicyNone {
			ids[place{c.Table, c.Name, 0}] = rs.ChainPolicyID(c.Table, c.Name, f)
		}
	}
	var out []slot
	for _, x := range tables {
		for i, r := range x.rules {
			if r.chain == "INPUT" || r.chain == "OUTPUT" {
				continue
			}
			name := fmt.Sprintf("%s %s %d", x.name, r.chain, r.number)
			if r.number == 0 {
				name = fmt.Sprintf("%s %s policy", x.name, r.chain)
			}
			id, ok := ids[place{x.name, r.chain, r.number}]
			if !ok {
				if r.number > 0 {
					return nil, fmt.Errorf("the kernel has %s, corewire has not", name)
				}
				continue // the policy of a chain that no packet passes here
			}
			delete(ids, place{x.name, r.chain, r.number})
			out = append(out, slot{table: x, at: i, id: id, name: name, base: x.counter(i)})
		}
	}
	for p := range ids {
		if p.number > 0 {
			return nil, fmt.Errorf("corewire has %s %s %d, the kernel has not", p.table, p.chain, p.number)
		}
	}
	return out, nil
}

// options are what the firewall compiles its rules for (internal/config), with the names of the trial.
func (t *trial) options() rules.Options {
	o := rules.Options{InsideName: t.ports[0], OutsideName: t.ports[1], Clock: true, Wall: true, Counts: true, Rejects: true, Clamps: true}
	if t.bridge != "" {
		o.InsideName, o.OutsideName = t.bridge, t.bridge
	}
	return o
}

// run judges the frames of a trial by both, up to the first difference.
func (j *judges) run(t *trial) (r trialResult, err error) {
	r.skipped, r.odd = map[string]int{}, map[string]int{}
	j.runs++
	f, err := rules.Parse(t.name, []byte(strings.ReplaceAll(t.text, runTag, strconv.FormatUint(j.runs, 36))), t.family)
	if err != nil {
		return r, err
	}
	sets, err := t.ownSets(j.now())
	if err != nil {
		return r, err
	}
	opt := t.options()
	if sets != nil {
		opt.Sets = sets
	}
	rs, err := rules.Compile([]*rules.File{f}, opt)
	if err != nil {
		return r, err
	}
	begin := time.Now()
	tables, err := j.load(t, f)
	if err != nil {
		return r, err
	}
	defer closeTables(tables)
	loading := time.Since(begin) // the kernel's elements are so much younger, at most
	list, err := slots(tables, rs, t.family)
	if err != nil {
		return r, err
	}
	used := map[string]bool{}
	for _, s := range list {
		if s.table.rules[s.at].number > 0 {
			r.rules++
			used[s.table.name] = true
		}
	}
	if len(used) == len(tableNames) && j.cover != nil {
		j.cover.areas["all tables"] += len(t.frames)
	}
	mtu := t.mtu
	if mtu == 0 {
		mtu = tapMTU
	}
	own, err := newCorewire(rs, j.settings, func(c *dataplane.Config) { c.Sets, c.MTU = sets, mtu })
	if err != nil {
		return r, err
	}
	defer own.close()
	rejects := false
	for _, info := range rs.Rules() {
		rejects = rejects || info.Rule.Target.Verb == rules.VerbReject
	}
	seen := make([]bool, len(list))
	before := map[packet.Key]conntrack.Info{} // what corewire knew of a connection after its last packet
	begun := map[packet.Key]bool{}            // the connections of the frames so far, and whether the last of these passed
	spoiled := false                          // the kernel may count a connection that there is not
	moved := make([]bool, rs.Counters())
	for n, s := range t.frames {
		if s.sleep > 0 {
			if t.brief() && time.Since(begin) > hurry {
				return r, errSlow
			}
			time.Sleep(s.sleep)
			begin = time.Now()
		}
		s.frame = unicast(s.frame)
		p := packet.Packet{Frame: s.frame, In: s.in}
		packet.Parse(&p)
		why := skip(s.frame, &p)
		if why == "" && rejects && ownAddress(&p) {
			why = "answer to itself"
		}
		if why != "" {
			r.skipped[why]++
			continue
		}
		k, err := j.kernel.send(s.in, s.frame)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return r, err
		}
		now := j.now()
		d, err := own.send(s.in, s.frame, now)
		if err != nil {
			return r, err
		}
		for _, x := range tables {
			if err := x.read(); err != nil {
				return r, err
			}
		}
		_, counters, err := own.engine.RuleCounters(context.Background())
		if err != nil {
			return r, err
		}
		r.pairs++
		if j.cover != nil {
			j.cover.frame(&p, &d, rs)
		}
		var wrong []string
		hit := false
		clear(moved)
		for i := range list {
			s := &list[i]
			k := s.table.counter(s.at)
			k.Packets, k.Bytes = k.Packets-s.base.Packets, k.Bytes-s.base.Bytes
			c := counters[s.id]
			if k != c {
				line := s.name
				if info, ok := rs.Rule(s.id); ok {
					line += ": " + info.Rule.Text
				}
				wrong = append(wrong, fmt.Sprintf("%s\n    kernel +%d packets +%d bytes, corewire +%d packets +%d bytes", line,
					k.Packets-s.k.Packets, k.Bytes-s.k.Bytes, c.Packets-s.c.Packets, c.Bytes-s.c.Bytes))
			}
			if k.Packets != s.k.Packets {
				moved[s.id] = true
				if s.table.rules[s.at].number > 0 {
					hit = true
					r.hits++
					if info, ok := rs.Rule(s.id); ok && j.cover != nil {
						j.cover.note(info.Rule, &p, true)
					}
					if !seen[i] {
						seen[i] = true
						r.ruleHits++
					}
				}
			}
			s.k, s.c = k, c
		}
		if hit {
			r.matched++
		}
		what := ""
		switch {
		case (len(k.out) > 0) != (len(d.out) > 0):
			what = "verdict"
		case len(wrong) > 0:
			what = "counters"
		default:
			what = r.compareFrames(s.frame, &k, &d)
		}
		if what == "" && t.mtu == 0 { // Explain gets the MTU of the taps
			what, err = j.explain(rs, &p, &k, &d, now, before, moved, &r)
			if err != nil {
				return r, err
			}
		}
		was, again := begun[p.Key]
		spoiled = spoiled || again && !was
		if what != "" && (again || spoiled) && strings.Contains(t.text, "-m connlimit") { // see known
			r.odd["connlimit"]++
			return r, nil
		}
		begun[p.Key] = len(k.out) > 0
		if what != "" && t.brief() && time.Since(begin) > hurry {
			return r, errSlow
		}
		if what != "" {
			r.difference = &verdictDifference{Frame: n + 1, What: what, Detail: describeVerdict(rs, n+1, &p, &k, &d, wrong)}
			return r, nil
		}
	}
	if t.brief() && time.Since(begin) > hurry {
		return r, errSlow
	}
	if sets != nil && len(t.frames) > 0 {
		wrong, err := j.differentSets(sets, loading)
		if err != nil {
			return r, err
		}
		if wrong != "" {
			r.difference = &verdictDifference{Frame: len(t.frames), What: "sets", Detail: "  " + wrong + "\n"}
		}
	}
	if t.mtu > 0 {
		err = j.compareMarks(own, &r)
	}
	return r, err
}

// now is corewire's clock.
func (j *judges) now() conntrack.Tick { return conntrack.Tick(time.Since(j.start) / time.Millisecond) }

// ownAddress says that a packet is from an address that every machine has: the kernel would send the answer of a REJECT
// rule to itself, and take that through its rules as well.
func ownAddress(p *packet.Packet) bool {
	a := p.Src.Netip()
	return p.Class <= packet.ClassIPv6 && (a.IsLoopback() || a.IsUnspecified())
}

// explain compares what Explain tells of a frame with the counters that moved, and notes for the coverage what each rule
// said. It returns what differs; "" if nothing.
func (j *judges) explain(rs *rules.Ruleset, p *packet.Packet, k *passage, d *decision, now conntrack.Tick, before map[packet.Key]conntrack.Info, moved []bool, r *trialResult) (string, error) {
	if d.HasInfo {
		defer func() { before[d.Info.Key] = d.Info }()
	}
	if !d.Tracked || p.Flags&packet.Fragment != 0 || p.FragHdr != 0 || len(k.sights) != 1 {
		return "", nil
	}
	c := rules.Context{State: rules.State(d.State), Dir: rules.Dir(d.Dir), Now: int64(now) * 1e6, Wall: time.Now().Unix(), MTU: tapMTU}
	if s := &k.sights[0]; s.Entry != 0 {
		if s.Status&conntrack.StatusExpected != 0 {
			return "", nil // of whom it was expected is not told
		}
		c.Status = s.Status
		if s.Status&conntrack.StatusConfirmed != 0 {
			c.Expires = uint32(max(0, s.left(j.kernel.hertz)) / time.Second)
		}
		c.Counted, c.Packets[0], c.Bytes[0] = true, 1, uint64(p.End-p.L3) // of a new connection that is dropped
		if d.HasInfo {                                                    // counted with this packet, but marks and labels are those before it
			c.Counted, c.Packets, c.Bytes = d.Info.HasCounters, d.Info.Packets, d.Info.Bytes
			if old, ok := before[d.Info.Key]; ok && s.Status&conntrack.StatusConfirmed != 0 {
				c.ConnMark, c.Labels = old.Mark, old.Labels
			}
		}
	}
	q := *p
	q.Frame = append(make([]byte, 0, len(p.Frame)+headroom), p.Frame...)
	steps, _ := rs.Explain(&q, &c)
	r.explained++
	tried := map[rules.RuleID]int{} // a chain may be called from several, in which the packet is not the same
	for _, s := range steps {
		tried[s.Rule]++
	}
	whole := true
	again := cameTwice(rs, moved)
	for i, s := range steps {
		if info, _ := rs.Rule(s.Rule); turns(info.Rule) && (s.Matched != moved[s.Rule] || tried[s.Rule] > 1 || again[info.Table+" "+info.Chain]) {
			steps, whole = steps[:i], false // what comes behind it depends on its turn
			break
		}
	}
	matched := map[rules.RuleID]bool{}
	for _, s := range steps {
		matched[s.Rule] = matched[s.Rule] || s.Matched
	}
	for _, s := range steps {
		info, _ := rs.Rule(s.Rule)
		if matched[s.Rule] != moved[s.Rule] && (whole || matched[s.Rule]) {
			return "explanation: " + rs.RuleName(s.Rule), nil
		}
		if j.cover != nil && !s.Matched {
			j.cover.note(info.Rule, p, false)
		}
	}
	return "", nil
}

// cameTwice returns the chains, as "table chain", that a packet may have been in more than once, by the rules that counted it.
func cameTwice(rs *rules.Ruleset, moved []bool) map[string]bool {
	again := map[string]bool{}
	for spread := true; spread; { // from chain to chain
		spread = false
		ways := map[string]int{}
		for id, info := range rs.Rules() {
			if v := info.Rule.Target.Verb; moved[id] && (v == rules.VerbJump || v == rules.VerbGoto) {
				to := info.Table + " " + info.Rule.Target.Chain
				if ways[to]++; (ways[to] > 1 || again[info.Table+" "+info.Chain]) && !again[to] {
					again[to], spread = true, true
				}
			}
		}
	}
	return again
}

// turns says that a rule asks something which Explain does not answer as the packet's turn was.
func turns(r *rules.Rule) bool {
	for _, m := range r.Matches {
		switch m.Name() {
		case "statistic", "limit", "hashlimit", "recent", "connlimit", "quota", "set":
			return true
		}
	}
	return false
}

// describeVerdict says what both sides made of a frame.
func describeVerdict(rs *rules.Ruleset, number int, p *packet.Packet, k *passage, d *decision, wrong []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  frame %d %v %s\n  %x\n", number, p.In, replay.Describe(p.Frame), p.Frame[:min(len(p.Frame), 160)])
	fmt.Fprintf(&b, "  kernel   %d out", len(k.out))
	for i := range k.sights {
		state, dir := k.sights[i].state()
		fmt.Fprintf(&b, ", %s dir %d status %#x", state, dir, k.sights[i].Status)
	}
	fmt.Fprintf(&b, "\n  corewire %d out, %v %v", len(d.out), d.Verdict, d.Reason)
	if d.Tracked || d.Early {
		fmt.Fprintf(&b, ", %v dir %d by %s", d.State, d.Dir, rs.RuleName(d.Rule))
	}
	b.WriteByte('\n')
	for _, w := range wrong {
		fmt.Fprintf(&b, "  %s\n", w)
	}
	for _, f := range k.out {
		fmt.Fprintf(&b, "  kernel's   %x\n", f[:min(len(f), 160)])
	}
	for _, f := range d.out {
		fmt.Fprintf(&b, "  corewire's %x\n", f[:min(len(f), 160)])
	}
	return b.String()
}
