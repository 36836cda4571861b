package rules

import (
	"fmt"
	"strings"
)

// AbsentMatch is a match about something that no packet of a wire has: a socket, a route, a virtual server. Its answer is the
// same for every packet, that of the kernel on a bridge. A warning says so.
type AbsentMatch struct {
	Holds  bool
	module string
	parts  []string // what iptables-save prints, by the order of the module's options; "": not asked
	asked  int
	denied int // of those asked, behind "!"
}

// absentOption is an option of such a match. read makes of its argument what iptables prints; nil: there is none.
type absentOption struct {
	name string
	not  bool
	read func(rp *ruleParser, a token) string
}

// absentModule makes such a module. holds says whether a rule's match holds; most are the options that at least must be given.
func absentModule(name, missing string, least int, holds func(m *AbsentMatch) bool, options ...absentOption) module {
	mod := module{name: name, family: Both, make: func() Extension { return &AbsentMatch{module: name, parts: make([]string, len(options))} }}
	for i, o := range options {
		args := uint8(1)
		if o.read == nil {
			args = 0
		}
		mod.options = append(mod.options, option{o.name, uint8(i + 1), args, o.not, func(rp *ruleParser, m Extension, not bool, a []token) {
			x := m.(*AbsentMatch)
			x.asked++
			x.denied += bit(not)
			text := " --" + o.name
			if not {
				text = " !" + text
			}
			if o.read != nil {
				text += " " + o.read(rp, a[0])
			}
			x.parts[i] = text
		}})
	}
	mod.finish = func(rp *ruleParser, l *loaded) {
		m := l.m.(*AbsentMatch)
		if m.asked < least {
			rp.fail(l.col, "-m "+name, "an option after -m "+name+", such as --"+options[0].name, "")
			return
		}
		if name == "owner" && m.parts[3] != "" && m.parts[2] == "" {
			rp.fail(l.col, "--suppl-groups", "--gid-owner with --suppl-groups", "")
		}
		m.Holds = holds(m)
		rp.note(l.col, fmt.Sprintf("-m %s%s %s for every packet: %s", name, m.text(), map[bool]string{true: "holds", false: "fails"}[m.Holds], missing))
	}
	return mod
}

// Why such packets do not have it.
const (
	noSocket = "no packet of the wire has a local process or socket"
	noRoute  = "a transparent wire has no routes"
	noServer = "there are no virtual servers here"
)

var absentModules = []module{
	// owner_mt in net/netfilter/xt_owner.c, without a socket. --suppl-groups says only how groups are compared.
	absentModule("owner", noSocket, 1, func(m *AbsentMatch) bool { return m.asked-bit(m.parts[3] != "") == m.denied },
		absentOption{"socket-exists", true, nil}, absentOption{"uid-owner", true, ownerRange}, absentOption{"gid-owner", true, ownerRange},
		absentOption{"suppl-groups", false, nil}),
	// net/netfilter/xt_cgroup.c and xt_socket.c fail without a socket, also behind "!".
	absentModule("cgroup", noSocket, 1, never, absentOption{"path", true, plainWord}, absentOption{"cgroup", true, decimal}),
	absentModule("socket", noSocket, 0, never, absentOption{"transparent", false, nil}, absentOption{"nowildcard", false, nil}, absentOption{"restore-skmark", false, nil}),
	// The route of a bridged packet is of realm 0 (net/netfilter/xt_realm.c).
	absentModule("realm", noRoute, 1, func(m *AbsentMatch) bool {
		value, _, _ := strings.Cut(m.parts[0][strings.LastIndex(m.parts[0], " ")+1:], "/")
		return (value == "0x0") != (m.denied > 0)
	}, absentOption{"realm", true, hexMasked}).only(IPv4),
	// ipvs_mt in net/netfilter/xt_ipvs.c: any other option makes --ipvs one that is not denied.
	absentModule("ipvs", noServer, 1, func(m *AbsentMatch) bool { return m.asked == 1 && m.parts[0] != "" && m.denied == 1 },
		absentOption{"ipvs", true, nil}, absentOption{"vproto", true, ipvsProtocol}, absentOption{"vaddr", true, ipvsAddress}, absentOption{"vport", true, ipvsPort},
		absentOption{"vdir", false, ipvsWord("ORIGINAL", "REPLY")}, absentOption{"vmethod", true, ipvsWord("GATE", "IPIP", "MASQ")}, absentOption{"vportctl", true, ipvsPort}),
}

