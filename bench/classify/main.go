package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"corewire/bench/figure"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// Exit statuses, see doc.go.
const (
	exitMeasured = 0
	exitFailed   = 1
	exitUsage    = 2
)

// defaultSets are measured unless others are asked for.
var defaultSets = []string{
	"acl1_1k", "acl3_1k", "fw1_1k", "fw3_1k", "ipc1_1k", "flat_1000", "deep_1000",
	"acl1_10k", "acl3_10k", "fw1_10k", "fw3_10k", "ipc1_10k", "flat_10000", "deep_10000",
	"acl1_100k", "fw1_100k", "flat_100000", "deep_100000",
}

// options are the command line.
type options struct {
	sets       []string
	data, tool string
	rounds     int
	passes     int
	headers    int
	step       int
	pareto     float64
	alone      bool
	algs       []string
}

// run is the whole command; it returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	var o options
	f := pflag.NewFlagSet("classify", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringSliceVar(&o.sets, "sets", defaultSets, "rule sets: names of ClassBench files, flat_N and deep_N (N from 1 to 500000)")
	f.StringVar(&o.data, "data", "../shared/data/classbench", "directory of the ClassBench files (name.gz)")
	f.StringVar(&o.tool, "peer", "dpdk-test-acl", "DPDK's test program (Debian: dpdk-dev)")
	f.BoolVar(&o.alone, "alone", false, "measure corewire alone")
	f.StringSliceVar(&o.algs, "algorithms", nil, "the peer's algorithms (default: all that this processor has)")
	f.IntVar(&o.rounds, "rounds", 5, "rounds (1 to 100)")
	f.IntVar(&o.passes, "passes", 20, "passes over the headers in one measurement (1 to 10000)")
	f.IntVar(&o.headers, "headers", 65536, "headers of a set (64 to 1000000)")
	f.IntVar(&o.step, "step", 256, "headers that the peer classifies at once (1 to 256)")
	f.Float64Var(&o.pareto, "pareto", 0.1, "scale of the Pareto distribution (shape 1) of how often a header is repeated; 0: never")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return exitMeasured
		}
		fmt.Fprintln(stderr, "classify:", err)
		return exitUsage
	}
	in := func(v, lo, hi int) bool { return v >= lo && v <= hi }
	if f.NArg() > 0 || !in(o.rounds, 1, 100) || !in(o.passes, 1, 10000) || !in(o.headers, 64, 1_000_000) || !in(o.step, 1, 256) || !(o.pareto >= 0 && o.pareto < 1000) {
		fmt.Fprintln(stderr, "classify: an option out of range, or an argument too many (see --help)")
		return exitUsage
	}
	status, err := o.measure(stdout)
	if err != nil {
		fmt.Fprintln(stderr, "classify:", err)
		return exitFailed
	}
	return status
}

func (o *options) measure(w io.Writer) (int, error) {
	runtime.LockOSThread()
	tool := ""
	if !o.alone {
		var err error
		if tool, err = exec.LookPath(o.tool); err != nil {
			fmt.Fprintf(w, "%s is not here (Debian: dpdk-dev): corewire alone\n", o.tool)
		}
	}
	model, flags := processor()
	if len(o.algs) == 0 {
		o.algs = algorithms(flags)
	}
	fmt.Fprintf(w, "%s, %s; %d rounds of %d passes over %d headers, Pareto scale %g\n", model, runtime.Version(), o.rounds, o.passes, o.headers, o.pareto)
	fmt.Fprintf(w, "times are ns a lookup; ratios are the peer's time by ours, median [lowest–highest] of the rounds: above 1 we are faster\n")
	fmt.Fprintf(w, "ours is without copying headers from the trace into packets, measured by itself and taken off; with the copies is the whole\n")
	status := exitMeasured
	for _, name := range o.sets {
		same, err := o.set(w, name, tool)
		if errors.Is(err, os.ErrNotExist) {
			fmt.Fprintf(w, "\n%s: not here\n", name)
			continue
		}
		if err != nil {
			return exitFailed, fmt.Errorf("%s: %w", name, err)
		}
		if !same {
			status = exitFailed
		}
	}
	return status, nil
}

// load returns a rule set by name.
func (o *options) load(name string) ([]tuple, error) {
	for _, kind := range []string{"flat", "deep"} {
		if digits, ok := strings.CutPrefix(name, kind+"_"); ok {
			n, err := strconv.Atoi(digits)
			if err != nil || n < 1 || n > 500_000 {
				return nil, fmt.Errorf("a number of rules from 1 to 500000, found %s", digits)
			}
			return makeSet(kind, n), nil
		}
	}
	return readSet(o.data, name)
}

