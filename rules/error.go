package rules

import (
	"fmt"
	"sort"
	"strings"

	"corewire/internal/spelling"
)

// Pos is a place in a rule file. Line and Col count from 1; Col counts bytes. The zero Pos means no place.
type Pos struct {
	File string
	Line int
	Col  int
}

// String returns "file:line:column".
func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col) }

// Error is one thing wrong in a rule file.
type Error struct {
	Pos      Pos
	Found    string // what stands there, as the file spells it; empty when something is missing
	Expected string // what would have been accepted there
	Hint     string // how to put it right; may be empty
}

// Error returns one line: place, what was expected, what was found, and the hint in brackets.
func (e *Error) Error() string {
	return e.Pos.String() + ": " + e.message()
}

// message is Error without the place.
func (e *Error) message() string {
	var b strings.Builder
	b.WriteString("expected ")
	b.WriteString(e.Expected)
	if e.Found != "" {
		fmt.Fprintf(&b, ", found %q", clip(e.Found))
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	return b.String()
}

// clip shortens s for a message: a file may hold a token of any length.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// maxErrors bounds how many errors of one file or one compilation are kept. A person mends a few at a time; a file
// of the wrong kind has one in every line.
const maxErrors = 100

// Errors is everything that is wrong in a file or a set of files, in the order of the lines.
type Errors struct {
	List []*Error
	More int // how many further errors were found and not kept
}

func (e *Errors) add(err *Error) {
	if len(e.List) >= maxErrors {
		e.More++
		return
	}
	e.List = append(e.List, err)
}

// Error returns all errors, one a line.
func (e *Errors) Error() string {
	var b strings.Builder
	for i, x := range e.List {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(x.Error())
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "\nand %d more errors", e.More)
	}
	return b.String()
}

// Unwrap lets errors.As find the single errors.
func (e *Errors) Unwrap() []error {
	out := make([]error, len(e.List))
	for i, x := range e.List {
		out[i] = x
	}
	return out
}

// orNil returns e as an error, nil when it is empty.
func (e *Errors) orNil() error {
	if len(e.List) == 0 {
		return nil
	}
	return e
}

// Warning is something in a rule file that has no effect on a transparent wire, with the reason.
type Warning struct {
	Pos  Pos
	Text string
}

// String returns "file:line:column: text".
func (w Warning) String() string { return w.Pos.String() + ": " + w.Text }

// nearest returns the word of list that is closest to s by edit distance, or "" when none is close enough to be meant.
func nearest(s string, list []string) string {
	if len(s) > 64 {
		return ""
	}
	best, word := len(s)/2+1, ""
	for _, w := range list {
		if d := spelling.Distance(s, w); d < best {
			best, word = d, w
		}
	}
	return word
}

// didYouMean returns a hint that names the nearest word, or "".
func didYouMean(s string, list []string) string {
	if w := nearest(s, list); w != "" {
		return "did you mean " + w + "?"
	}
	return ""
}

// nearestSorted is nearest for a list in no particular order: ties go to the first in the alphabet, so that a message
// is the same every time.
func nearestSorted(s string, list []string) string {
	sort.Strings(list)
	return nearest(s, list)
}
