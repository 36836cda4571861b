package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"corewire/internal/config"
	"corewire/internal/control"
	"corewire/internal/ipset"
	"corewire/rules"
)

// finding is an error or a warning as check prints it.
type finding struct {
	Severity string `json:"severity"` // error or warning
	Kind     string `json:"kind"`     // setting, rule, set, file, ignored, sets, or a kind of rules.Finding, or unmatched
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Text     string `json:"text"`
	Hint     string `json:"hint,omitempty"`
}

// String returns the finding as a line.
func (f finding) String() string {
	s := f.Severity + ": "
	if f.File != "" {
		s += f.File
		if f.Line > 0 {
			s += ":" + strconv.Itoa(f.Line)
		}
		if f.Column > 0 {
			s += ":" + strconv.Itoa(f.Column)
		}
		s += ": "
	}
	s += f.Text
	if f.Hint != "" {
		s += " (" + f.Hint + ")"
	}
	return s
}

// anywhere is the finding without its place in the file.
func (f finding) anywhere() finding {
	f.Line, f.Column = 0, 0
	return f
}

// alsoIn names further lines of the same finding, the first few of them.
func alsoIn(lines []int) string {
	if len(lines) == 0 {
		return ""
	}
	const named = 4
	var b strings.Builder
	b.WriteString("; the same in line")
	if len(lines) > 1 {
		b.WriteByte('s')
	}
	b.WriteByte(' ')
	for i, line := range lines {
		switch {
		case i == named && len(lines) > named+1:
			fmt.Fprintf(&b, " and %d more", len(lines)-named)
			return b.String()
		case i == len(lines)-1 && i > 0:
			b.WriteString(" and ")
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(line))
	}
	return b.String()
}

// report is what check found.
type report struct {
	Rules    int       `json:"rules"`
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
	Findings []finding `json:"findings"`
}

func (r *report) add(f finding) {
	if f.Severity == "error" {
		r.Errors++
	} else {
		r.Warnings++
	}
	r.Findings = append(r.Findings, f)
}

// at adds a finding at a place of a rule file.
func (r *report) at(severity, kind string, pos rules.Pos, text, hint string) {
	r.add(finding{severity, kind, pos.File, pos.Line, pos.Col, text, hint})
}

// fail adds an error of settings or rule files, whatever it holds.
func (r *report) fail(err error) {
	var problems config.Problems
	switch {
	case errors.As(err, &problems):
		for _, p := range problems {
			r.add(finding{Severity: "error", Kind: "setting", Text: p.Error()})
		}
	default:
		found := false
		for _, e := range unjoin(err) {
			var list *rules.Errors
			if !errors.As(e, &list) {
				continue
			}
			found = true
			for _, x := range list.List {
				text := "expected " + x.Expected
				if x.Found != "" {
					text += fmt.Sprintf(", found %q", short(x.Found))
				}
				r.at("error", "rule", x.Pos, text, x.Hint)
			}
			if list.More > 0 {
				r.add(finding{Severity: "error", Kind: "rule", Text: number(list.More, "further error")})
				r.Errors += list.More - 1
			}
		}
		if found {
			return
		}
		var set *ipset.Error
		var path *fs.PathError
		switch {
		case errors.As(err, &set):
			r.add(finding{"error", "set", set.File, set.Line, set.Col, set.Text, set.Hint})
		case errors.As(err, &path):
			r.add(finding{Severity: "error", Kind: "file", File: path.Path, Text: path.Op + ": " + path.Err.Error()})
		default:
			r.add(finding{Severity: "error", Kind: "rule", Text: err.Error()})
		}
	}
}

// short cuts off what is too long to be read, as a line of a file that is no rule file.
func short(s string) string {
	const most = 60
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// unjoin returns the errors that one was joined of, itself for one that was not.
func unjoin(err error) []error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if _, ok := e.(*rules.Errors); ok {
			break // it wraps its own lines
		}
		if j, ok := e.(interface{ Unwrap() []error }); ok {
			return j.Unwrap()
		}
	}
	return []error{err}
}

