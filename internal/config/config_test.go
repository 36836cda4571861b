package config

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with testdata/name, or writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not current (go test ./internal/config -update writes it)\ngot:\n%s", path, got)
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func flags(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	AddFlags(fs, nil)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

func TestRows(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Table() {
		if seen[s.Name] || seen[s.Env()] {
			t.Errorf("%s: name or variable %s is used twice", s.Name, s.Env())
		}
		seen[s.Name], seen[s.Env()] = true, true
		if s.Name != strings.ToLower(s.Name) {
			t.Errorf("%s: viper's keys are lower case", s.Name)
		}
		if strings.HasSuffix(s.Help, ".") || s.Help == "" {
			t.Errorf("%s: help is one sentence without a full stop, not %q", s.Name, s.Help)
		}
		canonical, n, ok := s.read(s.Default)
		if !ok || canonical != s.Default {
			t.Errorf("%s: default %q reads as %q, %v", s.Name, s.Default, canonical, ok)
		}
		c := defaults()
		s.set(c, canonical, n)
		if got := s.get(c); got != s.Default {
			t.Errorf("%s: %q was set and %q read back", s.Name, s.Default, got)
		}
		if (s.Kind == Number || s.Kind == Duration) && s.Min >= s.Max {
			t.Errorf("%s: no range", s.Name)
		}
		if s.Kind == Duration && s.Max > math.MaxInt64/int64(s.unit()) {
			t.Errorf("%s: the largest value overflows a time.Duration", s.Name)
		}
	}
}

// Each source overrides the one below it, and the listing says so.
func TestPrecedence(t *testing.T) {
	path := write(t, "c.yaml", "# wire\nworkers: 2\nburst: 32\nring-size: 512\n")
	t.Setenv("COREWIRE_BURST", "16")
	t.Setenv("COREWIRE_RING_SIZE", "256")
	c, warnings, err := Load(path, flags(t, "--ring-size=1024"))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	for _, want := range []struct{ name, value, place string }{
		{"fail-mode", "closed", "default"}, {"workers", "2", path + ":2"}, {"burst", "16", "COREWIRE_BURST"}, {"ring-size", "1024", "--ring-size"},
	} {
		found := false
		for _, v := range c.Values() {
			if v.Name != want.name {
				continue
			}
			found = true
			if v.Value != want.value {
				t.Errorf("%s is %s, want %s", want.name, v.Value, want.value)
			}
		}
		if !found {
			t.Errorf("%s is not listed", want.name)
		}
		if got := c.Place(want.name).String(); got != want.place {
			t.Errorf("%s comes from %s, want %s", want.name, got, want.place)
		}
	}
}

func TestFormats(t *testing.T) {
	for name, text := range map[string]string{
		"c.yaml": "inside: eth1\n\"outside\": eth2\nheartbeat-timeout: 2s\nnf_conntrack_tcp_loose: off\nnf_conntrack_udp_timeout: 45\nmetrics-addr: \"\"\nnon-ip-stp: drop\n",
		"c.toml": "inside = 'eth1'\noutside = \"eth2\"\nheartbeat-timeout = 2000\nnf_conntrack_tcp_loose = false\nnf_conntrack_udp_timeout = \"45s\"\nmetrics-addr = ''\nnon-ip-stp = 'drop'\n",
	} {
		c, _, err := Load(write(t, name, text), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		loose, _ := c.Tracking().Get("nf_conntrack_tcp_loose")
		udp, _ := c.Tracking().Get("nf_conntrack_udp_timeout")
		if c.Inside != "eth1" || c.Outside != "eth2" || c.HeartbeatTimeout != 2*time.Second || loose != 0 || udp != 45 || c.MetricsAddr != "" || c.NonIP["stp"] || !c.NonIP["arp"] {
			t.Errorf("%s: %+v loose=%d udp=%d", name, c, loose, udp)
		}
	}
}

// Every mistake is named with its place, what it was and what would be right; all of them at once.
func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("c.yaml", []byte(`inside: eth1
outside: eth1
wrokers: 2
workers: many
xdp-mode: nativ
chunk-size: 3000
ring-size: [1, 2]
burst:
heartbeat-timeout: 1500us
metrics-addr: "9180"
nf_conntrack:
  max: 5
nf_conntrack_udp_timeout: -1
nf_conntrack_tcp_timeout_established: 10d
`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("COREWIRE_FAIL_MODE", "ajar")
	_, _, err := Load("c.yaml", flags(t, "--tx-budget=9000", "--driver="))
	if _, ok := errors.AsType[Problems](err); !ok {
		t.Fatalf("not a Problems: %v", err)
	}
	golden(t, filepath.Join(testdata(t), "mistakes.golden"), err.Error()+"\n")
}

// testdata returns the absolute directory of the golden files; tests that change directory need it.
func testdata(t *testing.T) string {
	t.Helper()
	return start + "/testdata"
}

var start = func() string { d, _ := os.Getwd(); return d }()

func TestFileErrors(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"c.ini", "a=1", "is not known (name the file .yaml, .yml or .toml)"},
		{"c.yaml", "workers: 1\nworkers: 2\n", "already defined at line 1"},
		{"c.yaml", "- a\n- b\n", "cannot unmarshal"},
		{"c.toml", "workers = 1\nworkers = 2\n", "workers"},
		{"c.toml", "workers : 1\n", "expected"},
		{"c.yaml", strings.Repeat("# x\n", maxFile/4+1), "larger than"},
	} {
		if _, _, err := Load(write(t, tc.name, tc.text), nil); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %.20q: got %v, want …%s…", tc.name, tc.text, err, tc.want)
		}
	}
	if _, _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestForeignEnvironment(t *testing.T) {
	t.Setenv("COREWIRE_SERVICE_HOST", "10.0.0.1")
	t.Setenv("COREWIRE_WORKER", "3")
	t.Setenv("COREWIRE_CONFIG", "x.yaml") // read by the command
	_, warnings, err := Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 2 || !strings.Contains(warnings[1], "did you mean COREWIRE_WORKERS?") {
		t.Errorf("%q", warnings)
	}
}

// A change is all or nothing: one that is wrong or needs a restart leaves everything.
func TestChange(t *testing.T) {
	c := defaults()
	d, err := c.With(map[string]string{"nf_conntrack_udp_timeout": "1m", "log-level": "DEBUG"})
	if err != nil {
		t.Fatal(err)
	}
	changes, err := Changes(c, d)
	if err != nil {
		t.Fatal(err)
	}
	want := []Change{{"nf_conntrack_udp_timeout", "30", "60"}, {"log-level", "info", "debug"}}
	if len(changes) != 2 || changes[0] != want[0] || changes[1] != want[1] {
		t.Errorf("%v", changes)
	}
	if n, _ := c.Tracking().Get("nf_conntrack_udp_timeout"); n != 30 || c.LogLevel != "info" {
		t.Error("the old configuration was changed")
	}
	if _, err := c.With(map[string]string{"nf_conntrack_udp_timeout": "60", "log-levle": "debug", "burst": "0"}); err == nil {
		t.Error("taken")
	} else {
		golden(t, filepath.Join(testdata(t), "change.golden"), err.Error()+"\n")
	}
	d, err = c.With(map[string]string{"nf_conntrack_udp_timeout": "60", "workers": "3"})
	if err != nil {
		t.Fatal(err)
	}
	if changes, err := Changes(c, d); err == nil || changes != nil || !strings.Contains(err.Error(), "workers") || strings.Contains(err.Error(), "udp") {
		t.Errorf("%v, %v", changes, err)
	}
}

// The documentation is the rows'.
func TestMarkdown(t *testing.T) {
	golden(t, "testdata/settings.md", Markdown())
	const path = "../../README.md"
	readme, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(readme), MarkBegin+"\n")
	if !ok {
		return // it does not show the settings
	}
	_, after, ok := strings.Cut(rest, MarkEnd)
	if !ok {
		t.Fatalf("%s has %s without %s", path, MarkBegin, MarkEnd)
	}
	golden(t, path, before+MarkBegin+"\n"+Markdown()+MarkEnd+after)
}

