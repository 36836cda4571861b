package conntrack

// A second TCP tracker, slow and plain: one field per fact, one if per rule, states by name. It is written from the
// rules alone and shares nothing with tcp.go but the settings. Random segment streams must make both say and remember
// the same.

// twinSegment is a segment as its sender meant it; the frame for tcp.go is built from it.
type twinSegment struct {
	dir     Dir
	flags   uint8
	seq     uint32
	ack     uint32
	win     uint16
	size    uint32 // payload
	options []byte // as they stand in the header, padded to four bytes
}

func (g twinSegment) has(flag uint8) bool { return g.flags&flag != 0 }

func (g twinSegment) end() uint32 {
	end := g.seq + g.size
	if g.has(tcpSYN) {
		end++
	}
	if g.has(tcpFIN) {
		end++
	}
	return end
}

// kind is "" for an illegal set of flags.
func (g twinSegment) kind() string {
	urg := g.has(tcpURG)
	switch {
	case g.has(tcpRST):
		if g.has(tcpSYN) || g.has(tcpFIN) || urg {
			return ""
		}
		return "rst"
	case g.has(tcpSYN):
		if g.has(tcpFIN) {
			return ""
		}
		if g.has(tcpACK) {
			if urg {
				return ""
			}
			return "synack"
		}
		return "syn"
	case g.has(tcpFIN):
		if !g.has(tcpACK) {
			return ""
		}
		return "fin"
	case g.has(tcpACK):
		return "ack"
	}
	return ""
}

// twinOption is one option; the list ends at the first one that cannot be read.
type twinOption struct {
	kind  byte
	value []byte
}

func twinOptions(b []byte) (list []twinOption) {
	at := 0
	for at < len(b) {
		if b[at] == 0 {
			return list
		}
		if b[at] == 1 {
			at++
			continue
		}
		if at+1 >= len(b) {
			return list
		}
		size := int(b[at+1])
		if size < 2 || at+size > len(b) {
			return list
		}
		list = append(list, twinOption{b[at], b[at+2 : at+size]})
		at += size
	}
	return list
}

func (g twinSegment) synOptions() (scale int, scaled, sack bool) {
	for _, o := range twinOptions(g.options) {
		if o.kind == 3 && len(o.value) == 1 {
			scaled, scale = true, int(o.value[0])
			if scale > 14 {
				scale = 14
			}
		}
		if o.kind == 4 && len(o.value) == 0 {
			sack = true
		}
	}
	return scale, scaled, sack
}

// highest returns the acknowledgement including the first SACK option's right edges.
func (g twinSegment) highest() uint32 {
	best := g.ack
	for _, o := range twinOptions(g.options) {
		if o.kind != 5 || len(o.value) == 0 || len(o.value)%8 != 0 {
			continue
		}
		for i := 0; i < len(o.value); i += 8 {
			edge := uint32(o.value[i+4])<<24 | uint32(o.value[i+5])<<16 | uint32(o.value[i+6])<<8 | uint32(o.value[i+7])
			if twinLess(best, edge) {
				best = edge
			}
		}
		break
	}
	return best
}

// twinLess: a comes before b in a sequence space that wraps.
func twinLess(a, b uint32) bool { return a != b && b-a <= 1<<31 }

type twinSide struct {
	seen    bool // maxWin is valid
	end     uint32
	maxEnd  uint32
	maxWin  uint32
	maxAck  uint32
	acked   bool // maxAck is valid
	scale   int
	scaled  bool
	sack    bool
	closer  bool // sent the first FIN
	liberal bool
	unacked bool
}

type twinConn struct {
	state string
	side  [2]twinSide

	lastKind string
	lastDir  Dir
	lastSeq  uint32
	lastAck  uint32
	lastEnd  uint32
	lastWin  uint16

	lastScale    int // options of the last ignored SYN
	lastScaled   bool
	lastSACK     bool
	challenge    bool
	simultaneous bool

	retrans int // modulo 256

	seenReply bool
	assured   bool
}

// twinAnswer is what the twin says about a segment.
type twinAnswer struct {
	act     string // accept, invalid, reopen, kill
	refresh bool
	timeout uint32 // with refresh; for invalid: shorten
	shorten bool
}

