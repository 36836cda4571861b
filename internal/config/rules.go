package config

import (
	"errors"
	"fmt"
	"io"
	"os"

	"corewire/rules"
)

// maxRuleFile bounds a rule file, in bytes: rules.MaxRules lines of 500 bytes.
const maxRuleFile = 256 << 20

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
		text, err := readRules(source.path)
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

func readRules(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRuleFile+1))
	if err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	if len(text) > maxRuleFile {
		return nil, fmt.Errorf("read rules %s: file is larger than %d bytes", path, maxRuleFile)
	}
	return text, nil
}
