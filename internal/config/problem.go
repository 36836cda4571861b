package config

import (
	"fmt"
	"strings"

	"corewire/internal/spelling"
)

// Place says where a value came from.
type Place struct {
	Kind Origin
	Name string // Flag: the flag with its dashes; Environment: the variable; File: the path
	Line int    // File: the line, from 1; 0 where it is not known
}

// Origin is the kind of a Place.
type Origin uint8

const (
	Default     Origin = iota // no one set it
	File                      // the configuration file
	Environment               // an environment variable
	Flag                      // the command line
	Request                   // a change while running
)

// String returns "default", "file", "environment", "flag" or "request".
func (o Origin) String() string {
	return [...]string{"default", "file", "environment", "flag", "request"}[o]
}

// String returns the place as error messages name it: "/etc/corewire.yaml:3", "COREWIRE_WORKERS", "--workers".
func (p Place) String() string {
	switch {
	case p.Kind == File && p.Line > 0:
		return fmt.Sprintf("%s:%d", p.Name, p.Line)
	case p.Name != "":
		return p.Name
	}
	return p.Kind.String()
}

// Problem is a mistake in one setting: where, which, what was found, what was expected, and a hint.
type Problem struct {
	Place    Place
	Setting  string // name as it was written
	Value    string // what was found; not shown when Unknown
	Expected string // what the setting takes
	Hint     string // may be ""
	Unknown  bool   // there is no such setting
}

// Error returns one line: place, setting, value, expectation, hint in parentheses.
func (p *Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: ", p.Place)
	switch {
	case p.Unknown:
		fmt.Fprintf(&b, "unknown setting %q", p.Setting)
		if p.Expected != "" {
			fmt.Fprintf(&b, ": expected %s", p.Expected)
		}
	case p.Value == "":
		fmt.Fprintf(&b, "setting %s has no value: expected %s", p.Setting, p.Expected)
	default:
		fmt.Fprintf(&b, "setting %s is %q: expected %s", p.Setting, shorten(p.Value), p.Expected)
	}
	if p.Hint != "" {
		fmt.Fprintf(&b, " (%s)", p.Hint)
	}
	return b.String()
}

// shorten keeps a value that is quoted in a message on one screen line.
func shorten(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// Problems are all mistakes that were found, in the order of the table, unknown settings first.
type Problems []*Problem

// Error returns one line for each.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].Error()
	}
	return strings.Join(lines, "\n")
}

// nearest returns the candidate with the smallest edit distance to name, if it is near enough to be what was meant.
func nearest(name string, candidates []string) (string, bool) {
	best, distance := "", len(name)/3+2 // one slip in three letters, and one more
	if len(name) > 64 {
		return "", false
	}
	for _, c := range candidates {
		if d := spelling.Distance(name, c); d < distance {
			best, distance = c, d
		}
	}
	return best, best != ""
}