// twinNext is the state machine in words: "ignore" and "invalid" are answers, too.
func twinNext(dir Dir, kind, state string) string {
	switch kind {
	case "rst":
		if state == "NONE" {
			return "invalid"
		}
		return "CLOSE"
	case "syn":
		switch {
		case state == "SYN_SENT2":
			return "SYN_SENT2"
		case state == "TIME_WAIT":
			return "SYN_SENT"
		case dir == Original && (state == "NONE" || state == "SYN_SENT" || state == "CLOSE"):
			return "SYN_SENT"
		case dir == Original:
			return "ignore"
		case state == "SYN_SENT":
			return "SYN_SENT2"
		}
		return "invalid"
	case "synack":
		switch {
		case state == "SYN_SENT2":
			return "SYN_RECV"
		case dir == Original && state == "SYN_RECV":
			return "SYN_RECV"
		case dir == Original || state == "NONE":
			return "invalid"
		case state == "SYN_SENT":
			return "SYN_RECV"
		}
		return "ignore"
	case "fin":
		switch state {
		case "SYN_RECV", "ESTABLISHED":
			return "FIN_WAIT"
		case "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK":
			return "LAST_ACK"
		case "TIME_WAIT", "CLOSE":
			return state
		}
		return "invalid"
	case "ack":
		switch state {
		case "NONE":
			if dir == Original {
				return "ESTABLISHED"
			}
			return "invalid"
		case "SYN_SENT", "SYN_SENT2":
			if dir == Original {
				return "invalid"
			}
			return "ignore"
		case "SYN_RECV":
			if dir == Original {
				return "ESTABLISHED"
			}
			return "SYN_RECV"
		case "FIN_WAIT", "CLOSE_WAIT":
			return "CLOSE_WAIT"
		case "LAST_ACK", "TIME_WAIT":
			return "TIME_WAIT"
		}
		return state
	}
	return "invalid"
}

// twinBegin judges the first segment of a connection.
func twinBegin(g twinSegment, set *Settings) (*twinConn, twinAnswer) {
	c := &twinConn{state: "NONE", lastKind: "none"}
	o := &c.side[Original]
	switch g.kind() {
	case "syn":
		o.seen = true
		o.end = g.end()
		o.maxEnd = g.end()
		o.maxWin = uint32(g.win)
		if g.win == 0 {
			o.maxWin = 1
		}
		o.scale, o.scaled, o.sack = g.synOptions()
	case "ack":
		if set.tcpLoose == 0 {
			return nil, twinAnswer{act: "invalid"}
		}
		o.seen = true
		o.end = g.end()
		o.maxWin = uint32(g.win)
		if g.win == 0 {
			o.maxWin = 1
		}
		o.maxEnd = o.end + o.maxWin
		for d := range c.side {
			c.side[d].sack = true
			c.side[d].liberal = true
		}
	default:
		return nil, twinAnswer{act: "invalid"}
	}
	a := c.judge(g, set)
	return c, a
}

func twinClosing(state string) bool {
	switch state {
	case "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE":
		return true
	}
	return false
}

// judge judges any segment. A reply that passes, for whatever reason, is a reply.
func (c *twinConn) judge(g twinSegment, set *Settings) twinAnswer {
	a := c.track(g, set)
	if g.dir == Reply && (a.act == "accept" || a.act == "kill") {
		c.seenReply = true
	}
	return a
}

