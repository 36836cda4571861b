package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// step is one thing that the demo shows.
type step struct {
	name  string
	vital bool // without it nothing after it can be shown
	run   func(ctx context.Context) (observation, error)
}

// observation is what a step saw.
type observation struct {
	seen  string   // one line
	lines []string // evidence, shown below it
}

// stepResult is a step in the JSON output.
type stepResult struct {
	Step         string   `json:"step"`
	OK           bool     `json:"ok"`
	Observed     string   `json:"observed,omitempty"`
	Lines        []string `json:"lines,omitempty"`
	Error        string   `json:"error,omitempty"`
	Milliseconds int64    `json:"ms"`
}

// report prints the steps as they happen, or all of them as one JSON object at the end.
type report struct {
	out      io.Writer
	json     bool
	colour   bool
	terminal bool
	started  time.Time
	finished bool // every step was tried
	closed   bool // the end was printed
	results  []stepResult
}

func newReport(out io.Writer, asJSON bool) *report {
	r := &report{out: out, json: asJSON, started: time.Now()}
	if f, ok := out.(*os.File); ok && !asJSON {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		r.terminal = err == nil
		r.colour = r.terminal && os.Getenv("NO_COLOR") == "" // https://no-color.org
	}
	return r
}

// Colours of a terminal (ECMA-48, select graphic rendition).
const (
	green = "32"
	red   = "31"
	faint = "2"
	bold  = "1"
)

func (r *report) paint(colour, text string) string {
	if !r.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// step runs a step, prints it and says whether it was observed.
func (r *report) step(ctx context.Context, s step) bool {
	if r.terminal {
		fmt.Fprintf(r.out, "%s %s …", r.paint(faint, "·"), s.name)
	}
	began := time.Now()
	o, err := s.run(ctx)
	result := stepResult{Step: s.name, OK: err == nil, Observed: o.seen, Lines: o.lines, Milliseconds: time.Since(began).Milliseconds()}
	if r.terminal {
		fmt.Fprint(r.out, "\r\x1b[K")
	}
	if err != nil {
		if ctx.Err() != nil {
			return false // interrupted, not failed
		}
		result.Error = err.Error()
	}
	r.results = append(r.results, result)
	if r.json {
		return result.OK
	}
	mark, text := r.paint(green, "✓"), o.seen
	if err != nil {
		mark, text = r.paint(red, "✗"), result.Error
	}
	fmt.Fprintf(r.out, "%s %s  %s  %s\n", mark, r.paint(bold, pad(s.name, nameWidth)), text, r.paint(faint, fmt.Sprintf("%d ms", result.Milliseconds)))
	for _, line := range o.lines {
		fmt.Fprintf(r.out, "    %s\n", r.paint(faint, line))
	}
	return result.OK
}

// nameWidth is the width of the column of steps: the longest name of steps.go.
const nameWidth = 38

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-len([]rune(s))))
}

// note prints lines that belong to no step.
func (r *report) note(lines ...string) {
	if !r.json {
		for _, line := range lines {
			fmt.Fprintf(r.out, "    %s\n", r.paint(faint, line))
		}
	}
}

// close prints the end of the report, once, and says whether every step was tried and observed.
func (r *report) close() bool {
	missed := 0
	for _, result := range r.results {
		if !result.OK {
			missed++
		}
	}
	ok := r.finished && missed == 0
	if r.closed {
		return ok
	}
	r.closed = true
	took := time.Since(r.started)
	if r.json {
		encoder := json.NewEncoder(r.out)
		encoder.SetIndent("", "  ")
		encoder.Encode(struct {
			OK           bool         `json:"ok"`
			Milliseconds int64        `json:"ms"`
			Steps        []stepResult `json:"steps"`
		}{ok, took.Milliseconds(), r.results})
		return ok
	}
	switch {
	case ok:
		fmt.Fprintf(r.out, "\n%s in %.1f s\n", r.paint(green, fmt.Sprintf("all %d steps observed", len(r.results))), took.Seconds())
	case missed > 0:
		fmt.Fprintf(r.out, "\n%s\n", r.paint(red, fmt.Sprintf("%d of %d steps were not observed", missed, len(r.results))))
	}
	return ok
}