func TestLimit(t *testing.T) {
	c := defaults()
	for _, step := range []struct {
		name, value string
		want        int
	}{{"nf_conntrack_max", "0", 262144}, {"nf_conntrack_buckets", "4096", 4096}, {"nf_conntrack_max", "5000000", 5000000}} {
		var err error
		if c, err = c.With(map[string]string{step.name: step.value}); err != nil {
			t.Fatal(err)
		}
		if got := c.Limit(8 << 30); got != step.want {
			t.Errorf("%s=%s: %d, want %d", step.name, step.value, got, step.want)
		}
	}
	if n, err := Memory(); err != nil || n < 64<<20 {
		t.Error(n, err)
	}
}

// No file makes the reader panic, and what it accepts is within the rows' ranges.
func FuzzLoad(f *testing.F) {
	f.Add("yaml", []byte("inside: eth1\nworkers: 2\n"))
	f.Add("yaml", []byte("a: &a [*a]\n? {x: y} : z\n"))
	f.Add("toml", []byte("inside = 'x'\n[a]\nb = 1979-05-27\n"))
	f.Fuzz(func(t *testing.T, format string, text []byte) {
		if format != "yaml" && format != "toml" || len(text) > 1<<14 {
			return
		}
		v := viper.New()
		if _, err := readText(v, "fuzz", format, text); err != nil {
			return
		}
		for _, s := range Table() {
			value, ok := scalar(v.Get(s.Name))
			if !ok {
				continue
			}
			c := defaults()
			if p := c.assign(&s, value, Place{File, "fuzz", 0}); p != nil {
				_ = p.Error()
				continue
			}
			if again := s.get(c); again != "" {
				if _, _, ok := s.read(again); !ok {
					t.Errorf("%s: %q was accepted as %q, which is none", s.Name, value, again)
				}
			}
		}
		for _, key := range v.AllKeys() {
			_ = unknown(key, Place{}).Error()
		}
	})
}

