package main

import (
	"iter"
	"slices"

	"corewire/conntrack"
)

// generator is a kind of generated stream.
type generator struct {
	// frames generates n frames, always the same ones for a seed.
	frames func(seed uint64, n int) iter.Seq[shot]
	// settings are what the stream needs; nil: nothing in particular.
	settings func(*conntrack.Settings) (*conntrack.Settings, error)
}

// generators are the generated streams by name.
var generators = map[string]generator{
	"tcp":       {tcpStream, nil},
	"mix":       {mixStream, nil},
	"mutated":   {mutatedStream, nil},
	"fragments": {fragmentStream, nil},
	"sctp":      {sctpStream, nil},
	"timed":     {timedStream, timedSettings},
}

// generatorNames returns the names in order.
func generatorNames() []string {
	var names []string
	for n := range generators {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// timedSettings makes every timeout one, two or three seconds long.
func timedSettings(s *conntrack.Settings) (*conntrack.Settings, error) {
	n := uint32(0)
	for _, row := range conntrack.AllSettings() {
		if row.Unit != conntrack.UnitSeconds || row.Param != "" {
			continue
		}
		var err error
		if s, err = s.With(row.Name, 1+n%3); err != nil {
			return nil, err
		}
		n++
	}
	return s, nil
}
