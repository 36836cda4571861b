package rules

// token is one word of a line.
type token struct {
	text   string
	col    int  // column of its first byte (the quote, when it is quoted), from 1
	quoted bool // it was, in part, inside double quotes: then it is never an option
}

// maxLine bounds a line of a rule file in bytes. iptables-restore cuts lines at 10 KiB; the longest that
// iptables-save writes is below that.
const maxLine = 64 << 10

// tokens splits a line as iptables-restore does (iptables/xshared.c): words are parted by spaces and tabs; a double
// quote opens a quoted part in which a backslash makes the next byte literal; the closing quote ends the word. bad is
// the column of a quote that is never closed, or 0. The result is appended to dst.
func tokens(dst []token, line string) (out []token, bad int) {
	i := 0
	for i < len(line) {
		if c := line[i]; c == ' ' || c == '\t' || c == '\r' {
			i++
			continue
		}
		start := i
		for i < len(line) && line[i] != ' ' && line[i] != '\t' && line[i] != '\r' && line[i] != '"' {
			i++
		}
		if i == len(line) || line[i] != '"' {
			dst = append(dst, token{text: line[start:i], col: start + 1})
			continue
		}
		// The common quoted word needs no copy: no text before the quote, no backslash inside.
		quote := i
		i++
		from := i
		for i < len(line) && line[i] != '"' && line[i] != '\\' {
			i++
		}
		if i < len(line) && line[i] == '"' && quote == start {
			dst = append(dst, token{text: line[from:i], col: start + 1, quoted: true})
			i++
			continue
		}
		buf := make([]byte, 0, len(line)-start)
		buf = append(buf, line[start:quote]...)
		buf = append(buf, line[from:i]...)
		closed := false
		for i < len(line) {
			c := line[i]
			i++
			if c == '"' {
				closed = true
				break
			}
			if c == '\\' && i < len(line) {
				c = line[i]
				i++
			}
			buf = append(buf, c)
		}
		if !closed {
			return dst, quote + 1
		}
		dst = append(dst, token{text: string(buf), col: start + 1, quoted: true})
	}
	return dst, 0
}

// appendQuoted appends s as iptables-save writes a string argument: bare when it holds only letters, digits and
// a few signs, otherwise in double quotes with quotes and backslashes escaped (libxtables, xtables_save_string).
func appendQuoted(b []byte, s string) []byte {
	bare := s != ""
	for i := 0; i < len(s) && bare; i++ {
		c := s[i]
		bare = c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '-'
	}
	if bare {
		return append(b, s...)
	}
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		if c := s[i]; c == '"' || c == '\\' || c == '\'' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}

func appendNot(b []byte, not bool) []byte {
	if not {
		b = append(b, " !"...)
	}
	return b
}
