package config

import (
	"errors"

	"corewire/rules"
)

// ErrNoRules says that no rule file was named.
var ErrNoRules = errors.New("no rule file is named (give one with --rules, or --rules4 and --rules6)")

// RulesError is an error about rule files: one cannot be read, or its content is refused.
type RulesError struct{ Err error }

// Error returns the error's text, a line for each mistake.
func (e *RulesError) Error() string { return e.Err.Error() }

// Unwrap returns the error.
func (e *RulesError) Unwrap() error { return e.Err }

// LoadRulesFor reads and compiles the rule files that the settings name, with -i and -o taking the two interfaces' names
// as well. Errors are *RulesError; those of the files' content wrap *rules.Errors, with file, line and column of every
// one. Without any file the error is ErrNoRules.
func (c *Config) LoadRulesFor(sets rules.Sets) (*rules.Ruleset, error) {
	rs, err := c.compile(sets)
	if err != nil && !errors.Is(err, ErrNoRules) {
		return nil, &RulesError{err}
	}
	return rs, err
}

func (c *Config) compile(sets rules.Sets) (*rules.Ruleset, error) {
	var files []*rules.File
	var found []error
	for _, source := range [...]struct {
		path   string
		family rules.Family
	}{{c.Rules, rules.Both}, {c.Rules4, rules.IPv4}, {c.Rules6, rules.IPv6}} {
		if source.path == "" {
			continue
		}
		text, err := readSource("rules", source.path)
		if err != nil {
			return nil, err
		}
		f, err := rules.Parse(source.path, text, source.family)
		if err != nil {
			found = append(found, err)
			continue
		}
		files = append(files, f)
	}
	if len(found) > 0 {
		return nil, errors.Join(found...)
	}
	if len(files) == 0 {
		return nil, ErrNoRules
	}
	o := c.RuleOptions()
	o.Sets = sets
	return rules.Compile(files, o)
}

// RuleOptions returns what rule sets are compiled for: also a change of the running one.
func (c *Config) RuleOptions() rules.Options {
	return rules.Options{
		InsideName: c.Inside, OutsideName: c.Outside, Clock: true, Rejects: true, Logs: true, Timeouts: c.tracking.TimeoutPolicies(),
		Wall: true, Clamps: true, Counts: c.tracking.Counts(),
		RecentList: uint32(c.RecentList), RecentTimes: uint32(c.RecentTimes),
		Connections: c.Limit(8 << 30), // without a maximum in the settings that of any machine with more than 4 GiB
	}
}