func TestCPUs(t *testing.T) {
	for text, want := range map[string]string{"auto": "[] true", "none": "[] true", "2": "[2] true", "2,4-6, 0": "[2 4 5 6 0] true", "": "[] false", "1,1": "[] false", "3-2": "[] false", "1-": "[] false", "2000": "[] false", "x": "[] false"} {
		cpus, ok := cpuList(text)
		if got := fmt.Sprint(cpus, ok); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	c, err := defaults().With(map[string]string{"cpus": "3,5"})
	if err != nil {
		t.Fatal(err)
	}
	if cpus, err := c.Pin(1); err != nil || len(cpus) != 1 || cpus[0] != 3 {
		t.Error(cpus, err)
	}
	if _, err := c.Pin(3); err == nil {
		t.Error("two processors for three workers")
	}
	if cpus, err := defaults().Pin(1 << 16); err != nil || cpus != nil {
		t.Error(cpus, err)
	}
}

// Every setting either changes the engine or the rules that it makes, or is known not to decide about frames: a new one
// that a replay would not follow fails here.
func TestEngineFollowsSettings(t *testing.T) {
	base, _, err := Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	// No replay follows these: they say where frames come from and how fast, and who may ask.
	elsewhere := map[string]string{
		"inside": "wire and rules", "outside": "wire and rules", "workers": "wire", "cpus": "speed", "fail-mode": "without a worker",
		"xdp-mode": "wire", "copy-mode": "wire", "driver": "wire", "chunk-size": "wire", "chunks": "wire", "ring-size": "wire", "tx-budget": "wire",
		"heartbeat-timeout": "without a worker", "burst": "speed", "spin": "speed", "pin-path": "wire", "state-file": "wire",
		"control-socket": "operation", "metrics-addr": "operation", "metrics-rules": "operation", "reload-connections": "operation", "rule-counters": "operation", "log-level": "operation", "log-format": "operation",
		"log-history": "operation", "log-rate": "operation", "log-capture": "operation", "log-capture-size": "operation", "log-capture-files": "operation",
		"sets": "LoadRules", "rules": "LoadRules", "rules4": "LoadRules", "rules6": "LoadRules", "ip_list_tot": "LoadRules", "ip_pkt_list_tot": "LoadRules",
	}
	text := map[string]string{"nf_conntrack_helper": "ftp=2121", "timeouts": "x udp unreplied 5"}
	for _, s := range Table() {
		if _, ok := elsewhere[s.Name]; ok {
			if s.Judges() && s.Group != groupRules {
				t.Errorf("%s: Judges, and is no part of the engine", s.Name)
			}
			continue
		}
		if !s.Judges() {
			t.Errorf("%s: part of the engine, or not? Judges says no", s.Name)
		}
		other := text[s.Name]
		switch {
		case other != "":
		case s.Kind == Choice:
			other = s.Choices[len(s.Choices)-1]
		case s.Kind == Switch && s.Default == "0":
			other = "1"
		case s.Kind == Switch:
			other = "0"
		default:
			other = decimal(max(s.Min, 1) + 1)
		}
		c, err := base.With(map[string]string{s.Name: other})
		if err != nil {
			t.Fatal(err)
		}
		if a, b := base.Engine(nil, 1<<33), c.Engine(nil, 1<<33); reflect.DeepEqual(a, b) {
			t.Errorf("%s=%s changes nothing of the engine", s.Name, other)
		}
	}
}
