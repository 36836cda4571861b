package config

import (
	"corewire/dataplane"
	"corewire/internal/packet"
	"corewire/rules"
)

// Engine returns what the settings say about how frames are judged, with the rules that LoadRules has made of them, on a
// machine with the given bytes of memory. It is the one place where settings become an engine's: whoever judges frames,
// on a wire or out of a capture, adds nothing but where they come from, and when.
func (c *Config) Engine(rs *rules.Ruleset, memory uint64) dataplane.Config {
	e := dataplane.Config{Ruleset: rs, Max: c.Limit(memory), Buckets: c.Buckets, Settings: c.Tracking(), Burst: c.Burst, Spin: c.Spin}
	limits := c.ICMP
	e.ICMP = &limits
	if c.Zones == "vlan" {
		e.Zones = dataplane.ZoneVLAN
	}
	e.Fragments, e.DatagramFragments, e.AnyOrigin = c.Fragments, c.FragmentsPerDatagram, c.FragmentOrigin == "any"
	if e.Tags = dataplane.Tags(c.VLANTags); c.VLANTags == 0 {
		e.Tags = dataplane.NoTags
	}
	for class := range packet.Class(packet.Classes) {
		if pass, ok := c.NonIP[class.String()]; ok && !pass {
			e.Policy[class] = dataplane.Block
		}
	}
	return e
}

// Judges reports whether the setting is one of those that decide what becomes of a frame, wherever it comes from: rules,
// connection tracking, and frames that are not IP. The names of the interfaces, which rules may use, are not among them.
func (s *Setting) Judges() bool {
	switch s.Group {
	case groupRules, groupTracking, groupNonIP:
		return true
	}
	return false
}