func newCheck() *cobra.Command {
	var asJSON, live, strict bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check rules and configuration, without touching anything",
		Long: `Check rules and configuration, without touching anything: what cannot work (errors), what has
no effect on a wire, and what is legal and probably not meant (warnings), each with file,
line and column, and a hint.

Warnings are about
  ignored    tables, chains and options that mean nothing on a wire, unknown interfaces
  shadowed   rules that no packet reaches: earlier rules, one or several together, of one chain
             or of several, take all that they would match, or nothing that leads to their chain
             has any of it. Addresses, ports, protocol, state and interface are compared
             exactly, but for addresses and protocols behind a !, IPv4 masks that are no prefix,
             --ports, and very long lists of ports. Rules that ask one of these, or anything
             else, count as letting some packet pass.
  unsure     rules for which that was not found out, as too many others touch them
  duplicate  rules that stand in their chain already
  unused     user chains that no packet comes to
  never      rules that cannot match any packet, as --ctstate NEW with --state ESTABLISHED
  sets       IP sets of the files that no rule uses
  open       IP versions of which every packet is accepted
  unmatched  with --live: rules of the running firewall that have counted no packet since it
             started, or since their counters were set to zero

Files are those of --rules, --rules4, --rules6, or of the configuration (--config). With
--live the running firewall is asked as well, and need not have the same files.

Exit status: 0 without errors, 1 with --strict if there are warnings, 2 for a wrong command
line, 3 with errors, 4 if --live finds no firewall.

What is the same but for its line is printed once, with the other lines.

--json prints an object: rules, errors, warnings (numbers), and findings, an array of objects
with severity, kind, file, line, column, text and hint, each by itself.`,
		Example: `  corewire check --rules /etc/corewire/rules
  corewire check --config /etc/corewire/corewire.yaml --json
  corewire check --live`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			r := &report{Findings: []finding{}}
			at := beginProgress(cmd.ErrOrStderr(), "checking")
			defer at.end()
			if err := r.check(cmd, live, at); err != nil {
				return err
			}
			if live {
				at.say("asking the running firewall")
				if err := ask(func(cmd *cobra.Command, c *control.Client, _ []string) error { return r.unmatched(cmd, c) })(cmd, args); err != nil {
					return err
				}
			}
			at.end()
			if err := r.print(cmd.OutOrStdout(), asJSON); err != nil {
				return err
			}
			switch {
			case r.Errors > 0:
				return &refusedError{fmt.Errorf("check: %s, %s", number(r.Errors, "error"), number(r.Warnings, "warning"))}
			case strict && r.Warnings > 0:
				return fmt.Errorf("check: %s", number(r.Warnings, "warning"))
			}
			return nil
		},
	}
	config.AddFlags(cmd.Flags(), nil)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&live, "live", false, "ask the running firewall which rules never matched")
	cmd.Flags().BoolVar(&strict, "strict", false, "exit with status 1 if there are warnings")
	return cmd
}

// check looks at settings and rule files.
func (r *report) check(cmd *cobra.Command, live bool, at *progress) error {
	c, warnings, err := config.Load(configPath(cmd), cmd.Flags())
	if err != nil {
		r.fail(err)
		return nil
	}
	for _, w := range warnings {
		r.add(finding{Severity: "warning", Kind: "setting", Text: w})
	}
	at.say("reading sets")
	sets, err := c.LoadSets()
	if err != nil {
		r.fail(err)
		return nil
	}
	at.say("reading and compiling rules")
	rs, err := c.LoadRulesFor(sets)
	switch {
	case errors.Is(err, config.ErrNoRules):
		if !live && configPath(cmd) == "" {
			return &usageError{err}
		}
		return nil
	case err != nil:
		r.fail(err)
		return nil
	}
	r.Rules = rs.Len()
	for _, w := range rs.Warnings() {
		r.at("warning", "ignored", w.Pos, w.Text, "")
	}
	for _, f := range rs.Check(func(done, all int) { at.say(fmt.Sprintf("%d of %d rules", done, all)) }) {
		r.at("warning", string(f.Kind), f.Pos, f.Text, f.Hint)
	}
	used, _ := rs.Sets()
	for _, s := range sets.Unused(used) {
		r.add(finding{Severity: "warning", Kind: "sets", File: s.File, Line: s.Line, Text: "set " + s.Name + " is used by no rule"})
	}
	return nil
}

// unmatched adds the rules of the running firewall that have counted nothing.
func (r *report) unmatched(cmd *cobra.Command, c *control.Client) error {
	chains, err := c.Rules(cmd.Context(), 0)
	if err != nil {
		return err
	}
	if r.Rules == 0 { // without files
		for _, x := range chains {
			r.Rules += len(x.Rules)
		}
	}
	for _, x := range unmatched(chains) {
		for _, k := range x.Rules {
			f := finding{Severity: "warning", Kind: "unmatched", Text: fmt.Sprintf("rule %s %d in table %s of the running firewall never matched: %s", x.Chain, k.Number, x.Table, k.Save)}
			if i := strings.LastIndexByte(k.Place, ':'); i >= 0 {
				f.File = k.Place[:i]
				f.Line, _ = strconv.Atoi(k.Place[i+1:]) // 0: only the file is known
			}
			r.add(f)
		}
	}
	return nil
}

func (r *report) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, r)
	}
	again := map[finding][]int{} // by what is the same: the lines, in the order found
	for _, f := range r.Findings {
		if f.Line > 0 {
			again[f.anywhere()] = append(again[f.anywhere()], f.Line)
		}
	}
	for _, f := range r.Findings {
		also := ""
		if f.Line > 0 {
			lines := again[f.anywhere()]
			if lines == nil {
				continue // stands with the first
			}
			again[f.anywhere()] = nil
			also = alsoIn(lines[1:])
		}
		if _, err := fmt.Fprintln(w, f.String()+also); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s, %s, %s\n", number(r.Rules, "rule"), number(r.Errors, "error"), number(r.Warnings, "warning"))
	return err
}
