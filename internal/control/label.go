package control

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"corewire/conntrack"
)

// labelFile has the names of connections' labels, where iptables and conntrack read them (connlabel.conf(5)): lines of a
// number and a name; what follows # is a comment.
const labelFile = "/etc/xtables/connlabel.conf"

// labels are the names of labels. One without a name has its number.
type labels struct{ names conntrack.LabelNames }

// loadLabels reads the file of names; where there is none labels have their numbers.
func loadLabels() *labels {
	l := new(labels)
	if f, err := os.Open(labelFile); err == nil {
		defer f.Close()
		l.read(bufio.NewScanner(f))
	}
	for n := range l.names {
		if l.names[n] == "" {
			l.names[n] = strconv.Itoa(n)
		}
	}
	return l
}

// read reads names. As iptables does it skips lines that it cannot read.
func (l *labels) read(lines *bufio.Scanner) {
	for lines.Scan() {
		text, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(text)
		if len(words) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(words[0], 0, 8); err == nil && n <= conntrack.MaxLabel && l.names[n] == "" {
			l.names[n] = words[1]
		}
	}
}

// parse reads a list of names and numbers.
func (l *labels) parse(list string) (set conntrack.Labels, err error) {
next:
	for word := range strings.SplitSeq(list, ",") {
		for n, name := range l.names {
			if name == word {
				set.Set(n)
				continue next
			}
		}
		n, err := strconv.ParseUint(word, 10, 8)
		if err != nil || n > conntrack.MaxLabel {
			return set, fmt.Errorf("unknown label %q (expected a name of %s, or a number from 0 to %d)", word, labelFile, conntrack.MaxLabel)
		}
		set.Set(int(n))
	}
	return set, nil
}