func (c *twinConn) track(g twinSegment, set *Settings) twinAnswer {
	kind := g.kind()
	if kind == "" {
		return twinAnswer{act: "invalid"}
	}
	dir := g.dir
	old := c.state
	next := twinNext(dir, kind, old)

	if next == "invalid" {
		return twinAnswer{act: "invalid"}
	}

	// A SYN on a connection that is over.
	if next == "SYN_SENT" && (old == "TIME_WAIT" || old == "CLOSE") {
		properly := c.side[0].closer || c.side[1].closer
		aborted := c.lastKind == "rst" && c.lastDir == dir
		if properly || aborted {
			return twinAnswer{act: "reopen"}
		}
		next = "ignore"
	}

	if next == "ignore" {
		answers := kind == "synack" && c.lastKind == "syn" && c.lastDir != dir && g.ack == c.lastEnd
		if !answers {
			c.lastKind = kind
			c.lastDir = dir
			c.lastSeq = g.seq
			c.lastEnd = g.end()
			c.lastWin = g.win
			if kind == "syn" && dir == Original {
				c.lastScale, c.lastScaled, c.lastSACK = g.synOptions()
				c.simultaneous = false
				c.challenge = old == "LAST_ACK"
			}
			if old == "SYN_SENT" && kind == "ack" && dir == Reply {
				c.lastAck = g.ack
			}
			return twinAnswer{act: "accept"}
		}
		old, next = "SYN_SENT", "SYN_RECV"
		win := uint32(c.lastWin)
		if win == 0 {
			win = 1
		}
		peer := &c.side[c.lastDir]
		*peer = twinSide{seen: true, end: c.lastEnd, maxEnd: c.lastEnd, maxWin: win, maxAck: peer.maxAck,
			scale: c.lastScale, scaled: c.lastScaled, sack: c.lastSACK}
		c.challenge = false
		c.side[dir] = twinSide{liberal: c.side[dir].liberal}
	}

	if next == "TIME_WAIT" && old == "LAST_ACK" && kind == "ack" && c.lastKind == "syn" && c.lastDir != dir && c.challenge {
		c.challenge = false
		return twinAnswer{act: "accept"}
	}
	if next == "SYN_SENT2" {
		c.simultaneous = true
	}
	if next == "SYN_RECV" && dir == Reply && kind == "ack" && c.simultaneous {
		next = "ESTABLISHED"
	}

	check := true
	if kind == "rst" {
		var verdict string
		verdict, next = c.judgeReset(g, old, set)
		switch verdict {
		case "invalid":
			return twinAnswer{act: "invalid"}
		case "in window":
			check = false
		}
	}

	if check {
		switch c.window(g, set) {
		case "ignore":
			return twinAnswer{act: "accept"}
		case "invalid":
			a := twinAnswer{act: "invalid"}
			if c.assured && (kind == "rst" || kind == "fin") {
				if c.lastDir != dir && (c.lastKind == "rst" || c.lastKind == "fin") {
					a.shorten = true
					a.timeout = set.tcp[tcpTimeoutUnack]
				} else {
					c.lastKind = kind
					c.lastDir = dir
				}
			}
			return a
		}
	}

	c.lastKind = kind
	c.lastDir = dir
	c.state = next
	if next == "FIN_WAIT" && old != "FIN_WAIT" {
		c.side[dir].closer = true
	}
	a := twinAnswer{act: "accept", refresh: true, timeout: c.timeout(kind, next, set)}
	if !c.seenReply {
		if kind == "rst" {
			a.act = "kill"
			a.refresh = false
			a.timeout = 0
		} else if kind == "syn" && old == "SYN_SENT" {
			a.refresh = false
			a.timeout = 0
		} else if next == "ESTABLISHED" && a.timeout > set.tcp[tcpTimeoutUnack] {
			a.timeout = set.tcp[tcpTimeoutUnack]
		}
	} else if next == "ESTABLISHED" && (old == "SYN_RECV" || old == "ESTABLISHED") {
		c.assured = true
	}
	return a
}

// judgeReset returns "check", "in window" or "invalid", and the next state.
func (c *twinConn) judgeReset(g twinSegment, old string, set *Settings) (string, string) {
	if twinClosing(old) {
		return "in window", "CLOSE"
	}
	dir, peer := g.dir, &c.side[1-g.dir]
	next := "CLOSE"
	if peer.acked && c.lastKind != "syn" {
		established := old == "ESTABLISHED" && c.assured
		if g.seq == 0 && !established {
			return "check", "CLOSE"
		}
		if twinLess(g.seq, peer.maxAck) && set.tcpIgnoreInvalidRST == 0 {
			return "invalid", ""
		}
		if !established {
			return "check", "CLOSE"
		}
		if g.seq == peer.maxAck {
			return "check", "CLOSE"
		}
		if c.lastKind == "ack" && c.lastDir == dir && g.seq == c.lastEnd {
			return "check", "CLOSE"
		}
		next = old
	}
	if c.seenReply && c.lastKind == "syn" && c.lastDir != dir && g.ack == c.lastEnd {
		return "in window", next
	}
	if !c.assured && c.lastKind == "ack" && g.ack == c.lastEnd {
		return "in window", next
	}
	if old == "SYN_SENT" && c.lastKind == "ack" && c.lastDir == Reply && g.seq == c.lastAck {
		return "in window", next
	}
	return "check", next
}

// timeout tries the rules in their order.
func (c *twinConn) timeout(kind, state string, set *Settings) uint32 {
	index := 0
	for i, name := range tcpStateNames {
		if name == state {
			index = i
		}
	}
	t := set.tcp[index]
	unack := set.tcp[tcpTimeoutUnack]
	retrans := set.tcp[tcpTimeoutMaxRetrans]
	if c.retrans >= int(set.tcpMaxRetrans) && t > retrans {
		return retrans
	}
	if kind == "rst" {
		return set.tcp[tcpClose]
	}
	if (c.side[0].unacked || c.side[1].unacked) && t > unack {
		return unack
	}
	if c.lastWin == 0 && t > retrans {
		return retrans
	}
	return t
}

