package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Kind says how a setting's text is read.
type Kind uint8

const (
	Text     Kind = iota // any text
	Number               // a decimal integer in [Min, Max]
	Switch               // 0 or 1; also false/true, no/yes, off/on
	Duration             // an integer in Unit, or a number with a unit that Go's time package knows ("1m30s"), in [Min, Max] of Unit
	Choice               // one of Choices
)

// String names the kind as the usage text of a flag does.
func (k Kind) String() string {
	return [...]string{"text", "number", "switch", "duration", "choice"}[k]
}

// When says when a changed setting takes effect.
type When uint8

const (
	Restart When = iota // with the next start
	Live                // at once, in the running firewall
)

// String returns "restart" or "live".
func (w When) String() string { return [...]string{"restart", "live"}[w] }

// Setting is a row of the table.
type Setting struct {
	Name    string   // the flag without dashes and the key in a file
	Group   string   // the heading that it is documented under
	Kind    Kind     // how Default and every other value is read
	Default string   // canonical text of the default
	Min     int64    // smallest Number or Duration, in Unit; inclusive
	Max     int64    // largest Number or Duration, in Unit; inclusive
	Unit    string   // unit of a Number or Duration; "" for a bare number
	Power   bool     // a Number that must be a power of two
	Choices []string // the values of a Choice
	Text    string   // what a Text is, for error messages and documentation
	When    When     // when a change takes effect
	Help    string   // one sentence without a full stop

	canon func(string) (string, bool) // checks a Text and makes it canonical; nil: any text is a value
	why   func(string) string         // says what is wrong with a Text that canon refuses; may be nil
	// separator stands between the elements where a file has a list; "" where it may have none.
	separator string

	get func(*Config) string         // canonical text
	set func(*Config, string, int64) // canonical text, and its number in Unit (Duration: in ns)
}

// Env returns the name of the setting's environment variable.
func (s *Setting) Env() string { return envName(s.Name) }

// envPrefix begins the name of every environment variable of ours.
const envPrefix = "COREWIRE_"

func envName(setting string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(setting, "-", "_"))
}

// Expected describes the values that the setting takes, as a phrase that follows "expected".
func (s *Setting) Expected() string {
	switch s.Kind {
	case Number:
		what := "an integer"
		if s.Power {
			what = "a power of two"
		}
		return what + " " + s.bounds()
	case Duration:
		return "an integer " + s.bounds() + ", or a time like 90s or 5m"
	case Switch:
		return "0 or 1"
	case Choice:
		if n := len(s.Choices); n > 1 {
			return strings.Join(s.Choices[:n-1], ", ") + " or " + s.Choices[n-1]
		}
		return strings.Join(s.Choices, "")
	}
	return s.Text
}

func (s *Setting) bounds() string {
	unit := ""
	if s.Unit != "" {
		unit = " " + s.Unit
	}
	if s.Max == math.MaxInt64 {
		return fmt.Sprintf("of at least %d%s", s.Min, unit)
	}
	return fmt.Sprintf("from %d to %d%s", s.Min, s.Max, unit)
}

// unit returns the length of the row's unit of time.
func (s *Setting) unit() time.Duration {
	switch s.Unit {
	case "µs":
		return time.Microsecond
	case "ms":
		return time.Millisecond
	}
	return time.Second
}

// maxText bounds a value's length in bytes: a path has at most 4,096 (PATH_MAX).
const maxText = 4096

// read checks a text against the row. It returns the canonical text, and the number of a Number, Switch (0 or 1) or
// Duration (ns). ok is false where the text is not a value of this row.
func (s *Setting) read(text string) (canonical string, number int64, ok bool) {
	text = strings.TrimSpace(text)
	if len(text) > maxText || strings.ContainsAny(text, "\x00\n\r") {
		return "", 0, false
	}
	switch s.Kind {
	case Number:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < s.Min || n > s.Max || s.Power && n&(n-1) != 0 {
			return "", 0, false
		}
		return strconv.FormatInt(n, 10), n, true
	case Switch:
		switch strings.ToLower(text) {
		case "1", "true", "yes", "on":
			return "1", 1, true
		case "0", "false", "no", "off":
			return "0", 0, true
		}
		return "", 0, false
	case Duration:
		unit := int64(s.unit())
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			d, derr := time.ParseDuration(text)
			if derr != nil || int64(d)%unit != 0 {
				return "", 0, false
			}
			n = int64(d) / unit
		}
		if n < s.Min || n > s.Max || n > math.MaxInt64/unit {
			return "", 0, false
		}
		return strconv.FormatInt(n, 10), n * unit, true
	case Choice:
		for _, c := range s.Choices {
			if strings.EqualFold(c, text) {
				return c, 0, true
			}
		}
		return "", 0, false
	}
	if s.canon != nil {
		canonical, ok = s.canon(text)
		return canonical, 0, ok
	}
	return text, 0, true
}
