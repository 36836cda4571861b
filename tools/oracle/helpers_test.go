package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// helperPorts gives both sides the same helpers: to the kernel by rules of the raw table, to corewire by a setting.
const helperPorts = "ftp=21,tftp=69,irc=6667,sip=5060,pptp=1723"

const helperRaw4 = `*raw
-A PREROUTING -p tcp --dport 21 -j CT --helper ftp
-A PREROUTING -p udp --dport 69 -j CT --helper tftp
-A PREROUTING -p tcp --dport 6667 -j CT --helper irc
-A PREROUTING -p udp --dport 5060 -j CT --helper sip
-A PREROUTING -p tcp --dport 5060 -j CT --helper sip
-A PREROUTING -p tcp --dport 1723 -j CT --helper pptp
COMMIT
`

const helperRaw6 = `*raw
-A PREROUTING -p tcp --dport 21 -j CT --helper ftp
-A PREROUTING -p udp --dport 69 -j CT --helper tftp
-A PREROUTING -p udp --dport 5060 -j CT --helper sip
-A PREROUTING -p tcp --dport 5060 -j CT --helper sip
COMMIT
`

// helperDuel plays sessions that helpers read through both sides.
type helperDuel struct {
	t      *testing.T
	c      *comparison
	r      *rand.Rand
	seq    map[string]uint32 // next sequence number of each TCP sender
	frames int
	drops  int // packets that the helpers dropped
	made   int // frames after which something was expected
	listed int // lines of conntrack's that were compared
	events map[string]int
}

// expected returns what both sides expect, without the seconds that are left.
func (d *helperDuel) expected() (kernel, own []string) {
	d.t.Helper()
	err := d.c.kernel.do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/nf_conntrack_expect")
		for _, line := range strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' }) {
			_, line, _ = strings.Cut(line, " ")
			kernel = append(kernel, strings.TrimSpace(line))
		}
		return err
	})
	if err == nil {
		err = d.c.corewire.engine.Expectations(context.Background(), func(infos []conntrack.ExpectInfo) error {
			for i := range infos {
				_, line, _ := strings.Cut(string(infos[i].AppendLine(nil, conntrack.FormatProc)), " ")
				own = append(own, line)
			}
			return nil
		})
	}
	if err != nil {
		d.t.Fatal(err)
	}
	slices.Sort(kernel)
	slices.Sort(own)
	return kernel, own
}

// listing compares what `conntrack -L expect` prints, if there is one, without the seconds.
func (d *helperDuel) listing() {
	d.t.Helper()
	if _, err := exec.LookPath("conntrack"); err != nil {
		return
	}
	var kernel, own []string
	cut := func(lines *[]string, line string) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		*lines = append(*lines, rest)
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		var out []byte
		err := d.c.kernel.do(func() (err error) {
			out, err = exec.Command("conntrack", "-L", "expect", "-f", family).Output()
			return err
		})
		if err != nil {
			d.t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			cut(&kernel, line)
		}
	}
	if err := d.c.corewire.engine.Expectations(context.Background(), func(infos []conntrack.ExpectInfo) error {
		for i := range infos {
			cut(&own, string(infos[i].AppendLine(nil, conntrack.FormatConntrack)))
		}
		return nil
	}); err != nil {
		d.t.Fatal(err)
	}
	slices.Sort(kernel)
	slices.Sort(own)
	if !slices.Equal(kernel, own) {
		d.t.Errorf("conntrack -L expect prints\n%s\ncorewire\n%s", strings.Join(kernel, "\n"), strings.Join(own, "\n"))
	}
	d.listed += len(own)
}

