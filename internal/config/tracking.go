package config

import "corewire/conntrack"

// Tracking returns connection tracking's settings as the trackers take them.
func (c *Config) Tracking() *conntrack.Settings { return c.tracking }

// trackingRows makes a row of each of conntrack's.
func trackingRows() []Setting {
	var rows []Setting
	for _, r := range conntrack.AllSettings() {
		s := Setting{Name: r.Name, Group: groupTracking, Default: decimal(int64(r.Default)), Min: int64(r.Min), Max: int64(r.Max), When: Live, Help: r.Help,
			get: func(c *Config) string { return decimal(int64(r.Get(c.tracking))) },
		}
		scale := int64(1)
		switch r.Unit {
		case conntrack.UnitSeconds:
			s.Kind, s.Unit = Duration, "s"
			scale = int64(s.unit())
		case conntrack.UnitSwitch:
			s.Kind = Switch
		case conntrack.UnitBytes:
			s.Kind, s.Unit = Number, "bytes"
		default:
			s.Kind = Number
		}
		s.set = func(c *Config, _ string, n int64) {
			changed, err := c.tracking.With(r.Name, uint32(n/scale))
			if err != nil { // the row's own range has been checked
				panic("config: " + err.Error())
			}
			c.tracking = changed
		}
		rows = append(rows, s)
	}
	return append(rows, helperRow(), timeoutsRow())
}

// timeoutsRow is the setting that defines the timeout policies of -j CT --timeout, in the words of `nfct add timeout`.
func timeoutsRow() Setting {
	return Setting{Name: "timeouts", Group: groupTracking, Kind: Text, Default: "",
		Text: `policies like "voip udp unreplied 10 replied 300; ssh tcp established 86400" (name, protocol, states with seconds), or a list of such in a file`,
		When: Live, Help: "timeout policies for the connections of rules with -j CT --timeout; what a policy does not say is as for all others", separator: "; ",
		canon: func(text string) (string, bool) {
			s, err := conntrack.DefaultSettings().WithTimeouts(text)
			if err != nil {
				return "", false
			}
			return s.Timeouts(), true
		},
		why: func(text string) string {
			if _, err := conntrack.DefaultSettings().WithTimeouts(text); err != nil {
				return err.Error()
			}
			return ""
		},
		get: func(c *Config) string { return c.tracking.Timeouts() },
		set: func(c *Config, text string, _ int64) {
			changed, err := c.tracking.WithTimeouts(text)
			if err != nil { // canon has checked it
				panic("config: " + err.Error())
			}
			c.tracking = changed
		},
	}
}

// helperRow is the setting that gives connections a helper by their port. Linux had nf_conntrack_helper as a switch, until
// 6.0; 0 and 1 mean what they meant there.
func helperRow() Setting {
	return Setting{Name: "nf_conntrack_helper", Group: groupTracking, Kind: Text, Default: "",
		Text: `helpers and ports like "ftp,ftp=2121,sip" (of ftp, tftp, irc, sip and pptp), 1 for all of them on their usual ports, or 0 for none`,
		When: Live, Help: "helpers that connections to a port get by themselves",
		canon: func(text string) (string, bool) {
			s, err := conntrack.DefaultSettings().WithHelpers(text)
			if err != nil {
				return "", false
			}
			return s.Helpers(), true
		},
		get: func(c *Config) string { return c.tracking.Helpers() },
		set: func(c *Config, text string, _ int64) {
			changed, err := c.tracking.WithHelpers(text)
			if err != nil { // canon has checked it
				panic("config: " + err.Error())
			}
			c.tracking = changed
		},
	}
}
