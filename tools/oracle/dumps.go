package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"corewire/internal/packet"
	"corewire/rules"
)

// dump is a rule file from the field, in iptables-save form.
type dump struct {
	name   string
	family rules.Family
	text   string
}

// readDumps reads the rule files of a directory that has an INDEX.tsv: file, kind, family. Files of other kinds are counted.
func readDumps(dir string) (list []dump, others int, err error) {
	index, err := os.ReadFile(filepath.Join(dir, "INDEX.tsv"))
	if err != nil {
		return nil, 0, err
	}
	for line := range strings.Lines(string(index)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) < 3 || f[0] == "file" {
			continue
		}
		if f[1] != "save" {
			others++
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, f[0]))
		if err != nil {
			return list, others, err
		}
		// Some were made anonymous: this address is one that frames have.
		d := dump{f[0], rules.IPv4, strings.ReplaceAll(string(b), "XX:XX:XX:XX:XX:XX", "02:00:00:00:00:01")}
		if f[2] == "6" {
			d.family = rules.IPv6
		}
		list = append(list, d)
	}
	return list, others, nil
}

// asForward returns a dump in which the rules of another base chain of the table filter stand in FORWARD, in place of what is
// there. Most rules in the field are those of hosts. It returns false if the chain has no rules.
func (d dump) asForward(chain string) (dump, bool) {
	var out []string
	table, found := "", false
	for line := range strings.Lines(d.text) {
		w := words(strings.TrimSpace(line))
		if len(w) > 0 && strings.HasPrefix(w[0], "*") {
			table = w[0]
		}
		if table != "*filter" {
			if chain == "FORWARD" {
				out = append(out, line)
			} else {
				out = append(out, "\n") // lines keep their numbers
			}
			continue
		}
		at := 0
		if len(w) > 0 && strings.HasPrefix(w[0], "[") {
			at = 1
		}
		switch {
		case len(w) == 0:
		case strings.HasPrefix(w[0], ":"):
			if name := w[0][1:]; name == chain {
				line = strings.Replace(line, chain, "FORWARD", 1)
			} else if slices.Contains(hookNames[:], name) {
				line = "\n"
			}
		case len(w) > at+1 && (w[at] == "-A" || w[at] == "-I"):
			if w[at+1] == chain {
				line = strings.Replace(line, chain, "FORWARD", 1)
				found = true
			} else if slices.Contains(hookNames[:], w[at+1]) {
				line = "\n"
			}
		}
		out = append(out, line)
	}
	return dump{d.name + " " + chain, d.family, strings.Join(out, "")}, found
}

// interfaces returns the two names that a dump's rules ask for most.
func (d dump) interfaces() (ports [packet.Ports]string) {
	count := map[string]int{}
	list := words(strings.ReplaceAll(d.text, "\n", " "))
	for i, w := range list[:max(0, len(list)-1)] {
		if w == "-i" || w == "-o" {
			name := list[i+1]
			if strings.HasSuffix(name, "+") {
				name = strings.TrimSuffix(name, "+") + "0"
			}
			if name != "lo" && len(name) < 16 && name != "0" {
				count[name]++
			}
		}
	}
	names := slices.SortedFunc(maps.Keys(count), func(a, b string) int { return cmp.Or(count[b]-count[a], strings.Compare(a, b)) })
	copy(ports[:], names)
	return ports
}

// framesPerDump is how many frames a dump gets.
const framesPerDump = 100

// restoreLine finds the line in a message of iptables-restore.
var restoreLine = regexp.MustCompile(`(?:line:? |line )(\d+)`)