// start sets up a side from a SYN or SYN/ACK.
func (c *twinConn) start(g twinSegment) {
	s := &c.side[g.dir]
	s.seen = true
	s.end = g.end()
	s.maxEnd = g.end()
	s.maxWin = uint32(g.win)
	if g.win == 0 {
		s.maxWin = 1
	}
	if len(g.options) > 0 {
		s.scale, s.scaled, s.sack = g.synOptions()
		s.closer, s.unacked, s.acked = false, false, false
	}
	if g.dir == Reply && !(c.side[0].scaled && c.side[1].scaled) {
		c.side[0].scale = 0
		c.side[1].scale = 0
	}
}

// window returns "accept", "ignore" or "invalid".
func (c *twinConn) window(g twinSegment, set *Settings) string {
	me, peer := &c.side[g.dir], &c.side[1-g.dir]
	seq, end, ack, sack := g.seq, g.end(), g.ack, g.ack
	if peer.sack {
		sack = g.highest()
	}
	handshake := c.state == "SYN_SENT" || c.state == "SYN_RECV"
	switch {
	case !me.seen && g.has(tcpSYN):
		c.start(g)
		if !g.has(tcpACK) {
			return "accept"
		}
	case !me.seen:
		me.seen = true
		me.end = end
		me.maxWin = uint32(g.win) << me.scale
		if me.maxWin == 0 {
			me.maxWin = 1
		}
		me.maxEnd = end + me.maxWin
		if !peer.seen {
			peer.end = sack
			peer.maxEnd = sack
		} else if sack == peer.end+1 {
			peer.end++
		}
	case g.has(tcpSYN) && handshake && twinLess(me.end, end):
		c.start(g)
		if g.dir == Reply && !g.has(tcpACK) {
			return "accept"
		}
	}
	if !g.has(tcpACK) || g.has(tcpRST) && g.ack == 0 {
		ack, sack = peer.end, peer.end
	}
	if g.has(tcpRST) && seq == 0 && c.state == "SYN_SENT" {
		seq, end = me.end, me.end
	}

	liberal := set.tcpBeLiberal != 0 || me.liberal
	fail := func(what string) string {
		if liberal {
			return "accept"
		}
		return what
	}
	reach := uint32(66000)
	if me.maxWin > reach {
		reach = me.maxWin
	}
	one := twinLess(seq, me.maxEnd+1)
	two := peer.maxWin == 0 || twinLess(me.end-peer.maxWin-1, end) // end >= me.end - window
	three := twinLess(sack, peer.end+1)
	four := twinLess(peer.end-reach-1, sack)
	if !one {
		over := end - me.maxEnd + 1
		if peer.maxWin != 0 && two && three && four && over <= peer.maxWin {
			me.end = end
			me.unacked = true
			return fail("ignore")
		}
		return fail("invalid")
	}
	if !three {
		return fail("invalid")
	}
	if !two {
		return fail("ignore")
	}
	if !four {
		return fail("ignore")
	}

	win := uint32(g.win)
	if !g.has(tcpSYN) {
		win <<= me.scale
	}
	if w := win + (sack - ack); w > me.maxWin {
		me.maxWin = w
	}
	if twinLess(me.end, end) {
		me.end = end
		me.unacked = true
	}
	if g.has(tcpACK) {
		if !me.acked || twinLess(me.maxAck, ack) {
			me.maxAck = ack
		}
		me.acked = true
	}
	if peer.maxWin != 0 && twinLess(me.maxEnd, end) {
		peer.maxWin += end - me.maxEnd
	}
	if twinLess(peer.maxEnd-1, sack+win) {
		peer.maxEnd = sack + win
		if win == 0 {
			peer.maxEnd++
		}
	}
	if ack == peer.end {
		peer.unacked = false
	}
	if g.kind() == "ack" {
		same := c.lastDir == g.dir && c.lastSeq == seq && c.lastAck == ack && c.lastEnd == end && c.lastWin == g.win
		if same {
			c.retrans = (c.retrans + 1) % 256
		} else {
			c.lastDir, c.lastSeq, c.lastAck, c.lastEnd, c.lastWin = g.dir, seq, ack, end, g.win
			c.retrans = 0
		}
	}
	return "accept"
}
