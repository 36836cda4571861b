package config

import (
	"encoding/json"
	"maps"
	"time"

	"corewire/conntrack"
	"corewire/dataplane"
)

// Config is a complete, valid set of values. It is immutable.
type Config struct {
	Inside  string // interface of the protected side; "" where none was named
	Outside string // interface of the other side
	Workers int    // queue pairs; 0 = as many as the interfaces have queues
	CPUs    string // auto, none, or a list; see [Config.Pin]

	Sets   string // ipset save files, with commas; "" = none
	Rules  string // iptables-save file for both families; "" = none
	Rules4 string // iptables-save file for IPv4
	Rules6 string // ip6tables-save file for IPv6

	ReloadConnections string // keep or rejudge: what a reload of the rules does with connections
	RuleCounters      string // keep or file: whether counters that stand in rule files are taken

	RecentList  int // addresses of a list of -m recent
	RecentTimes int // times of each that it keeps at least; 0 = as the rules ask for

	XDPMode          string        // native or generic
	CopyMode         string        // auto, copy or zerocopy
	FailMode         string        // closed or open
	Driver           string        // auto, xsk or asavie
	ChunkSize        int           // bytes of a UMEM chunk; 0 = as the MTU needs
	Chunks           int           // chunks per worker
	RingSize         int           // descriptors of a ring
	TXBudget         int           // frames per send call
	HeartbeatTimeout time.Duration // silence after which a worker counts as dead
	Spin             time.Duration // how long an idle worker looks for frames before it sleeps
	Burst            int           // frames a worker takes from a port at once
	PinPath          string        // directory in a BPF file system; "" = package ring's
	StateFile        string        // record of changed interface settings; "" = package ring's

	ICMP dataplane.ICMPLimits // of REJECT's answers

	VLANTags int             // VLAN tags behind which IP is looked for
	NonIP    map[string]bool // by class (arp, lldp, stp, lacp, eapol, other): true = pass

	Fragments            int    // most fragments that wait in a worker; 0 = by its chunks
	FragmentsPerDatagram int    // most fragments of one datagram
	FragmentOrigin       string // one or any

	Max     int    // entries of connection tracking; 0 = from memory
	Zones   string // none or vlan
	Buckets int    // least buckets of connection tracking; 0 = it begins small

	ControlSocket string // path; "" = none
	MetricsAddr   string // address:port; "" = none
	MetricsRules  bool   // whether metrics have every rule's counters
	LogLevel      string // debug, info, warn or error
	LogFormat     string // text or json

	LogHistory      int    // entries of the packet log in memory
	LogRate         int    // lines of LOG rules a second in the process's log
	LogCapture      string // path of the packet log's captures; "" = none
	LogCaptureSize  int    // MiB of each
	LogCaptureFiles int    // how many

	tracking *conntrack.Settings // every nf_conntrack_* but the two above

	places map[string]Place // of every value that is not a default
	path   string           // the configuration file; "" = none
}

// Path returns the configuration file that was read, "" if none was.
func (c *Config) Path() string { return c.path }

// Place says where the value of a setting came from.
func (c *Config) Place(setting string) Place { return c.places[setting] }

// Value is one setting of a Config as listings show it.
type Value struct {
	Name   string `json:"name"`
	Value  string `json:"value"`  // canonical text
	Unit   string `json:"unit"`   // "" for none
	Source string `json:"source"` // default, file, environment, flag or request
	Place  string `json:"place"`  // file:line, variable or flag; "" for a default
	Apply  string `json:"apply"`  // live or restart
}

// Values lists all settings in the order of the table.
func (c *Config) Values() []Value {
	rows := Table()
	values := make([]Value, len(rows))
	for i := range rows {
		s := &rows[i]
		values[i] = Value{Name: s.Name, Value: s.get(c), Unit: s.Unit, Apply: s.When.String()}
		place := c.places[s.Name]
		values[i].Source = place.Kind.String()
		if place.Kind != Default {
			values[i].Place = place.String()
		}
	}
	return values
}

// MarshalJSON writes the settings as one object, name to canonical text.
func (c *Config) MarshalJSON() ([]byte, error) {
	m := map[string]string{}
	for _, v := range c.Values() {
		m[v.Name] = v.Value
	}
	return json.Marshal(m)
}

// clone copies the Config deep enough for its setters.
func (c *Config) clone() *Config {
	d := *c
	d.NonIP = maps.Clone(c.NonIP)
	d.places = maps.Clone(c.places)
	return &d
}

// defaults returns a Config in which every setting has its default.
func defaults() *Config {
	c := &Config{NonIP: map[string]bool{}, tracking: conntrack.DefaultSettings(), places: map[string]Place{}}
	for _, s := range Table() {
		canonical, n, ok := s.read(s.Default)
		if !ok {
			panic("config: default of " + s.Name + " is outside its own range")
		}
		s.set(c, canonical, n)
	}
	return c
}

// With returns a Config with some settings changed, names to texts. Either all are valid or none is taken: the error
// is a [Problems]. It does not ask whether a setting may change while the firewall runs; [Changes] does.
func (c *Config) With(changes map[string]string) (*Config, error) {
	d := c.clone()
	var problems Problems
	for name := range changes {
		if _, ok := find(name); !ok {
			problems = append(problems, unknown(name, Place{Kind: Request}))
		}
	}
	sortProblems(problems)
	rows := Table()
	for i := range rows {
		s := &rows[i]
		text, ok := changes[s.Name]
		if !ok {
			continue
		}
		place := Place{Kind: Request}
		if p := d.assign(s, text, place); p != nil {
			problems = append(problems, p)
		}
	}
	problems = append(problems, d.cross()...)
	if len(problems) > 0 {
		return nil, problems
	}
	return d, nil
}

// assign reads a text into a setting.
func (c *Config) assign(s *Setting, text string, place Place) *Problem {
	canonical, n, ok := s.read(text)
	if !ok {
		p := &Problem{Place: place, Setting: s.Name, Value: text, Expected: s.Expected()}
		if s.why != nil {
			p.Hint = s.why(text)
		}
		if s.Kind == Choice {
			if near, ok := nearest(text, s.Choices); ok {
				p.Hint = "did you mean " + near + "?"
			}
		}
		return p
	}
	s.set(c, canonical, n)
	c.places[s.Name] = place
	return nil
}

// Change is one setting that differs between two Configs.
type Change struct {
	Name string `json:"name"`
	From string `json:"from"`
	To   string `json:"to"`
}

// Changes lists the settings that differ. If one of them takes effect only with a restart, the error is a [Problems]
// that names every such setting, and the caller must leave all of them as they were.
func Changes(from, to *Config) ([]Change, error) {
	var changes []Change
	var problems Problems
	rows := Table()
	for i := range rows {
		s := &rows[i]
		a, b := s.get(from), s.get(to)
		if a == b {
			continue
		}
		changes = append(changes, Change{s.Name, a, b})
		if s.When == Restart {
			problems = append(problems, &Problem{Place: to.places[s.Name], Setting: s.Name, Value: b,
				Expected: "its running value " + quoteEmpty(a), Hint: "it changes with a restart only"})
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return changes, nil
}

func quoteEmpty(s string) string {
	if s == "" {
		return `""`
	}
	return s
}
