package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/packet"
	"corewire/internal/replay"
)

// shot is a frame of a stream.
type shot struct {
	in    packet.Port
	gap   time.Duration // since the frame before; compressed, see pacer
	sleep time.Duration // real time to wait before it
	frame []byte
}

// config says how both sides are set up, and how time is treated.
type config struct {
	rules    *ruleFile
	settings *conntrack.Settings
	own      *conntrack.Settings     // corewire's, to make it differ on purpose; nil: settings
	engine   func(*dataplane.Config) // what corewire has set beside that; nil: nothing
	wait     time.Duration           // most real time that is spent waiting in one stream, see pacer
	pauses   int                     // most pauses that pass in one stream, see pacer; 0: all
	counted  bool                    // the rules have -m connlimit for more than the first packets of connections
	stop     int                     // end after that many differences; 0: never
}

// difference is a frame, or an entry at the end, that the two sides see differently.
type difference struct {
	Stream string `json:"stream"`
	Frame  int    `json:"frame"` // from 1; 0: found in the tables at the end
	What   string `json:"what"`
	Known  string `json:"known,omitempty"` // the name of the row of the table of known differences
	Detail string `json:"detail"`
}

// summary counts what was compared.
type summary struct {
	Stream      string         `json:"stream"`
	Frames      int            `json:"frames"`
	Tracked     int            `json:"tracked"` // of Frames, packets whose connection state was compared
	Entries     int            `json:"entries"` // at the end
	States      map[string]int `json:"states"`
	Skipped     map[string]int `json:"skipped,omitempty"` // frames that cannot be compared, by row
	Known       map[string]int `json:"known,omitempty"`   // differences that have a row
	Differences []difference   `json:"differences,omitempty"`
}

// comparison drives a stream through both sides. One goroutine uses it.
type comparison struct {
	config
	name     string
	kernel   *kernel
	corewire *corewire
	pace     pacer
	views    map[packet.Key]view
	tainted  map[packet.Key]bool // connections that differ already
	result   summary
}

// view is what both sides said of a connection at its last packet.
type view struct {
	frame int
	k     passage
	c     decision
}

// close removes both sides.
func (c *comparison) close() error {
	var errs []error
	if c.kernel != nil {
		errs = append(errs, c.kernel.close())
	}
	if c.corewire != nil {
		errs = append(errs, c.corewire.close())
	}
	c.kernel, c.corewire = nil, nil
	return errors.Join(errs...)
}

// fragments reports whether fragments wait for the rest of their datagram.
func (c *comparison) fragments() bool {
	if c.corewire == nil {
		return false
	}
	held, err := c.corewire.held()
	return held > 0 || err != nil
}

// reset makes both sides as new. The namespace is kept if all that it remembers can be flushed, which is not so while
// fragments wait.
func (c *comparison) reset() error {
	if c.kernel != nil && (c.fragments() || c.kernel.flush() != nil) {
		if err := c.kernel.close(); err != nil {
			return err
		}
		c.kernel = nil
	}
	var err error
	if c.kernel == nil {
		if c.kernel, err = newKernel(c.rules.text4, c.rules.text6, c.settings); err != nil {
			return err
		}
	}
	if c.corewire != nil {
		if err := c.corewire.close(); err != nil {
			return err
		}
	}
	own := c.settings
	if c.own != nil {
		own = c.own
	}
	c.corewire, err = newCorewire(c.rules.ruleset, own, c.engine)
	return err
}

// run compares a stream from its first frame to its end.
func (c *comparison) run(name string, stream func(yield func(shot) bool)) (summary, error) {
	if err := c.reset(); err != nil {
		return summary{}, err
	}
	c.name = name
	c.pace = newPacer(c.wait)
	if c.pauses > 0 {
		c.pace.pauses = c.pauses
	}
	c.result = summary{Stream: name, States: map[string]int{}, Skipped: map[string]int{}, Known: map[string]int{}}
	c.views, c.tainted = map[packet.Key]view{}, map[packet.Key]bool{}
	var err error
	number := 0
	for s := range stream {
		number++
		if err = c.frame(number, s); err != nil {
			err = fmt.Errorf("%s: frame %d: %w", name, number, err)
			break
		}
		if c.stop > 0 && len(c.result.Differences) >= c.stop {
			break
		}
	}
	if err == nil && (c.stop == 0 || len(c.result.Differences) < c.stop) {
		err = c.tables()
	}
	return c.result, err
}

