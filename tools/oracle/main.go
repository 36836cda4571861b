package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"corewire/conntrack"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// Exit statuses, see doc.go.
const (
	exitEqual     = 0
	exitDifferent = 1
	exitUsage     = 2
	exitFailed    = 3
)

// defaultRules passes everything, so that every connection enters both tables.
const defaultRules = "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "rulesets" {
		return runRulesets(args[1:], stdout, stderr)
	}
	flags := pflag.NewFlagSet("oracle", pflag.ContinueOnError)
	flags.SetOutput(stderr)
	ruleName := flags.String("rules", "", "rules in iptables-save form; without, everything is accepted")
	sets := flags.StringArray("set", nil, "a setting for both sides, as nf_conntrack_tcp_loose=0; may be repeated")
	inside := flags.StringSlice("inside", nil, "networks of the inside; without, of two addresses the first seen as a source is inside")
	wait := flags.Duration("wait", 30*time.Second, "most time to wait in a stream for what cannot be made older")
	pauses := flags.Int("pauses", 0, "most pauses of a second or longer that pass in a stream, further ones are left out; 0: all")
	stop := flags.Int("differences", 1, "end a stream after that many differences; 0: never")
	generate := flags.String("generate", "", "instead of captures: a generated stream, one of "+strings.Join(generatorNames(), ", "))
	seed := flags.Uint64("seed", 1, "of the generated stream")
	frames := flags.Int("frames", 100_000, "length of the generated stream")
	asJSON := flags.Bool("json", false, "print one JSON object per stream instead of text")
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
	nets := make([]netip.Prefix, len(*inside))
	for i, s := range *inside {
		var err error
		if nets[i], err = netip.ParsePrefix(s); err != nil {
			return fail(exitUsage, err)
		}
	}
	if (flags.NArg() == 0) == (*generate == "") || *generate != "" && generators[*generate].frames == nil {
		return fail(exitUsage, errors.New("captures or the name of a generated stream are needed (see --help)"))
	}
	c := config{settings: conntrack.DefaultSettings(), wait: *wait, pauses: *pauses, stop: *stop}
	if g := generators[*generate]; g.settings != nil {
		var err error
		if c.settings, err = g.settings(c.settings); err != nil {
			return fail(exitFailed, err)
		}
	}
	for _, s := range *sets {
		name, value, _ := strings.Cut(s, "=")
		var err error
		if c.settings, err = c.settings.WithText(name, value); err != nil {
			return fail(exitUsage, err)
		}
	}
	src := []byte(defaultRules)
	if *ruleName != "" {
		var err error
		if src, err = os.ReadFile(*ruleName); err != nil {
			return fail(exitUsage, err)
		}
	}
	var err error
	if c.rules, err = newRuleFile(*ruleName, src); err != nil {
		return fail(exitUsage, err)
	}
	both := &comparison{config: c}
	defer both.close()
	status := exitEqual
	for _, name := range append(flags.Args(), *generate) {
		var s summary
		var err error
		switch {
		case name == "":
			continue
		case *generate != "":
			s, err = both.run(fmt.Sprintf("%s seed %d", name, *seed), generators[name].frames(*seed, *frames))
		default:
			s, err = both.capture(name, nets)
		}
		if err != nil {
			fmt.Fprintln(stderr, "oracle:", err)
			status = max(status, exitFailed)
			continue
		}
		if *asJSON {
			if err := json.NewEncoder(stdout).Encode(s); err != nil {
				return fail(exitFailed, err)
			}
		} else {
			s.print(stdout)
		}
		if len(s.Differences) > 0 {
			status = max(status, exitDifferent)
		}
	}
	return status
}

// capture compares one capture.
func (c *comparison) capture(name string, inside []netip.Prefix) (summary, error) {
	shots, err := readCapture(name, inside)
	if err != nil {
		return summary{}, err
	}
	return c.run(name, slices.Values(shots))
}

// print writes the summary for people.
func (s *summary) print(w io.Writer) {
	fmt.Fprintf(w, "%s: %d frames, %d of them tracked %v, %d connections at the end", s.Stream, s.Frames, s.Tracked, s.States, s.Entries)
	if len(s.Skipped) > 0 {
		fmt.Fprintf(w, ", not comparable %v", s.Skipped)
	}
	if len(s.Known) > 0 {
		fmt.Fprintf(w, ", known differences %v", s.Known)
	}
	if len(s.Differences) == 0 {
		fmt.Fprintln(w, ": equal")
		return
	}
	fmt.Fprintln(w, ": DIFFERENT")
	for _, d := range s.Differences {
		fmt.Fprintf(w, "%s\n%s", d.What, d.Detail)
	}
}