// set measures one rule set; false when the two sides name different rules.
func (o *options) set(w io.Writer, name, tool string) (bool, error) {
	set, err := o.load(name)
	if err != nil {
		return false, err
	}
	headers := trace(set, o.headers, o.pareto)
	our, err := newOwn(name, set, headers)
	if err != nil {
		return false, err
	}
	compile := []float64{milliseconds(our.compile)}
	size := our.rs.Size()
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	fmt.Fprintf(w, "\n%s: %d rules; %.3f MB, %.0f B a rule\n", name, len(set), float64(size)/1e6, float64(size)/float64(len(set)))

	work, n := our.work()
	each := func(v int) float64 { return float64(v) / float64(n) }
	fmt.Fprintf(w, "  a lookup: %.1f trees, %.2f nodes, %.2f entries, %.2f cache lines\n", each(work.Trees), each(work.Nodes), each(work.Entries), each(work.Lines))

	same := true
	var p *peer
	if tool != "" {
		dir, err := os.MkdirTemp("", "classify")
		if err != nil {
			return false, err
		}
		defer os.RemoveAll(dir)
		if p, err = newPeer(tool, dir, set, headers, o.step); err != nil {
			return false, err
		}
		r, err := p.run(o.algs[0], 1, true)
		if err != nil {
			fmt.Fprintf(w, "  the peer does not take it: %v\n", err)
			p = nil
		} else {
			bad, at := 0, 0
			for i, id := range our.answers() {
				if id != r.rules[i] {
					bad, at = bad+1, i
				}
			}
			if bad > 0 {
				same = false
				fmt.Fprintf(w, "  DIFFERENT RULES for %d headers, the last one %d: ours %d, the peer's %d\n", bad, at, our.answers()[at], r.rules[at])
			}
		}
	}
	ours, with := make([]float64, o.rounds), make([]float64, o.rounds)
	theirs := make(map[string][]float64)
	var memory, build []float64
	for round := range o.rounds {
		if with[round], ours[round], err = our.measure(o.passes); err != nil {
			return false, err
		}
		if p == nil {
			continue
		}
		for _, alg := range o.algs {
			r, err := p.run(alg, o.passes, false)
			if err != nil {
				return false, err
			}
			theirs[alg] = append(theirs[alg], r.ns)
			memory, build = append(memory, float64(r.bytes)), append(build, milliseconds(r.build))
		}
	}
	for range min(o.rounds, 3) - 1 {
		again, err := newOwn(name, set, headers[:burst])
		if err != nil {
			return false, err
		}
		compile = append(compile, milliseconds(again.compile))
		runtime.GC()
	}
	show := func(label string, s figure.Spread, form string) {
		if !strings.HasPrefix(label, ";") {
			label = fmt.Sprintf("  %-18s", label)
		}
		fmt.Fprintf(w, "%s "+form+" ["+form+"–"+form+"]", label, s.Median, s.Low, s.High)
	}
	show("ours", figure.NewSpread(ours), "%6.1f")
	show("; with the copies", figure.NewSpread(with), "%.1f")
	fmt.Fprintln(w)
	if p != nil {
		for _, alg := range o.algs {
			show("rte_acl "+alg, figure.NewSpread(theirs[alg]), "%6.1f")
			ratio := func(label string, ours []float64) {
				q := make([]float64, o.rounds)
				for i := range q {
					q[i] = theirs[alg][i] / ours[i]
				}
				show(label, figure.NewSpread(q), "%.2f")
				fmt.Fprintf(w, ", of the lowest %.2f", slices.Min(theirs[alg])/slices.Min(ours))
			}
			ratio("; ratio", ours)
			ratio("; with the copies", with)
			fmt.Fprintln(w)
		}
		m := figure.NewSpread(memory)
		fmt.Fprintf(w, "  rte_acl memory     %.2f MB, %.0f times ours\n", m.Median/1e6, m.Median/float64(size))
	}
	show("compiled in ms", figure.NewSpread(compile), "%.1f")
	fmt.Fprintf(w, " (and read in %.1f)", milliseconds(our.parse))
	if p != nil {
		show("; rte_acl", figure.NewSpread(build), "%.0f")
	}
	fmt.Fprintln(w)
	return same, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