// frame drives one frame through both sides and compares.
func (c *comparison) frame(number int, s shot) error {
	time.Sleep(s.sleep)
	now, err := c.pace.pass(s.gap, c)
	if err != nil {
		return err
	}
	c.result.Frames++
	if len(s.frame) < packet.EthernetHeader {
		c.result.Skipped["short"]++
		return nil
	}
	s.frame = unicast(s.frame)
	p := packet.Packet{Frame: s.frame, In: s.in}
	packet.Parse(&p)
	if why := skip(s.frame, &p); why != "" {
		c.result.Skipped[why]++
		return nil
	}
	k, err := c.kernel.send(s.in, s.frame)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	if len(k.sights) > 0 {
		now = c.pace.at(k.sights[0].tracked(p.Proto, c.kernel.hertz), c.kernel.hertz)
	}
	d, err := c.corewire.send(s.in, s.frame, now)
	if err != nil {
		return err
	}
	if d.Tracked {
		c.result.Tracked++
		c.result.States[d.State.String()]++
		if p.Proto == packet.ProtoUDP && d.State == conntrack.StateNew {
			c.pace.young = time.Now().Add(streamAge)
		}
	}
	key := p.Key
	if d.HasInfo {
		key = d.Info.Key
	}
	what := c.check(&p, &k, &d)
	before, known := c.views[key]
	if what != "" && !c.tainted[key] {
		diff := difference{Stream: c.name, Frame: number, What: what}
		diff.Known = c.explain(&p, &k, &d)
		if diff.Known != "" {
			c.result.Known[diff.Known]++
		} else {
			diff.Detail = c.describe(number, &p, &k, &d, before, known)
			c.result.Differences = append(c.result.Differences, diff)
		}
		if diff.Known != "connlimit" && (d.HasInfo || len(k.sights) == 1 && k.sights[0].Entry != 0) {
			c.tainted[key] = true
		}
	}
	c.views[key] = view{number, k, d}
	return nil
}

// unicast returns a frame with IP in it under link-layer addresses that the bridge treats as a wire would; the firewall does
// not look at them. A bridge drops what comes from a group or from nobody (br_handle_frame, net/bridge/br_input.c). It is
// itself a member of every group, and takes a copy of what is sent to one: the copy enters the connection into the
// table even if the rules then drop the frame (br_pass_frame_up; br_nf_local_in, net/bridge/br_netfilter_hooks.c).
func unicast(frame []byte) []byte {
	p := packet.Packet{Frame: frame}
	packet.Parse(&p)
	source := frame[6]&1 != 0 || [6]byte(frame[6:12]) == [6]byte{}
	if p.Class > packet.ClassIPv6 && !source {
		return frame
	}
	frame = slices.Clone(frame)
	if source {
		copy(frame[6:], []byte{2, 0, 0, 0, 0, 1})
	}
	if p.Class <= packet.ClassIPv6 {
		copy(frame, []byte{2, 0, 0, 0, 0, 2})
	}
	return frame
}

// tolerance is how far two deadlines may be apart: the kernel counts in jiffies, corewire in milliseconds, and the two
// are not asked at the same moment.
const tolerance = 300 * time.Millisecond

// Bits of a kernel connection's status and of its TCP sides.
const (
	statusMask = conntrack.StatusSeenReply | conntrack.StatusAssured

	kernelSACK    = 0x02
	kernelLiberal = 0x08
	kernelUnacked = 0x10
	kernelMaxAck  = 0x20
)

// check returns what differs, in a few words; "" if nothing.
func (c *comparison) check(p *packet.Packet, k *passage, d *decision) string {
	switch {
	case (len(k.out) > 0) != (len(d.out) > 0):
		return "verdict"
	case (len(k.back) > 0) != (len(d.back) > 0):
		return "frames sent back"
	case len(k.sights) > 1:
		return "the kernel saw the packet several times"
	case d.Tracked != (len(k.sights) == 1):
		return "tracked"
	case !d.Tracked:
		return ""
	}
	s := &k.sights[0]
	state, dir := s.state()
	if state != d.State.String() {
		return "state"
	}
	if s.Entry == 0 || len(d.out) == 0 && d.State == conntrack.StateNew {
		return ""
	}
	dying := s.Status&conntrack.StatusDying != 0 // a RST without a reply removes the entry
	switch {
	case dying != (!d.HasInfo || d.Info.Status&conntrack.StatusDying != 0):
		return "entry"
	case dying:
		return ""
	case dir != d.Dir:
		return "direction"
	case d.Info.Status&statusMask != s.Status&statusMask:
		return "status"
	}
	switch p.Proto {
	case packet.ProtoTCP:
		if p.Flags&packet.ICMPError == 0 && d.HasTCP {
			if s.TcpState != d.Info.State {
				return "TCP state"
			}
			if s.windows() != coreWindows(&d.TCP) {
				return "TCP windows"
			}
		}
	case packet.ProtoSCTP:
		if s.SctpState != d.Info.State {
			return "SCTP state"
		}
	}
	if off := s.left(c.kernel.hertz) - time.Duration(d.Info.Left)*time.Millisecond; off.Abs() > tolerance+c.pace.slack {
		return "timeout"
	}
	return ""
}

