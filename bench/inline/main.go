package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"corewire/bench/figure"
	"corewire/tools/traffic"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 && os.Args[1] == forwardVerb {
		os.Exit(runForward(ctx, os.Args[2:]))
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Exit statuses, see doc.go.
const (
	exitMeasured    = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // 128 + SIGINT, as shells report it
)

// options are the command line.
type options struct {
	binary  string
	only    []string
	flows   []uint
	rules   []uint
	rounds  int
	proto   string
	traffic string
	search  bool
	json    bool
	fifo    bool
	load    load
}

// run is the whole command; it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	f := pflag.NewFlagSet("inline", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.binary, "corewire", "bin/corewire", "the corewire binary to measure")
	f.StringSliceVar(&o.only, "subjects", nil, "measure only these, in this order; the first one is the reference (default: all, corewire first)")
	f.UintSliceVar(&o.flows, "flows", []uint{65536}, "numbers of established flows, each measured by itself (1 to 200000)")
	f.UintSliceVar(&o.rules, "rules", []uint{0}, "rules that match no frame in front of those that do, each number measured by itself (0 to 100000); above 0 also for iptables-legacy, nft, and nft with a set")
	f.IntVar(&o.rounds, "rounds", 5, "rounds (1 to 100)")
	f.StringVar(&o.proto, "proto", "udp", "udp or tcp")
	f.StringVar(&o.traffic, "traffic", "established", "established, or new: every frame begins a connection")
	f.IntVar(&o.load.size, "size", 60, "frame size in bytes without FCS (60 to 1500)")
	f.DurationVar(&o.load.duration, "duration", time.Second, "length of one measurement (100ms to 1m)")
	f.Float64Var(&o.load.rate, "rate", 200_000, "frames a second at which processor time is measured; all subjects must be able to forward it")
	f.BoolVar(&o.search, "search", true, "search the loss-free rate")
	f.BoolVar(&o.fifo, "realtime", false, "keep other programs off the processors while measuring; they will notice")
	f.BoolVar(&o.json, "json", false, "print one JSON object with every measurement")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return exitMeasured
		}
		fmt.Fprintln(stderr, "inline:", err)
		return exitUsage
	}
	if err := o.check(f.NArg()); err != nil {
		fmt.Fprintln(stderr, "inline:", err)
		return exitUsage
	}
	if o.fifo {
		if err := realtime(); err != nil {
			fmt.Fprintln(stderr, "inline:", err)
			return exitFailed
		}
	}
	list, missing := subjects(o.binary, slices.Max(o.rules) > 0)
	list, err := choose(list, missing, o.only)
	if err != nil {
		fmt.Fprintln(stderr, "inline:", err)
		return exitFailed
	}
	out := &output{out: stdout, progress: stderr, json: o.json}
	out.head(list, missing)
	for _, d := range o.loads() {
		rounds, err := o.measure(ctx, list, d, out)
		if ctx.Err() != nil {
			fmt.Fprintln(stderr, "inline: interrupted; everything is cleaned up")
			return exitInterrupted
		}
		if err != nil {
			fmt.Fprintln(stderr, "inline:", err)
			return exitFailed
		}
		out.table(list, o, d, rounds)
	}
	out.close()
	return exitMeasured
}

// loads returns the loads to be measured one after the other.
func (o *options) loads() (all []load) {
	flows := o.flows
	if o.load.fresh { // their number does not matter: more than a run sends, so none comes twice
		flows = []uint{traffic.MaxFlows / 2}
	}
	for _, rules := range o.rules {
		for _, n := range flows {
			d := o.load
			d.flows, d.rules = uint32(n), int(rules)
			all = append(all, d)
		}
	}
	return all
}

