package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"corewire/conntrack"
	"corewire/internal/ipset"
	"corewire/internal/packet"
	"corewire/rules"
	"corewire/rules/rulestest"
)

// setTolerance is how far the seconds that ipset save prints may be apart.
const setTolerance = 2

// setKinds are the kinds of sets that the running kernel has, of those that can be generated.
func (j *judges) setKinds() (kinds []string, err error) {
	err = j.kernel.do(func() error {
		for _, kind := range rulestest.SetKinds() {
			create := "create probe " + kind
			switch {
			case kind == "bitmap:port":
				create += " range 0-9"
			case strings.HasPrefix(kind, "bitmap:"):
				create += " range 10.0.0.0/24"
			}
			if _, err := ipsetTool(create+"\ndestroy probe\n", "restore"); err == nil {
				kinds = append(kinds, kind)
			}
		}
		return nil
	})
	return kinds, err
}

// ipsetTool runs ipset in the calling thread's namespace.
func ipsetTool(in string, args ...string) (string, error) {
	cmd := exec.Command("ipset", args...)
	cmd.Stdin = strings.NewReader(in)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("ipset %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}

// loadSets gives the kernel the sets of a trial, in place of those of the one before. Called on the namespace's thread.
func (j *judges) loadSets(t *trial) error {
	if j.ipsets { // lists are flushed, so that they hold no other sets
		empty := &rules.File{}
		for command, family := range map[string]rules.Family{"iptables-legacy-restore": rules.IPv4, "ip6tables-legacy-restore": rules.IPv6} {
			if err := restore(command, kernelText(empty, family)); err != nil {
				return err
			}
		}
		if _, err := ipsetTool("flush\ndestroy\n", "restore"); err != nil {
			return err
		}
	}
	j.ipsets = t.sets != ""
	if !j.ipsets {
		return nil
	}
	_, err := ipsetTool(t.sets, "restore", "-exist")
	return err
}

// ownSets makes corewire's sets of a trial; nil if it has none.
func (t *trial) ownSets(now conntrack.Tick) (*ipset.Registry, error) {
	if t.sets == "" {
		return nil, nil
	}
	reg := ipset.New(ipset.Options{})
	return reg, reg.Restore(t.name, []byte(t.sets), true, ipset.Tick(now))
}

// differentSets compares what ipset save prints; "" if it is the same but for seconds, the order of elements, and what the
// kernel draws for its tables. apart is how long after the own sets the kernel's may have been made; saving takes time as well.
func (j *judges) differentSets(own *ipset.Registry, apart time.Duration) (string, error) {
	begin := time.Now()
	mine, err := own.AppendSave(nil, "", false, ipset.Tick(j.now()))
	if err != nil {
		return "", err
	}
	var kernel string
	err = j.kernel.do(func() (err error) { kernel, err = ipsetTool("", "save"); return err })
	if err != nil {
		return "", err
	}
	most := setTolerance + int((apart+time.Since(begin))/time.Second)
	k, c := savedSets(kernel), savedSets(string(mine))
	var wrong []string
	for _, line := range slices.Sorted(maps.Keys(k)) {
		left, ok := c[line]
		switch {
		case !ok:
			wrong = append(wrong, "only the kernel has:   "+line)
		case max(left-k[line], k[line]-left) > most:
			wrong = append(wrong, fmt.Sprintf("kernel %d s, corewire %d s: %s", k[line], left, line))
		}
	}
	for _, line := range slices.Sorted(maps.Keys(c)) {
		if _, ok := k[line]; !ok {
			wrong = append(wrong, "only corewire has:     "+line)
		}
	}
	return strings.Join(wrong, "\n  "), nil
}

var (
	setChance  = regexp.MustCompile(` (hashsize \d+|bucketsize \d+|initval 0x[0-9a-f]+)`)
	setSeconds = regexp.MustCompile(`^(add .*) timeout (\d+)`)
)

// savedSets returns the lines of ipset save, with their seconds. Members of a list keep their order: each line of one has
// its place.
func savedSets(text string) map[string]int {
	out, lists, place := map[string]int{}, map[string]bool{}, 0
	for line := range strings.Lines(text) {
		line = setChance.ReplaceAllString(strings.TrimSpace(line), "")
		left := 0
		if m := setSeconds.FindStringSubmatch(line); m != nil {
			left, _ = strconv.Atoi(m[2])
			line = m[1] + " timeout -" + line[len(m[0]):]
			if left == 0 {
				line += " for good"
			}
		}
		f := strings.Fields(line)
		if len(f) > 2 && f[0] == "create" && f[2] == "list:set" {
			lists[f[1]] = true
		}
		if len(f) > 1 && f[0] == "add" && lists[f[1]] {
			place++
			line = fmt.Sprintf("%s (member %d)", line, place)
		}
		out[line] = left
	}
	return out
}

// framesPerTrial is how many frames rules with sets get: making the sets takes the kernel as long as some hundred frames.
const framesPerTrial = 3 * framesPerSet

// setPause is how long a trial waits in its middle for brief elements to go.
const setPause = (rulestest.Brief + 1) * time.Second

// setTrial makes sets, rules that name them and frames with what they hold. With pause, brief elements go in the middle of
// it; else there are none. Even seeds are IPv4, odd ones IPv6.
func setTrial(seed uint64, kinds []string, pause bool) (*trial, error) {
	t := &trial{name: fmt.Sprintf("sets-%d", seed), family: rules.IPv4}
	version := 4
	if seed%2 == 1 {
		t.family, version = rules.IPv6, 6
	}
	g := rulestest.New(seed, 22)
	g.Side = rulestest.Kernel
	t.sets = g.MakeSets(version, kinds)
	t.text = g.RuleSet(version)
	if !pause {
		brief := regexp.MustCompile(fmt.Sprintf(`timeout %d\b`, rulestest.Brief)) // of sets, elements, and SET targets
		t.sets, t.text = brief.ReplaceAllString(t.sets, "timeout 300"), brief.ReplaceAllString(t.text, "timeout 300")
	}
	// The kernel's name for the interface of every packet on a bridge, where sets ask for it.
	if strings.Contains(t.sets, "iface") {
		t.bridge = bridgeName
	}
	f, err := rules.Parse(t.name, []byte(t.text), t.family)
	if err != nil {
		return nil, err
	}
	s := newShaper(rand.New(rand.NewPCG(seed, 23)), f, t.family, t.options())
	s.sets = map[string]*rulestest.Set{}
	for i := range g.Sets {
		s.sets[g.Sets[i].Name] = &g.Sets[i]
	}
	t.frames = s.stream(framesPerTrial)
	if pause {
		t.frames[len(t.frames)/2].sleep = setPause
	}
	return t, nil
}

// belong changes a shape so that a set has it, by the directions of a rule, or misses it by little.
func (s *shaper) belong(x *shape, name string, src []bool) {
	set := s.sets[name]
	for range 3 { // a list of sets
		if set == nil || len(set.Members) == 0 {
			return
		}
		if set.Kind != "list:set" {
			break
		}
		set = s.sets[set.Members[s.IntN(len(set.Members))]]
	}
	if set == nil || len(set.Members) == 0 {
		return
	}
	values := strings.Split(set.Members[s.IntN(len(set.Members))], ",")
	for i, part := range set.Parts {
		if i >= len(values) || i >= len(src) {
			return
		}
		addr, port := &x.dst, &x.dport
		if src[i] {
			addr, port = &x.src, &x.sport
		}
		switch part {
		case "ip", "net":
			p, err := netip.ParsePrefix(values[i])
			a := p.Addr()
			if err != nil {
				a = netip.MustParseAddr(values[i])
				p = netip.PrefixFrom(a, a.BitLen())
			}
			if a.Is4() != (s.version == 4) {
				continue
			}
			switch s.IntN(6) {
			case 0, 1: // the last address of a network, or the one behind it
				m := addrOf(p)
				a = s.inside(packet.AddrFrom(a), m, s.one(2))
			case 2:
				if b := a.Prev(); b.IsValid() {
					a = b
				}
			}
			*addr = a
			s.remember(a)
		case "port":
			proto, number, ok := strings.Cut(values[i], ":")
			if !ok {
				number, proto = proto, pick(s, "tcp", "udp", "sctp")
			}
			x.proto = map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132, "udplite": 136, "icmp": 1, "icmpv6": 1, "gre": 47, "esp": 50}[proto]
			if t, c, ok := strings.Cut(number, "/"); ok {
				a, _ := strconv.Atoi(t)
				b, _ := strconv.Atoi(c)
				x.typ, x.code = uint8(a), uint8(b)
				if s.one(4) {
					x.code++
				}
				continue
			}
			n, _ := strconv.Atoi(number)
			*port = uint16(n)
			if s.one(5) {
				*port += pick[uint16](s, 1, 65535)
			}
		case "mac":
			if src[i] {
				x.source[5] = values[i][len(values[i])-1] - '0'
			}
		}
	}
}

// addrOf returns a prefix's mask.
func addrOf(p netip.Prefix) packet.Addr {
	var m packet.Addr
	n := p.Bits()
	if p.Addr().Is4() {
		m.Hi, m.Lo = 0, uint64(uint32(0xffffffff<<(32-n)))
		return m
	}
	m.Hi, m.Lo = ^uint64(0)<<max(0, 64-n), ^uint64(0)<<min(64, 128-n)
	if n == 0 {
		m.Hi = 0
	}
	return m
}

// hurry is how soon after its sets were loaded a trial must have come to its pause, so that brief elements are still there, and
// after the pause to its end: what rules add then is brief, too.
const hurry = rulestest.Brief * time.Second * 3 / 4

// brief says that elements of the trial's sets go while it lasts: it has a pause.
func (t *trial) brief() bool {
	return t.sets != "" && slices.ContainsFunc(t.frames, func(s shot) bool { return s.sleep > 0 })
}

// errSlow says that the machine was too slow for a trial with brief elements.
var errSlow = errors.New("the frames before the pause, or behind it, took too long: brief elements may have gone")