// state returns the connection state as iptables sees it, and the packet's direction (enum ip_conntrack_info,
// include/uapi/linux/netfilter/nf_conntrack_common.h).
func (s *witnessSight) state() (string, conntrack.Dir) {
	const untracked = 7
	if s.Entry == 0 {
		if s.Info == untracked {
			return conntrack.StateUntracked.String(), 0
		}
		return conntrack.StateInvalid.String(), 0
	}
	state := [...]conntrack.State{conntrack.StateEstablished, conntrack.StateRelated, conntrack.StateNew}[s.Info%3]
	return state.String(), conntrack.Dir(s.Info / 3)
}

// tracked returns the jiffy at which the tracker looked at the packet. It may be one that ended before the witness saw it,
// which decides whether a UDP connection becomes a stream, and a UDP connection tells: its first packet set the jiffy of
// that, two seconds later, and every further one its timeout, which is of whole seconds (nf_conntrack_udp_packet,
// net/netfilter/nf_conntrack_proto_udp.c). Of other packets it is taken that they met the witness in the same jiffy.
func (s *witnessSight) tracked(proto uint8, hertz uint32) uint32 {
	if proto != packet.ProtoUDP || s.Entry == 0 {
		return s.Jiffies
	}
	before := s.Jiffies - (s.Stream - 2*hertz)
	if s.Status&conntrack.StatusConfirmed != 0 {
		left := s.Timeout - s.Jiffies
		before = (left+hertz-1)/hertz*hertz - left
	}
	if before > hertz/10 { // neither has it been so long, nor is it seen before it is tracked
		return s.Jiffies
	}
	return s.Jiffies - before
}

// left returns how long the connection has to live.
func (s *witnessSight) left(hertz uint32) time.Duration {
	n := int64(s.Timeout)
	if s.Status&conntrack.StatusConfirmed != 0 {
		n = int64(int32(s.Timeout - s.Jiffies))
	}
	return time.Duration(n) * time.Second / time.Duration(hertz)
}

// windows returns what decides about the next TCP segment, as text.
func (s *witnessSight) windows() string {
	b := make([]byte, 0, 160)
	for i := range s.Side {
		w := &s.Side[i]
		b = appendSide(b, conntrack.TCPSide{
			End: w.End, MaxEnd: w.MaxEnd, MaxWin: w.MaxWin, MaxAck: w.MaxAck, Scale: w.Scale, SACK: w.Flags&kernelSACK != 0,
			Liberal: w.Flags&kernelLiberal != 0, Unacked: w.Flags&kernelUnacked != 0, AckSeen: w.Flags&kernelMaxAck != 0,
		})
	}
	return string(strconv.AppendUint(append(b, "retrans="...), uint64(s.Retrans), 10))
}

func coreWindows(t *conntrack.TCPInfo) string {
	b := make([]byte, 0, 160)
	for _, w := range t.Side {
		b = appendSide(b, w)
	}
	return string(strconv.AppendUint(append(b, "retrans="...), uint64(t.Retrans), 10))
}

func appendSide(b []byte, w conntrack.TCPSide) []byte {
	for _, f := range []struct {
		name  string
		value uint32
	}{{"end=", w.End}, {"maxend=", w.MaxEnd}, {"maxwin=", w.MaxWin}, {"maxack=", w.MaxAck}, {"scale=", uint32(w.Scale)}} {
		if f.name == "maxack=" && !w.AckSeen {
			continue
		}
		b = append(strconv.AppendUint(append(b, f.name...), uint64(f.value), 10), ' ')
	}
	for _, f := range []struct {
		name string
		on   bool
	}{{"sack", w.SACK}, {"liberal", w.Liberal}, {"unacked", w.Unacked}} {
		if f.on {
			b = append(append(b, f.name...), ' ')
		}
	}
	return append(b, "/ "...)
}

// describe says what both sides made of a frame, and what they had thought of its connection before.
func (c *comparison) describe(number int, p *packet.Packet, k *passage, d *decision, before view, known bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "frame %d %v %s\n  %x\n", number, p.In, replay.Describe(p.Frame), p.Frame[:min(len(p.Frame), 128)])
	if p.Proto == packet.ProtoTCP && p.Problem == 0 && p.Flags&(packet.ICMPError|packet.Fragment) == 0 {
		fmt.Fprintf(&b, "  %s\n", describeTCP(p))
	}
	if known {
		fmt.Fprintf(&b, "  before, at frame %d:\n", before.frame)
		c.describeSides(&b, &before.k, &before.c)
	}
	b.WriteString("  after:\n")
	c.describeSides(&b, k, d)
	return b.String()
}