// play puts a frame through both sides and compares; it reports the state and whether the frame passed.
func (d *helperDuel) play(in packet.Port, frame []byte, text string) (conntrack.State, bool) {
	d.t.Helper()
	d.frames++
	before, _ := d.expected()
	k, err := d.c.kernel.send(in, frame)
	if err != nil {
		d.t.Fatal(err)
	}
	w, err := d.c.corewire.send(in, frame, d.c.pace.now())
	if err != nil {
		d.t.Fatal(err)
	}
	fail := func(what string, args ...any) {
		d.t.Helper()
		p := packet.Packet{Frame: frame, In: in}
		packet.Parse(&p)
		var b strings.Builder
		d.c.describeSides(&b, &k, &w)
		d.t.Fatalf("frame %d, %v %v:%d → %v:%d %q: %s\nbefore, expected were\n%s\n%s", d.frames, in, p.Src, p.SrcPort, p.Dst, p.DstPort, text, fmt.Sprintf(what, args...), strings.Join(before, "\n"), b.String())
	}
	if (len(k.sights) == 1) != w.Tracked {
		fail("seen by the kernel %d times, tracked by corewire: %v", len(k.sights), w.Tracked)
	}
	if !w.Tracked {
		return w.State, len(w.out) > 0
	}
	s := &k.sights[0]
	state, dir := s.state()
	if state != w.State.String() || s.Entry != 0 && dir != w.Dir {
		fail("state")
	}
	if (len(k.out) > 0) != (len(w.out) > 0) {
		fail("verdict")
	}
	if len(w.out) == 0 {
		d.drops++
	} else if w.HasInfo && s.Entry != 0 {
		mask := conntrack.StatusExpected | conntrack.StatusHelper | conntrack.StatusSeenReply | conntrack.StatusAssured
		if s.Status&conntrack.StatusExpected != 0 {
			// An expected SIP connection has a helper from the first packet on, on both sides. Linux 6.18 attaches it in
			// init_conntrack without the bit, which only __nf_ct_try_assign_helper sets there, for helpers that a rule
			// assigns; later kernels set it wherever a helper is attached (nf_ct_helper_ext_add,
			// net/netfilter/nf_conntrack_helper.c), as corewire does. Nothing is judged by the bit.
			mask &^= conntrack.StatusHelper
		}
		if s.Status&mask != w.Info.Status&mask {
			fail("status")
		}
	}
	ke, we := d.expected()
	for range 20 {
		if slices.Equal(ke, we) {
			break
		}
		// The kernel's list counts the places of all namespaces: a change in another one makes it repeat or skip lines.
		ke, we = d.expected()
	}
	if !slices.Equal(ke, we) {
		fail("the kernel expects\n%s\ncorewire expects\n%s", strings.Join(ke, "\n"), strings.Join(we, "\n"))
	}
	if len(ke) > 0 {
		d.made++
	}
	d.events[w.State.String()]++
	return w.State, len(w.out) > 0
}

// side returns the port that an address is on: odd last bytes are inside.
func side(a netip.Addr) packet.Port {
	if b := a.AsSlice(); b[len(b)-1]&1 == 1 {
		return packet.Inside
	}
	return packet.Outside
}

// segment sends a TCP segment with the right numbers. One that was dropped does not count as sent.
func (d *helperDuel) segment(from, to netip.AddrPort, flags uint8, text string) (conntrack.State, bool) {
	d.t.Helper()
	there, back := from.String()+to.String(), to.String()+from.String()
	opts := []packettest.Option{packettest.Seq(d.seq[there]), packettest.Payload([]byte(text)), packettest.Window(60000)}
	if flags&packettest.ACK != 0 {
		opts = append(opts, packettest.Ack(d.seq[back]))
	}
	s, ok := d.play(side(from.Addr()), packettest.NewTCP(from, to, flags, opts...), text)
	if ok {
		d.seq[there] += uint32(len(text)) + uint32(flags&packettest.SYN)/2 + uint32(flags&packettest.FIN)
	}
	return s, ok
}

// open plays a TCP handshake.
func (d *helperDuel) open(from, to netip.AddrPort) {
	d.t.Helper()
	d.seq[from.String()+to.String()], d.seq[to.String()+from.String()] = d.r.Uint32(), d.r.Uint32()
	if _, ok := d.segment(from, to, packettest.SYN, ""); ok {
		d.segment(to, from, packettest.SYN|packettest.ACK, "")
		d.segment(from, to, packettest.ACK, "")
	}
}

func (d *helperDuel) datagram(from, to netip.AddrPort, text string) {
	d.t.Helper()
	d.play(side(from.Addr()), packettest.NewUDP(from, to, packettest.Payload([]byte(text))), text)
}