// check reads what the flags say about the load.
func (o *options) check(arguments int) error {
	switch {
	case arguments > 0:
		return errors.New("no arguments are taken (see --help)")
	case o.rounds < 1 || o.rounds > 100:
		return fmt.Errorf("--rounds %d: must be 1 to 100", o.rounds)
	case o.load.size < 60 || o.load.size > 1500:
		return fmt.Errorf("--size %d: must be 60 to 1500", o.load.size)
	case o.load.duration < 100*time.Millisecond || o.load.duration > time.Minute:
		return fmt.Errorf("--duration %v: must be 100ms to 1m", o.load.duration)
	case o.load.rate < 1000:
		return fmt.Errorf("--rate %v: must be at least 1000", o.load.rate)
	case runtime.NumCPU() < 2:
		return errors.New("two processors are needed: one for the generator, one for what is measured")
	}
	for _, n := range o.flows {
		if n < 1 || n > freshFlows {
			return fmt.Errorf("--flows %d: must be 1 to %d", n, freshFlows)
		}
	}
	if len(o.rules) == 0 || len(o.flows) == 0 {
		return errors.New("--rules and --flows: at least one number each")
	}
	for _, n := range o.rules {
		if n > 100_000 {
			return fmt.Errorf("--rules %d: must be 0 to 100000", n)
		}
	}
	switch o.proto {
	case "udp":
		o.load.proto = traffic.UDP
	case "tcp":
		o.load.proto = traffic.TCP
	default:
		return fmt.Errorf("--proto %s: must be udp or tcp", o.proto)
	}
	switch o.traffic {
	case "established":
	case "new":
		o.load.fresh = true
	default:
		return fmt.Errorf("--traffic %s: must be established or new", o.traffic)
	}
	return nil
}

// choose returns the subjects asked for in the order asked for.
func choose(list []subject, missing, only []string) ([]subject, error) {
	if len(only) > 0 {
		var chosen []subject
		for _, name := range only {
			i := slices.IndexFunc(list, func(s subject) bool { return s.name == name })
			if i < 0 {
				return nil, fmt.Errorf("no subject %s here (%s)", name, strings.Join(missing, "; "))
			}
			chosen = append(chosen, list[i])
		}
		list = chosen
	}
	return list, nil
}

// measure goes through the rounds. The order of the subjects turns by one each round, so that none is always measured after
// the same other.
func (o *options) measure(ctx context.Context, list []subject, d load, out *output) ([]round, error) {
	var rounds []round
	for n := range o.rounds {
		r := round{Subjects: make(map[string]measurement)}
		out.say("%s, round %d of %d: generator alone", d.title(), n+1, o.rounds)
		var err error
		if r.AloneFull, r.AlonePaced, err = alone(ctx, d); err != nil {
			return nil, fmt.Errorf("measure the generator alone: %w", err)
		}
		for i := range list {
			s := list[(i+n)%len(list)]
			out.say("%s, round %d of %d: %s", d.title(), n+1, o.rounds, s.name)
			m, err := measure(ctx, s, d, o.search && !d.fresh)
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", s.name, err)
			}
			r.Subjects[s.name] = m
		}
		rounds = append(rounds, r)
	}
	out.say("")
	return rounds, nil
}

// title names a load.
func (d load) title() string {
	what := fmt.Sprintf("%d established flows", d.flows)
	if d.fresh {
		what = "new connections"
	}
	if d.rules > 0 {
		what += fmt.Sprintf(", %d rules more", d.rules)
	}
	return fmt.Sprintf("%v, %d bytes, %s", d.proto, d.size, what)
}

// output prints tables, or one JSON object at the end; progress goes to another writer.
type output struct {
	out, progress io.Writer
	json          bool
	document      struct {
		Machine  machine           `json:"machine"`
		Subjects map[string]string `json:"subjects"`
		Missing  []string          `json:"missing,omitempty"`
		Results  []result          `json:"results"`
	}
}

// machine says where the figures belong.
type machine struct {
	Kernel     string `json:"kernel"`
	Processor  string `json:"processor"`
	Processors int    `json:"processors"`
	Go         string `json:"go"`
}

// result is one load's.
type result struct {
	Load      string    `json:"load"`
	Flows     uint32    `json:"flows"`
	Rate      float64   `json:"paced_fps"`
	Reference string    `json:"reference"`
	Summary   []summary `json:"summary"`
	Rounds    []round   `json:"rounds"`
}

func (w *output) say(format string, args ...any) {
	if f, ok := w.progress.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			fmt.Fprintf(f, "\r\x1b[K"+format, args...)
			return
		}
	}
	if format != "" {
		fmt.Fprintf(w.progress, format+"\n", args...)
	}
}

