package config

import (
	"strings"

	"corewire/internal/ipset"
	"corewire/rules"
)

// SetFiles returns the paths of the set files.
func (c *Config) SetFiles() []string {
	var out []string
	for _, p := range strings.Split(c.Sets, ",") {
		if p = strings.TrimSpace(p); p != "" {
			out = append(out, p)
		}
	}
	return out
}

// StageSets reads the set files that the settings name, for the registry, without changing it. Errors are *RulesError;
// those of the files' content wrap *ipset.Error, with file, line and column.
func (c *Config) StageSets(reg *ipset.Registry, now ipset.Tick) (*ipset.Stage, error) {
	var files []ipset.Source
	for _, path := range c.SetFiles() {
		text, err := readSource("sets", path)
		if err != nil {
			return nil, &RulesError{err}
		}
		files = append(files, ipset.Source{Name: path, Text: text})
	}
	st, err := reg.Stage(files, now)
	if err != nil {
		return nil, &RulesError{err}
	}
	return st, nil
}

// LoadSets makes a registry with the sets of the files.
func (c *Config) LoadSets() (*ipset.Registry, error) {
	reg := ipset.New(ipset.Options{})
	st, err := c.StageSets(reg, 0)
	if err != nil {
		return nil, err
	}
	st.Commit(0)
	return reg, nil
}

// LoadRules is LoadRulesFor with the sets of the files.
func (c *Config) LoadRules() (*rules.Ruleset, error) {
	sets, err := c.LoadSets()
	if err != nil {
		return nil, err
	}
	return c.LoadRulesFor(sets)
}