func (c *comparison) describeSides(b *strings.Builder, k *passage, d *decision) {
	fmt.Fprintf(b, "    kernel   %d out, %d back", len(k.out), len(k.back))
	for i := range k.sights {
		s := &k.sights[i]
		state, dir := s.state()
		fmt.Fprintf(b, ", %s", state)
		if s.Entry != 0 {
			fmt.Fprintf(b, " dir %d, entry %x status %#x tcp %d sctp %d left %v\n             %s last %d dir %d seq=%d ack=%d end=%d win=%d", dir, s.Entry&0xffffff, s.Status, s.TcpState, s.SctpState, s.left(c.kernel.hertz),
				s.windows(), s.LastIndex, s.LastDir, s.LastSeq, s.LastAck, s.LastEnd, s.LastWin)
		}
	}
	fmt.Fprintf(b, "\n    corewire %d out, %d back, %v %v", len(d.out), len(d.back), d.Verdict, d.Reason)
	if d.Tracked {
		fmt.Fprintf(b, ", %v dir %d", d.State, d.Dir)
	}
	if d.HasInfo {
		fmt.Fprintf(b, ", status %#x state %d left %v", d.Info.Status, d.Info.State, time.Duration(d.Info.Left)*time.Millisecond)
		if d.HasTCP {
			fmt.Fprintf(b, "\n             %s", coreWindows(&d.TCP))
		}
		fmt.Fprintf(b, "\n             %s", d.Info.AppendLine(nil, conntrack.FormatConntrack))
	}
	b.WriteByte('\n')
}

// tables compares the connections that are left.
func (c *comparison) tables() error {
	kernel, err := c.kernel.table()
	if err != nil {
		return err
	}
	if err := c.corewire.pass(c.pace.now()); err != nil {
		return err
	}
	own, err := c.corewire.table()
	if err != nil {
		return err
	}
	c.result.Entries = len(own)
	k, w := entries(kernel), entries(own)
	var lines []string
	for line, left := range k {
		mine, ok := w[line]
		switch {
		case !ok && left > int(2+c.pace.slack/time.Second):
			lines = append(lines, fmt.Sprintf("kernel only   %d s: %s", left, line))
		case ok && max(mine-left, left-mine) > int(2+c.pace.slack/time.Second):
			lines = append(lines, fmt.Sprintf("kernel %d s, corewire %d s: %s", left, mine, line))
		}
	}
	for line, left := range w {
		if _, ok := k[line]; !ok && left > int(2+c.pace.slack/time.Second) {
			lines = append(lines, fmt.Sprintf("corewire only %d s: %s", left, line))
		}
	}
	pairs := map[[2]packet.Addr]uint8{} // what differs already is not told twice
	for key := range c.tainted {
		pairs[[2]packet.Addr{key.A, key.B}] = key.Family
	}
	for pair, family := range pairs {
		a, b := pair[0].Netip(), pair[1].Netip()
		if family == 6 {
			a, b = pair[0].Netip6(), pair[1].Netip6()
		}
		one, other := "src="+a.StringExpanded()+" dst="+b.StringExpanded()+" ", "src="+b.StringExpanded()+" dst="+a.StringExpanded()+" "
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, one) || strings.Contains(l, other) })
	}
	if len(lines) == 0 {
		return nil
	}
	slices.Sort(lines)
	c.result.Differences = append(c.result.Differences, difference{Stream: c.name, What: "tables", Detail: strings.Join(lines[:min(20, len(lines))], "\n") + "\n"})
	return nil
}

// entries takes the seconds out of the lines, and the count of users, which in the kernel may be a passing lookup's.
func entries(lines []string) map[string]int {
	m := map[string]int{}
	for _, l := range lines {
		f := strings.Fields(l)
		if len(f) < 6 {
			continue
		}
		left, _ := strconv.Atoi(f[4])
		f[4] = "-"
		f = slices.DeleteFunc(f, func(s string) bool { return strings.HasPrefix(s, "use=") })
		m[strings.Join(f, " ")] = left
	}
	return m
}

// describeTCP says what the state machine reads of a segment.
func describeTCP(p *packet.Packet) string {
	h := p.Transport()
	return fmt.Sprintf("flags %#02x seq=%d ack=%d win=%d len=%d options %x", p.TCPFlags, binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:]),
		binary.BigEndian.Uint16(h[14:]), len(h)-int(h[12]>>4*4), h[20:h[12]>>4*4])
}