func (w *output) head(list []subject, missing []string) {
	m := machine{Processors: runtime.NumCPU(), Go: runtime.Version(), Processor: processor()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	w.document.Machine, w.document.Missing = m, missing
	w.document.Subjects = make(map[string]string)
	for _, s := range list {
		w.document.Subjects[s.name] = s.detail
	}
	if w.json {
		return
	}
	fmt.Fprintf(w.out, "Linux %s, %s, %d processors, %s\n", m.Kernel, m.Processor, m.Processors, m.Go)
	for _, s := range list {
		fmt.Fprintf(w.out, "  %-16s %s\n", s.name, s.detail)
	}
	for _, reason := range missing {
		fmt.Fprintf(w.out, "  not measured: %s\n", reason)
	}
}

// processor returns the model name of the first processor.
func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

func (w *output) table(list []subject, o options, d load, rounds []round) {
	var names []string
	for _, s := range list {
		names = append(names, s.name)
	}
	summaries := summarise(names, names[0], rounds)
	w.document.Results = append(w.document.Results, result{Load: d.title(), Flows: d.flows, Rate: d.rate, Reference: names[0], Summary: summaries, Rounds: rounds})
	if w.json {
		return
	}
	fmt.Fprintf(w.out, "\n%s; median of %d rounds [lowest–highest]; × is the ratio to %s within a round\n\n", d.title(), len(rounds), names[0])
	mpps := func(s figure.Spread) string {
		return fmt.Sprintf("%.2f [%.2f–%.2f]", s.Median/1e6, s.Low/1e6, s.High/1e6)
	}
	ns := func(s figure.Spread) string { return fmt.Sprintf("%.0f [%.0f–%.0f]", s.Median, s.Low, s.High) }
	times := func(s figure.Spread) string { return fmt.Sprintf("%.2f [%.2f–%.2f]", s.Median, s.Low, s.High) }
	row := func(cells ...string) {
		fmt.Fprintf(w.out, "  %-16s", cells[0])
		for _, c := range cells[1:] {
			fmt.Fprintf(w.out, " %20s", c)
		}
		fmt.Fprintln(w.out)
	}
	if d.fresh {
		row("", "M connections/s", "×")
		for _, s := range summaries {
			row(s.Subject, mpps(s.Forwarded), times(s.ForwardedRatio))
		}
	} else {
		cells := func(s summary) []string { return []string{s.Subject, mpps(s.Forwarded), times(s.ForwardedRatio)} }
		head := []string{"", "forwarded Mpps", "×"}
		if o.search {
			head = append(head, "loss-free Mpps", "×")
			cells = func(s summary) []string {
				return []string{s.Subject, mpps(s.Forwarded), times(s.ForwardedRatio), mpps(s.LossFree), times(s.LossFreeRatio)}
			}
		}
		row(head...)
		for _, s := range summaries {
			row(cells(s)...)
		}
	}
	fmt.Fprintln(w.out, "\n  processor time per forwarded frame in ns, of the whole machine (/proc/stat) and of the tasks that take part")
	at := fmt.Sprintf(" at %.0f kpps", d.rate/1e3)
	row("", "machine"+at, "×", "tasks"+at, "×", "% lost")
	for _, s := range summaries {
		row(s.Subject, ns(s.Cost), times(s.CostRatio), ns(s.Tasks), times(s.TasksRatio), fmt.Sprintf("%.2f", 100*s.Loss.Median))
	}
	row("", "machine, full load", "×", "tasks, full load", "×")
	for _, s := range summaries {
		row(s.Subject, ns(s.CostFull), times(s.CostFullRatio), ns(s.TasksFull), times(s.TasksFullRatio))
	}
	var own []float64
	for i := range rounds {
		own = append(own, rounds[i].AlonePaced.Tasks*1e9/float64(max(1, rounds[i].AlonePaced.Made)))
	}
	if used := others(rounds); used > busyMachine {
		fmt.Fprintf(w.out, "\n  other programs used %.1f of %d processors meanwhile: the machine's times mean little, the rest not much more\n", used, runtime.NumCPU())
	}
	fmt.Fprintf(w.out, "\n  the generator's own share, subtracted: %s ns a frame at %.0f kpps (tasks)\n", ns(figure.NewSpread(own)), d.rate/1e3)
}

func (w *output) close() {
	if w.json {
		e := json.NewEncoder(w.out)
		e.SetIndent("", " ")
		e.Encode(w.document)
	}
}
