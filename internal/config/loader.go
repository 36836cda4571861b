package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// flagNote marks a pflag.Flag as made by AddFlags; its value is the setting's name.
const flagNote = "corewire_setting"

// AddFlags adds a flag for every setting whose row want admits, nil for all. Flags of connection tracking's settings
// are accepted but hidden from the usage text, which they would fill. The flags hold text; [Load] checks it.
func AddFlags(flags *pflag.FlagSet, want func(*Setting) bool) {
	rows := Table()
	for i := range rows {
		s := &rows[i]
		if want != nil && !want(s) {
			continue
		}
		help := strings.ReplaceAll(s.Help, "`", "") // pflag takes what stands in backquotes for the value's name
		switch {
		case s.Kind == Choice:
			help += ": " + strings.Join(s.Choices, ", ")
		case s.Unit != "":
			help += ", in " + s.Unit
		}
		flags.AddFlag(&pflag.Flag{Name: s.Name, Usage: help, DefValue: s.Default, Hidden: strings.HasPrefix(s.Name, "nf_conntrack_"),
			Value:       &flagValue{text: s.Default, kind: s.Kind.String()},
			Annotations: map[string][]string{flagNote: {s.Name}}})
	}
}

// flagValue is a setting's text on the command line.
type flagValue struct{ text, kind string }

func (v *flagValue) Set(s string) error { v.text = s; return nil }
func (v *flagValue) String() string     { return v.text }
func (v *flagValue) Type() string       { return v.kind }

// maxFile bounds a configuration file, in bytes: all rows with comments fit a few times over.
const maxFile = 1 << 20

// Load reads the settings: flags made by [AddFlags] (may be nil), environment, the file at path (none if ""; YAML
// for .yaml and .yml, TOML for .toml), defaults. The error is a [Problems], or one about the file itself.
// Warnings are sentences about things that were ignored.
func Load(path string, flags *pflag.FlagSet) (c *Config, warnings []string, err error) {
	v := viper.New()
	v.AllowEmptyEnv(true)
	var problems Problems
	var lines map[string]int
	written := map[string]bool{} // keys of the file, those without a value too, which viper counts as unset
	if path != "" {
		if lines, err = readFile(v, path); err != nil {
			return nil, nil, err
		}
		for _, key := range v.AllKeys() {
			written[key] = true
			if _, ok := find(key); !ok {
				problems = append(problems, unknown(key, Place{File, path, lines[key]}))
			}
		}
		sortProblems(problems)
	}
	flag := map[string]*pflag.Flag{}
	if flags != nil {
		flags.VisitAll(func(f *pflag.Flag) {
			if note := f.Annotations[flagNote]; len(note) == 1 {
				flag[note[0]] = f
			}
		})
	}

	c = defaults()
	c.path = path
	rows := Table()
	for i := range rows {
		s := &rows[i]
		if err := v.BindEnv(s.Name, s.Env()); err != nil {
			return nil, nil, fmt.Errorf("bind environment variable %s: %w", s.Env(), err)
		}
		place := Place{}
		if written[s.Name] {
			place = Place{File, path, lines[s.Name]}
		}
		if _, ok := os.LookupEnv(s.Env()); ok {
			place = Place{Kind: Environment, Name: s.Env()}
		}
		if f := flag[s.Name]; f != nil {
			if err := v.BindPFlag(s.Name, f); err != nil {
				return nil, nil, fmt.Errorf("bind flag --%s: %w", f.Name, err)
			}
			if f.Changed {
				place = Place{Kind: Flag, Name: "--" + f.Name}
			}
		}
		if place.Kind == Default {
			continue
		}
		found := v.Get(s.Name)
		if place.Kind == File && !v.InConfig(s.Name) {
			found = nil // a key without a value; viper would give the flag's default
		}
		value, ok := scalar(found)
		if list, is := found.([]any); is && s.separator != "" {
			value, ok = joined(list, s.separator)
		}
		if !ok {
			problems = append(problems, &Problem{Place: place, Setting: s.Name, Value: "a list or table", Expected: "one value: " + s.Expected()})
			continue
		}
		if p := c.assign(s, value, place); p != nil {
			problems = append(problems, p)
		}
	}
	problems = append(problems, c.cross()...)
	if len(problems) > 0 {
		return nil, nil, problems
	}
	return c, foreignEnv(), nil
}