// answer plays what was announced, or nearly: a connection that something expects, from the right or the wrong place.
func (d *helperDuel) answer() {
	d.t.Helper()
	ke, _ := d.expected()
	if len(ke) == 0 {
		return
	}
	field := map[string]string{}
	for f := range strings.FieldsSeq(ke[d.r.IntN(len(ke))]) {
		if k, v, ok := strings.Cut(f, "="); ok {
			field[k] = v
		}
	}
	src, err := netip.ParseAddr(field["src"])
	if err != nil {
		d.t.Fatal(err)
	}
	dst := netip.MustParseAddr(field["dst"])
	if src.IsUnspecified() {
		src = netip.MustParseAddr("203.0.113.4")
	}
	number := func(name string) uint16 {
		n, _ := strconv.ParseUint(field[name], 0, 16)
		return uint16(n)
	}
	dport, call := number("dport"), number("dstkey")
	switch d.r.IntN(8) {
	case 0:
		dport, call = dport+1, call+1
	case 1:
		src = src.Next().Next()
	case 2:
		src, dst = dst, src
	}
	from, to := netip.AddrPortFrom(src, uint16(20000+d.r.IntN(20000))), netip.AddrPortFrom(dst, max(dport, 1))
	switch field["proto"] {
	case "6":
		d.open(from, to)
	case "17":
		d.datagram(from, to, "media")
		if d.r.IntN(2) == 0 {
			d.datagram(to, from, "media")
		}
	case "47":
		if dst.Is4() && call != 0 {
			d.play(side(src), packettest.NewPPTP(src, dst, call), "GRE")
			if other := number("srckey"); other != 0 && d.r.IntN(2) == 0 {
				d.play(side(dst), packettest.NewPPTP(dst, src, other), "GRE back")
			}
		}
	}
}

// damage changes a text now and then: a byte, a piece less, a piece twice.
func (d *helperDuel) damage(s string) string {
	if d.r.IntN(3) > 0 || len(s) == 0 {
		return s
	}
	b := []byte(s)
	for range 1 + d.r.IntN(3) {
		i, j := d.r.IntN(len(b)), d.r.IntN(len(b))
		switch d.r.IntN(7) {
		case 0:
			b[i] = byte(d.r.Uint32())
		case 1:
			b[i] = b[j]
		case 2:
			b = b[:i+1]
		case 3:
			b = append(b[:i:i], b[min(i+1+d.r.IntN(8), len(b)-1):]...)
		case 4:
			b = append(b[:i:i], b[max(0, i-d.r.IntN(20)):]...)
		case 5:
			const odd = "\r\n ,|():@;=\x010123456789"
			b[i] = odd[d.r.IntN(len(odd))]
		case 6:
			b = append(b, '\r', '\n')
		}
	}
	return string(b[:min(len(b), 1300)])
}

