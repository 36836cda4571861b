package rules

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// EditError is what is wrong with the rule of an Edit, shown in the words that were given.
type EditError struct {
	Errors *Errors

	edit Edit
	what string // "insert FORWARD 3"
	head int    // bytes before the rule's words in the line that columns count
}

// Unwrap lets errors.As find the single errors, whose columns are those of "-A CHAIN" and the words.
func (e *EditError) Unwrap() error { return e.Errors }

// Error tells of each mistake what the change was, what was expected, and where among the words:
//
//	insert FORWARD 3: expected a protocol's name or number up to 255, found "tpc" (did you mean tcp?)
//	  -p tpc --dport 22 -j DROP
//	     ^^^
func (e *EditError) Error() string {
	var b strings.Builder
	text := spell(e.edit.Rule)
	for i, x := range e.Errors.List {
		if i > 0 {
			b.WriteByte('\n')
		}
		if x.Pos.File != e.edit.Source || x.Pos.Line != e.edit.Line { // of another rule, which the change makes wrong
			b.WriteString(x.Error())
			continue
		}
		b.WriteString(e.what + ": " + x.message())
		at := x.Pos.Col - 1 - e.head
		if at < 0 || at > len(text) {
			continue
		}
		// A long rule is shown around the mistake.
		const around = 60
		from, to := 0, len(text)
		if at > around {
			from = wordBegin(text, at-around)
		}
		mark := at
		for mark < to && text[mark] != ' ' && mark-at < around {
			mark++
		}
		if to-at > around {
			to = max(mark, wordBegin(text, at+around))
		}
		cut, end := "", ""
		if from > 0 {
			cut = "… "
		}
		if to < len(text) {
			end = " …"
		}
		b.WriteString("\n  " + cut + strings.TrimRight(text[from:to], " ") + end + "\n  ")
		b.WriteString(strings.Repeat(" ", utf8.RuneCountInString(cut+text[from:at])))
		b.WriteString(strings.Repeat("^", max(1, utf8.RuneCountInString(text[at:mark]))))
	}
	return b.String()
}

// wordBegin returns where a word of the text begins, at i or before.
func wordBegin(text string, i int) int { return strings.LastIndexByte(text[:i], ' ') + 1 }

// head is what stands before the words in the line that is parsed.
func (e *Edit) head() string { return "-A " + e.Chain + " " }

// told makes an error one that tells of the change.
func (x *editor) told(err error) error {
	list, ok := err.(*Errors)
	if !ok {
		return fmt.Errorf("%s: %w", x.what(), err)
	}
	return &EditError{Errors: list, edit: x.Edit, what: x.what(), head: len(x.head())}
}

// spell writes words as a rule file does, in quotes where it must be.
func spell(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if w != "" && !strings.ContainsAny(w, " \t\"\\") {
			b.WriteString(w)
			continue
		}
		b.WriteByte('"')
		for _, c := range []byte(w) {
			if c == '"' || c == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		}
		b.WriteByte('"')
	}
	return b.String()
}