func never(*AbsentMatch) bool { return false }

// ownerRange reads a user or group: a number, a range, or a name, which nobody looks up.
func ownerRange(rp *ruleParser, a token) string {
	lo, hi, isRange := strings.Cut(strings.Replace(a.text, ":", "-", 1), "-")
	v, err := parseNumber(lo, 1<<32-2)
	if err != nil {
		if a.text == "" || a.text[0] >= '0' && a.text[0] <= '9' || a.text[0] == '-' || a.text[0] == ':' {
			rp.fail(a.col, a.text, "a number, a range of numbers, or a name", "")
		}
		return string(appendQuotedName(nil, a.text))
	}
	text := fmt.Sprint(v)
	if isRange {
		w, err := parseNumber(hi, 1<<32-2)
		if err != nil || w < v {
			rp.fail(a.col, a.text, "a range of numbers that rises", "")
		}
		if w != v {
			text = fmt.Sprintf("%d-%d", v, w)
		}
	}
	return text
}

func plainWord(_ *ruleParser, a token) string { return string(appendQuotedName(nil, a.text)) }

func decimal(rp *ruleParser, a token) string { return fmt.Sprint(rp.number(a, 1<<32-1)) }

// hexMasked reads a value with or without a mask, as --realm has it.
func hexMasked(rp *ruleParser, a token) string {
	v, mask, _ := rp.masked(a, 1<<32-1)
	if mask == 1<<32-1 {
		return fmt.Sprintf("%#x", v)
	}
	return fmt.Sprintf("%#x/%#x", v, mask)
}

func ipvsProtocol(rp *ruleParser, a token) string {
	num, ok := parseProtocol(a.text)
	if !ok {
		rp.fail(a.col, a.text, "a protocol's name or number up to 255", "")
	}
	return fmt.Sprint(num)
}

func ipvsAddress(rp *ruleParser, a token) string {
	m, f, ok := rp.address(a)
	if ok {
		rp.restrict(f, a.col, a.text)
	}
	return string(appendAddr(nil, m, false))
}

func ipvsPort(rp *ruleParser, a token) string {
	v, _ := rp.port(a)
	return fmt.Sprint(v)
}

// ipvsWord reads one of some words, in whatever case.
func ipvsWord(words ...string) func(*ruleParser, token) string {
	return func(rp *ruleParser, a token) string {
		return words[rp.oneOf(token{text: strings.ToUpper(a.text), col: a.col}, words)]
	}
}

// Name returns the module's name.
func (m *AbsentMatch) Name() string { return m.module }

func (m *AbsentMatch) text() string { return strings.Join(m.parts, "") }

// AppendSave implements Extension.
func (m *AbsentMatch) AppendSave(b []byte) []byte {
	if m.module == "ipvs" && m.asked > 1 { // --ipvs beside others is not printed
		return append(b, strings.Join(m.parts[1:], "")...)
	}
	return append(b, m.text()...)
}

func (m *AbsentMatch) compile(c *compiler) {
	if !m.Holds {
		c.ask(pred{op: opNever})
	}
}

// AppendList implements lister. Each of these prints in a way of its own.
func (m *AbsentMatch) AppendList(b []byte) []byte {
	switch m.module {
	case "owner":
		text := strings.NewReplacer(" --socket-exists", " owner socket exists", " --uid-owner", " owner UID match", " --gid-owner", " owner GID match",
			" --suppl-groups", " incl. suppl. groups").Replace(m.text())
		return append(b, text...)
	case "cgroup":
		for i, name := range []string{" --path", " --cgroup"} {
			if rest := strings.TrimPrefix(m.parts[i], " !"); rest != "" {
				b = append(append(b, " cgroup"...), m.parts[i][:len(m.parts[i])-len(rest)]...)
				b = append(b, rest[len(name):]...)
			}
		}
		return b
	case "socket":
		return append(append(b, " socket"...), m.text()...)
	}
	return append(b, strings.ReplaceAll(string(m.AppendSave(nil)), " --", " ")...)
}