// readFile gives the file to viper and returns the line of every key at its top level.
func readFile(v *viper.Viper, path string) (map[string]int, error) {
	format := strings.TrimPrefix(strings.ToLower(filepath.Ext(path)), ".")
	if !slices.Contains([]string{"yaml", "yml", "toml"}, format) {
		return nil, fmt.Errorf("read configuration %s: format %q is not known (name the file .yaml, .yml or .toml)", path, format)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("read configuration %s: file is larger than %d bytes", path, maxFile)
	}
	return readText(v, path, format, text)
}

// readText is readFile after the file system.
func readText(v *viper.Viper, path, format string, text []byte) (map[string]int, error) {
	v.SetConfigType(format)
	if err := v.ReadConfig(bytes.NewReader(text)); err != nil {
		if parse, ok := errors.AsType[viper.ConfigParseError](err); ok {
			err = parse.Unwrap()
		}
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return keyLines(text), nil
}

// keyLines finds the line, from 1, of each `key:` or `key =` that begins a line. Settings are flat, so that this is
// all there is to find; a key that it misses is reported without its line.
func keyLines(text []byte) map[string]int {
	lines := map[string]int{}
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		end := strings.IndexAny(line, ":=")
		if end < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		key := strings.ToLower(strings.Trim(strings.TrimSpace(line[:end]), `"'`))
		if lines[key] == 0 {
			lines[key] = n
		}
	}
	return lines
}

// scalar returns the text of a value as a file may hold it.
func scalar(value any) (string, bool) {
	switch x := value.(type) {
	case nil:
		return "", true
	case string:
		return x, true
	case bool:
		return strconv.FormatBool(x), true
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64), true
	case int, int64, uint64:
		return fmt.Sprint(x), true
	}
	return "", false
}

// joined returns the elements of a list in a file as one text.
func joined(list []any, separator string) (string, bool) {
	var words []string
	for _, x := range list {
		text, ok := scalar(x)
		if !ok {
			return "", false
		}
		words = append(words, text)
	}
	return strings.Join(words, separator), true
}

// cross checks what no single row can.
func (c *Config) cross() (problems Problems) {
	complain := func(setting, value, expected, hint string) {
		problems = append(problems, &Problem{Place: c.places[setting], Setting: setting, Value: value, Expected: expected, Hint: hint})
	}
	if c.Inside != "" && c.Inside == c.Outside {
		complain("outside", c.Outside, "another interface than inside", "the wire needs two different interfaces")
	}
	if cpus, ok := cpuList(c.CPUs); !ok {
		complain("cpus", c.CPUs, "auto, none, or processor numbers such as 2,3 or 2-5", "")
	} else if len(cpus) > 0 && len(cpus) < c.Workers {
		complain("cpus", c.CPUs, "one processor for each of the "+decimal(int64(c.Workers))+" workers", "")
	}
	if c.MetricsAddr != "" {
		if _, port, err := net.SplitHostPort(c.MetricsAddr); err != nil {
			complain("metrics-addr", c.MetricsAddr, "an address and port", "for example 127.0.0.1:9180 or [::1]:9180")
		} else if n, err := strconv.ParseUint(port, 10, 16); err != nil {
			complain("metrics-addr", c.MetricsAddr, "a port from 0 to 65535", "for example 127.0.0.1:9180")
		} else if n == 0 && port != "0" {
			complain("metrics-addr", c.MetricsAddr, "a port from 0 to 65535", "for example 127.0.0.1:9180")
		}
	}
	// sun_path has 108 bytes with its final zero (include/uapi/linux/un.h); the socket is first bound under a longer name.
	if most := 100; len(c.ControlSocket) > most {
		complain("control-socket", c.ControlSocket, "a path of at most "+decimal(int64(most))+" bytes", "the kernel's address of a unix socket holds no more")
	}
	return problems
}

// foreignEnv warns of environment variables that look like settings and are none. They are not errors: container
// managers make variables named after services.
func foreignEnv() (warnings []string) {
	known := map[string]bool{envPrefix + "CONFIG": true}
	var names []string
	for _, s := range Table() {
		known[s.Env()] = true
		names = append(names, s.Env())
	}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || known[name] {
			continue
		}
		hint := ""
		if near, ok := nearest(name, names); ok {
			hint = " (did you mean " + near + "?)"
		}
		warnings = append(warnings, "environment variable "+name+" is no setting and was ignored"+hint)
	}
	slices.Sort(warnings)
	return warnings
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
