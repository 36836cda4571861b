package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"corewire/internal/packet"
	"corewire/internal/replay"
	"corewire/rules"
	"corewire/rules/rulestest"
)

// framesPerSet is how many frames a generated rule set gets: enough for connections to come about, and so few that loading
// the rules takes about as long as they do.
const framesPerSet = 200

// framesApart is how many frames a rule set gets that wait for one another, and apart how long: some jiffies. Linux looks at
// most once a jiffy for connections that have gone, and in the first two not for all (nf_conncount.c).
const (
	framesApart = 100
	apart       = 14 * time.Millisecond
)

// ruleSummary counts what was compared of rule sets.
type ruleSummary struct {
	Seed        uint64         `json:"seed,omitempty"`
	Sets        int            `json:"sets"`
	Pairs       int            `json:"pairs"`
	Matched     int            `json:"matched"`   // pairs in which some rule counted
	Hits        int            `json:"hits"`      // rules that counted, over all pairs
	Rules       int            `json:"rules"`     // of all sets
	RulesHit    int            `json:"rules_hit"` // of these, such as counted at least once
	Explained   int            `json:"explained"` // pairs of which Explain was compared, too
	Skipped     map[string]int `json:"skipped,omitempty"`
	Left        map[string]int `json:"left_out,omitempty"` // lines and files that one side does not take, by reason
	Changed     int            `json:"changed"`            // frames that left other than they came
	Marks       int            `json:"marks"`              // connections with a mark at the end
	Odd         map[string]int `json:"known,omitempty"`    // frames that left not alike, by row of knownFrames
	Differences []string       `json:"differences,omitempty"`
	cover       *coverage
}

func newRuleSummary(seed uint64) *ruleSummary {
	return &ruleSummary{Seed: seed, Skipped: map[string]int{}, Left: map[string]int{}, Odd: map[string]int{}, cover: newCoverage()}
}

// add adds a trial's result.
func (s *ruleSummary) add(r *trialResult) {
	s.Sets++
	s.Pairs += r.pairs
	s.Matched += r.matched
	s.Hits += r.hits
	s.Rules += r.rules
	s.RulesHit += r.ruleHits
	s.Explained += r.explained
	s.Changed += r.changed
	s.Marks += r.marks
	for name, n := range r.odd {
		s.Odd[name] += n
	}
	for name, n := range r.skipped {
		s.Skipped[name] += n
	}
}

// print writes the summary for people.
func (s *ruleSummary) print(w io.Writer) {
	fmt.Fprintf(w, "%d pairs of %d rule sets and their frames; in %d of them %d rules counted, %d of %d rules at least once; explained %d; not comparable %v, known %v\n",
		s.Pairs, s.Sets, s.Matched, s.Hits, s.RulesHit, s.Rules, s.Explained, s.Skipped, s.Odd)
	s.cover.print(w)
	if len(s.Left) > 0 {
		fmt.Fprintf(w, "left out:\n%s", printLeft(s.Left))
	}
}

// generatedTrial makes a rule set and its frames. Even seeds are IPv4, odd ones IPv6.
func generatedTrial(seed uint64) *trial {
	t := &trial{name: fmt.Sprintf("seed-%d", seed), family: rules.IPv4}
	version := 4
	if seed%2 == 1 {
		t.family, version = rules.IPv6, 6
	}
	g := rulestest.New(seed, 20)
	g.Side, g.Now, g.Tag = rulestest.Kernel, time.Now().UTC(), runTag
	frames := framesPerSet
	if g.Limits = seed%48 < 2; g.Limits {
		frames = framesApart
	}
	t.text = g.RuleSet(version)
	f, err := rules.Parse(t.name, []byte(t.text), t.family)
	if err != nil {
		return t // run tells what is wrong with the text
	}
	t.frames = newShaper(rand.New(rand.NewPCG(seed, 21)), f, t.family, t.options()).stream(frames)
	if strings.Contains(t.text, "-m connlimit") {
		for i := range t.frames {
			t.frames[i].sleep = apart
		}
	}
	// What words of packets are asked is only known now.
	for strings.Contains(t.text, rulestest.U32Blank) {
		p := packet.Packet{Frame: t.frames[g.IntN(len(t.frames))].frame}
		if packet.Parse(&p); p.Class <= packet.ClassIPv6 && !p.Problem.Header() {
			t.text = strings.Replace(t.text, rulestest.U32Blank, g.U32(p.Frame[p.L3:p.End]), 1)
		}
	}
	return t
}