// crlf makes a message of lines.
func crlf(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n" }

// ftp returns what a side of an FTP control connection may say.
func (d *helperDuel) ftp(client, server netip.Addr, fromClient bool) string {
	pick := func(own, other netip.Addr) netip.Addr {
		if d.r.IntN(5) == 0 {
			return other
		}
		return own
	}
	port := uint16(1024 + d.r.IntN(60000))
	pair := func(a netip.Addr) string {
		return fmt.Sprintf("%s,%d,%d", strings.ReplaceAll(a.String(), ".", ","), port>>8, port&255)
	}
	family := 1
	if client.Is6() {
		family = 2
	}
	if fromClient {
		a := pick(client, server)
		return [...]string{"USER me\r\n", "PASV\r\n", "EPSV\r\n", "RETR PORT 1,2,3,4,5,6\r\n", "STOR x", "\r\n",
			"PORT " + pair(a) + "\r\n", "port " + pair(a) + "\r\n", "PORT " + pair(a) + "\r\n", "PORT\r\n", "PO",
			fmt.Sprintf("EPRT |%d|%s|%d|\r\n", family, a, port), fmt.Sprintf("EPRT |%d|%s|%d|\r\n", 3-family, a, port),
			fmt.Sprintf("eprt !%d!%s!%d!\r\n", family, a, port)}[d.r.IntN(14)]
	}
	a := pick(server, client)
	return [...]string{"220 ready\r\n", "230-one\r\n230 two\r\n", "150 opening\r\n", "22", "227 x",
		"227 Entering Passive Mode (" + pair(a) + ").\r\n", "227 =" + pair(a) + "\r\n", "227 " + pair(a) + "\r\n",
		fmt.Sprintf("229 Entering Extended Passive Mode (|||%d|)\r\n", port), fmt.Sprintf("229 ok (!!!%d!)\r\n", port)}[d.r.IntN(10)]
}

// irc returns what an IRC client may say.
func (d *helperDuel) irc(client netip.Addr) string {
	ip := binary.BigEndian.Uint32(client.AsSlice())
	if d.r.IntN(6) == 0 {
		ip++
	}
	kind := [...]string{"SEND file", "CHAT chat", "MOVE a", "TSEND file.txt", "SCHAT chat", "RESUME x", "ACCEPT x"}[d.r.IntN(7)]
	return [...]string{"NICK me\r\n", "PRIVMSG you :hello, how are you this fine morning?\r\n", "\r\n ", ""}[d.r.IntN(4)] +
		fmt.Sprintf("PRIVMSG you :\x01DCC %s %d %d 123456\x01\r\n", kind, ip, 1024+d.r.IntN(60000))
}

// sip returns what either side of a SIP connection may say.
func (d *helperDuel) sip(own, other netip.Addr, cseq *int, transport string) string {
	host := func(a netip.Addr) string {
		if a.Is6() {
			return "[" + a.String() + "]"
		}
		return a.String()
	}
	ip := "IP4"
	if own.Is6() {
		ip = "IP6"
	}
	media, port := own, 1024+d.r.IntN(60000)
	if d.r.IntN(6) == 0 {
		media = other
	}
	sdp := crlf("v=0", "o=a 1 1 IN "+ip+" "+own.String(), "s=-", "c=IN "+ip+" "+media.String(), "t=0 0",
		fmt.Sprintf("m=audio %d RTP/AVP 0", port), "a=rtpmap:0 PCMU/8000",
		fmt.Sprintf("m=%s %d RTP/AVP 31", [...]string{"video", "image", "audio", "application"}[d.r.IntN(4)], (port+8*d.r.IntN(3))%65536))
	if d.r.IntN(3) == 0 {
		sdp += crlf("c=IN " + ip + " " + own.String())
	}
	body := ""
	if d.r.IntN(3) > 0 {
		body = sdp
	}
	if d.r.IntN(3) == 0 {
		*cseq++
	}
	n := *cseq + d.r.IntN(8)/7
	contact := "<sip:me@" + host(own) + [...]string{"", ":5070", ":5060", ":80"}[d.r.IntN(4)] +
		[...]string{">", ";transport=" + transport + ">", ";transport=tcp>", ">;expires=60", ">;q=0.5;expires=0"}[d.r.IntN(5)]
	if d.r.IntN(4) == 0 {
		contact = `"x" <sip:you@` + host(other) + ">, " + contact
	}
	method := [...]string{"INVITE", "UPDATE", "ACK", "PRACK", "BYE", "REGISTER", "REGISTER", "INVITE", "OPTIONS", "CANCEL"}[d.r.IntN(10)]
	first := method + " sip:you@" + host(other) + " SIP/2.0"
	if d.r.IntN(2) == 0 {
		first = "SIP/2.0 " + [...]string{"100 Trying", "180 Ringing", "200 OK", "200 OK", "183 Progress", "486 Busy", "301 Moved"}[d.r.IntN(7)]
	}
	if method == "REGISTER" {
		body = ""
		if first[0] == 'S' { // the registrar grants the client's contact
			contact = "<sip:me@" + host(other) + [...]string{"", ":5070", ":5060"}[d.r.IntN(3)] + ">" + [...]string{"", ";expires=60"}[d.r.IntN(2)]
		}
	}
	lines := []string{first, "Via: SIP/2.0/" + strings.ToUpper(transport) + " " + host(own) + ":5060;branch=z", "f: <sip:me@x>", "To: <sip:you@" + host(other) + ">",
		fmt.Sprintf("CSeq: %d %s", n, method), [...]string{"Contact: ", "m: ", "contact :\t", "Contact:\r\n "}[d.r.IntN(4)] + contact}
	if d.r.IntN(2) == 0 {
		lines = append(lines, fmt.Sprintf("Expires: %d", 60*d.r.IntN(3)))
	}
	lines = append(lines, fmt.Sprintf("%s: %d", [...]string{"Content-Length", "l"}[d.r.IntN(2)], len(body)), "")
	return crlf(lines...) + body
}

// pptp returns a control message of either side.
func (d *helperDuel) pptp(fromClient bool, step int) string {
	kinds, ids := []uint16{1, 7, 10, 12, 15, 3}, func() uint16 { return uint16(1 + d.r.IntN(2)) }
	if !fromClient {
		kinds = []uint16{2, 8, 9, 11, 13, 4}
	}
	kind := kinds[min(step/2, 1)] // the usual order first
	if step >= 4 {
		kind = kinds[d.r.IntN(len(kinds))]
	}
	b := make([]byte, 12+208)
	binary.BigEndian.PutUint16(b[2:], 1)
	binary.BigEndian.PutUint32(b[4:], 0x1a2b3c4d)
	binary.BigEndian.PutUint16(b[8:], kind)
	binary.BigEndian.PutUint16(b[12:], ids())
	binary.BigEndian.PutUint16(b[14:], ids())
	b[16] = byte(1 + d.r.IntN(8)/7)
	switch kind {
	case 2, 4:
		b[12], b[14] = 1, 1
	}
	return string(b)
}

// session plays one connection with a helper.
func (d *helperDuel) session(n int) {
	d.t.Helper()
	client, server := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	kind := d.r.IntN(6)
	if d.r.IntN(4) == 0 && kind != 2 && kind != 5 {
		client, server = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	}
	if d.r.IntN(2) == 0 {
		client, server = server, client
	}
	from := netip.AddrPortFrom(client, uint16(2000+n%50000))
	cseq := 1
	for step := range 4 + d.r.IntN(20) {
		fromClient := step%2 == 0
		if d.r.IntN(5) == 0 {
			fromClient = !fromClient
		}
		var to netip.AddrPort
		var text string
		stream := true
		own, other := client, server
		if !fromClient {
			own, other = server, client
		}
		switch kind {
		case 0:
			to, text = netip.AddrPortFrom(server, 21), d.ftp(client, server, fromClient)
		case 1:
			to, stream = netip.AddrPortFrom(server, 69), false
			text = string([]byte{0, byte(d.r.IntN(7))}) + "file\x00octet\x00"
		case 2:
			to, text = netip.AddrPortFrom(server, 6667), d.irc(client)
		case 3:
			to, stream, text = netip.AddrPortFrom(server, 5060), false, d.sip(own, other, &cseq, "udp")
		case 4:
			to, text = netip.AddrPortFrom(server, 5060), d.sip(own, other, &cseq, "tcp")
			if d.r.IntN(4) == 0 {
				text += d.sip(own, other, &cseq, "tcp")
			}
		case 5:
			to, text = netip.AddrPortFrom(server, 1723), d.pptp(fromClient, step)
		}
		text = d.damage(text)
		a, b := from, to
		if !fromClient {
			a, b = to, from
		}
		switch {
		case stream && step == 0:
			d.open(from, to)
		case stream && len(text) > 0:
			d.segment(a, b, packettest.ACK|packettest.PSH, text)
		case !stream:
			d.datagram(a, b, text)
		}
		if d.r.IntN(3) == 0 {
			d.answer()
		}
	}
	if kind != 1 && kind != 3 && d.r.IntN(3) == 0 {
		// The end of the control connection, at once.
		var port uint16 = [...]uint16{21, 0, 6667, 0, 5060, 1723}[kind]
		d.segment(from, netip.AddrPortFrom(server, port), packettest.RST|packettest.ACK, "")
	}
}

// helperConfig gives both sides the helpers.
func helperConfig(t *testing.T, settings ...string) config {
	t.Helper()
	c := newConfig(t, "", settings...)
	c.rules.text4 = bytes.Join([][]byte{[]byte(helperRaw4), c.rules.text4}, nil)
	c.rules.text6 = bytes.Join([][]byte{[]byte(helperRaw6), c.rules.text6}, nil)
	var err error
	if c.settings, err = c.settings.WithHelpers(helperPorts); err != nil {
		t.Fatal(err)
	}
	return c
}

// reset begins anew on both sides.
func (d *helperDuel) reset() {
	d.t.Helper()
	if err := d.c.reset(); err != nil {
		d.t.Fatal(err)
	}
	d.c.name, d.c.pace = "helpers", newPacer(0)
	d.c.views, d.c.tainted = map[packet.Key]view{}, map[packet.Key]bool{}
	d.c.result = summary{States: map[string]int{}}
}

// Captures of real sessions: every frame as in TestHelpersAgainstKernel, without the pauses.
func TestHelperCaptures(t *testing.T) {
	need(t)
	var names []string
	for _, topic := range []string{"ftp", "ftp-active", "ftp-extended", "ftp-passive", "irc", "pptp", "sdp", "sip", "tftp"} {
		b, err := os.ReadFile(filepath.Join(data, "pcap", "topics", topic+".txt"))
		if err != nil {
			t.Skipf("no captures from outside: %v", err)
		}
		for line := range strings.Lines(string(b)) {
			file, _, _ := strings.Cut(line, "\t")
			if name := filepath.Join(data, "pcap", file); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	d := &helperDuel{t: t, c: newComparison(t, helperConfig(t, "nf_conntrack_checksum=0")), events: map[string]int{}}
	played := 0
	for _, name := range names {
		shots, err := readCapture(name, nil)
		if err != nil {
			continue // a link type that carries no Ethernet
		}
		d.reset()
		for i, s := range shots {
			p := packet.Packet{Frame: s.frame, In: s.in}
			packet.Parse(&p)
			if p.Flags&packet.Fragment != 0 || p.VLAN != 0 || p.Src.Netip().IsLoopback() {
				break // these are compared elsewhere, or not at all
			}
			if len(s.frame) >= packet.EthernetHeader {
				copy(s.frame[6:12], []byte{2, 0, 0, 0, 0, 1}) // a bridge takes no frame without a source address
			}
			if skip(s.frame, &p) == "" && p.Family != 0 {
				d.play(s.in, s.frame, fmt.Sprintf("%s, frame %d", name, i+1))
			}
		}
		played++
	}
	t.Logf("%d captures, %d frames, %d dropped by a helper, %d times something was expected, states %v", played, d.frames, d.drops, d.made, d.events)
	if d.events["RELATED"] == 0 {
		t.Error("nothing in the captures was expected")
	}
}

// Sessions of every helper, with texts that are right, wrong and damaged, and connections that are expected or not: at
// every frame the running kernel and corewire agree about verdict, state, EXPECTED and HELPER status, and about all that is
// expected; and at the end about all connections.
func TestHelpersAgainstKernel(t *testing.T) {
	need(t)
	c := newComparison(t, helperConfig(t))
	sessions := 400
	if testing.Short() {
		sessions = 60
	}
	seed := uint64(1)
	if s := os.Getenv("COREWIRE_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	d := &helperDuel{t: t, c: c, events: map[string]int{}}
	for n := range sessions {
		if n%20 == 0 {
			d.reset()
		}
		d.r, d.seq = rand.New(rand.NewPCG(seed, uint64(n))), map[string]uint32{}
		d.session(n)
		if n%20 == 19 {
			d.listing()
			if err := c.tables(); err != nil {
				t.Fatal(err)
			}
			for _, diff := range c.result.Differences {
				t.Errorf("session %d: %s\n%s", n, diff.What, diff.Detail)
			}
		}
	}
	t.Logf("%d frames, %d dropped by a helper, %d times something was expected, states %v, %d lines as conntrack prints them", d.frames, d.drops, d.made, d.events, d.listed)
	if d.events["RELATED"] < sessions/10 || d.drops < sessions/10 {
		t.Error("the sessions did not test what they should")
	}
}