// dumps compares every dump in three ways: as it is, and with the rules of INPUT and of OUTPUT as FORWARD. Lines that one side
// does not take are left out, and counted by reason.
func (j *judges) dumps(list []dump, seed uint64, stop int) (*ruleSummary, error) {
	s := newRuleSummary(seed)
	j.cover = s.cover
	defer func() { j.cover = nil }()
	left := s.Left
	for i, d := range list {
		for k, chain := range []string{"FORWARD", "INPUT", "OUTPUT"} {
			x, ok := d.asForward(chain)
			if !ok {
				continue
			}
			t := &trial{name: x.name, text: x.text, family: x.family, ports: x.interfaces()}
			for f := takeable(t, left); f != nil; f = takeable(t, left) {
				t.frames = newShaper(rand.New(rand.NewPCG(seed, uint64(3*i+k))), f, t.family, t.options()).stream(framesPerDump)
				err := j.judge(s, t)
				if err == nil {
					break
				}
				m := restoreLine.FindStringSubmatch(err.Error())
				if m == nil || !t.dropLine(kernelLine(t, f, m[1])) {
					return s, err
				}
				left["kernel: "+strings.TrimSpace(err.Error())]++
			}
			if len(s.Differences) >= stop {
				return s, nil
			}
		}
	}
	return s, nil
}

// dropLine makes a line of a trial's text empty. It returns false if it was already, or there is none.
func (t *trial) dropLine(line int) bool {
	lines := strings.SplitAfter(t.text, "\n")
	if line < 1 || line > len(lines) || lines[line-1] == "\n" {
		return false
	}
	lines[line-1] = "\n"
	t.text = strings.Join(lines, "")
	return true
}

// takeable leaves out of a trial's text the lines that corewire does not take, and such as only two equal clocks would answer
// alike, and returns the file; nil if it cannot be read even so.
func takeable(t *trial, left map[string]int) *rules.File {
	for {
		f, err := rules.Parse(t.name, []byte(t.text), t.family)
		if err == nil {
			_, err = rules.Compile([]*rules.File{f}, t.options())
		}
		some := false
		drop := func(line int, why string) {
			if t.dropLine(line) {
				left[why]++
				some = true
			}
		}
		if err != nil {
			if errs, ok := errors.AsType[*rules.Errors](err); ok {
				for _, e := range errs.List {
					drop(e.Pos.Line, "corewire: "+e.Found+": "+e.Expected)
				}
			}
			if !some {
				left["corewire: "+err.Error()]++
				return nil
			}
			continue
		}
		for _, table := range f.Tables {
			for _, c := range table.Chains {
				for _, r := range c.Rules {
					switch {
					case hasty(r):
						drop(r.Pos.Line, "a rate whose next token comes within seconds: two clocks decide")
					case slices.ContainsFunc(r.Matches, sockets):
						drop(r.Pos.Line, "a match of sockets, which the kernel does not take in FORWARD")
					}
				}
			}
		}
		if !some {
			return f
		}
	}
}

// kernelLine returns the line of the file from which a line for the kernel was made; 0 if there is none.
func kernelLine(t *trial, f *rules.File, number string) int {
	n, _ := strconv.Atoi(number)
	text := strings.Split(string(kernelText(f, t.family)), "\n")
	if n < 1 || n > len(text) {
		return 0
	}
	for _, table := range f.Tables {
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				if string(appendKernelRule(nil, r.Text, c.Name)) == text[n-1] {
					return r.Pos.Line
				}
			}
		}
	}
	return 0
}

// sockets says that a match asks for the socket of a packet: INPUT and OUTPUT may, and are FORWARD here
// (the hooks of net/netfilter/xt_owner.c, xt_socket.c and xt_cgroup.c).
func sockets(m rules.Match) bool {
	return m.Name() == "owner" || m.Name() == "socket" || m.Name() == "cgroup"
}

// hasty says that a rule has a rate of more than one token in ten seconds: what it says then depends on the two sides' clocks.
func hasty(r *rules.Rule) bool {
	for _, m := range r.Matches {
		switch m := m.(type) {
		case *rules.LimitMatch:
			if m.Period < 10*10_000 { // ten-thousandths of a second
				return true
			}
		default:
			if name := m.Name(); name == "hashlimit" || name == "time" || name == "recent" || name == "statistic" && strings.Contains(r.Text, "random") {
				return true
			}
		}
	}
	return false
}

// printLeft writes what was left out, the most frequent reason first.
func printLeft(left map[string]int) string {
	var b strings.Builder
	for _, why := range slices.SortedFunc(maps.Keys(left), func(a, b string) int { return cmp.Or(left[b]-left[a], strings.Compare(a, b)) }) {
		fmt.Fprintf(&b, "%5d  %s\n", left[why], why)
	}
	return b.String()
}