// generated compares generated rule sets until so many pairs are judged, or stop differences were found.
func (j *judges) generated(seed uint64, pairs, stop int) (*ruleSummary, error) {
	s := newRuleSummary(seed)
	j.cover = s.cover
	defer func() { j.cover = nil }()
	for i := uint64(0); s.Pairs < pairs; i++ {
		t := generatedTrial(seed<<20 + i)
		if err := j.judge(s, t); err != nil {
			return s, fmt.Errorf("%w\n%s", err, t.text)
		}
		if len(s.Differences) >= stop {
			break
		}
	}
	return s, nil
}

// judge runs a trial and adds it to a summary, with its difference cut down to what shows it.
func (j *judges) judge(s *ruleSummary, t *trial) error {
	r, err := j.run(t)
	if err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	s.add(&r)
	if r.difference == nil {
		return nil
	}
	cover := j.cover
	j.cover = nil
	defer func() { j.cover = cover }()
	small, err := j.shrink(t, r.difference)
	if err != nil {
		return err
	}
	if again, err := j.run(small); err == nil && again.difference != nil {
		t, r = small, again
	}
	s.Differences = append(s.Differences, t.describe(r.difference))
	return nil
}

// describe prints a trial with its difference.
func (t *trial) describe(d *verdictDifference) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%v, ports %q): %s\n%s", t.name, t.family, t.ports, d.What, d.Detail)
	if t.sets != "" {
		fmt.Fprintf(&b, "  sets:\n%s", t.sets)
	}
	fmt.Fprintf(&b, "  rules:\n%s", t.text)
	fmt.Fprintf(&b, "  frames:\n")
	for i, s := range t.frames[:d.Frame] {
		if i < d.Frame-10 {
			continue
		}
		p := packet.Packet{Frame: s.frame}
		packet.Parse(&p)
		fmt.Fprintf(&b, "  %d %v %s\n", i+1, s.in, replay.Describe(s.frame))
	}
	return b.String()
}

// runRulesets is the verb rulesets.
func runRulesets(args []string, stdout, stderr io.Writer) int {
	flags := pflag.NewFlagSet("oracle rulesets", pflag.ContinueOnError)
	flags.SetOutput(stderr)
	seed := flags.Uint64("seed", 1, "of the rule sets and the frames")
	pairs := flags.Int("pairs", 10_000, "pairs of a generated rule set and a frame")
	dir := flags.String("dumps", "", "instead of generated ones the rule files of this directory, which its INDEX.tsv names")
	stop := flags.Int("differences", 1, "end after that many differences")
	asJSON := flags.Bool("json", false, "print a JSON object instead of text")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return exitEqual
		}
		fmt.Fprintln(stderr, "oracle:", err)
		return exitUsage
	}
	fail := func(status int, err error) int {
		fmt.Fprintln(stderr, "oracle:", err)
		return status
	}
	if flags.NArg() > 0 || *pairs < 1 || *stop < 1 {
		return fail(exitUsage, errors.New("rulesets takes no arguments, and at least one pair and one difference (see --help)"))
	}
	var list []dump
	if *dir != "" {
		var err error
		if list, _, err = readDumps(*dir); err != nil {
			return fail(exitUsage, err)
		}
	}
	j, err := newJudges()
	if err != nil {
		return fail(exitFailed, err)
	}
	defer j.close()
	var s *ruleSummary
	if *dir != "" {
		s, err = j.dumps(list, *seed, *stop)
	} else {
		s, err = j.generated(*seed, *pairs, *stop)
	}
	if err != nil {
		return fail(exitFailed, err)
	}
	if *asJSON {
		err = json.NewEncoder(stdout).Encode(s)
	} else {
		for _, d := range s.Differences {
			fmt.Fprintln(stdout, d)
		}
		s.print(stdout)
	}
	if err != nil {
		return fail(exitFailed, err)
	}
	if len(s.Differences) > 0 {
		return exitDifferent
	}
	return exitEqual
}
