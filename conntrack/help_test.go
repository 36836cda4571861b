package conntrack

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// helped is a rig whose accepted packets go through Help, as in the dataplane.
type helped struct {
	*rig
	seq map[string]uint32 // next sequence number of each TCP sender, by "from to"
}

func newHelped(t testing.TB, helpers string, settings ...string) *helped {
	t.Helper()
	set, err := DefaultSettings().WithHelpers(helpers)
	for i := 0; err == nil && i < len(settings); i += 2 {
		set, err = set.WithText(settings[i], settings[i+1])
	}
	if err != nil {
		t.Fatal(err)
	}
	return &helped{newRig(t, Config{Settings: set}), map[string]uint32{}}
}

// frame plays a frame that the rules accept: the state, and whether the helper let it pass.
func (h *helped) frame(b []byte) (State, bool) {
	h.t.Helper()
	p := h.parse(b)
	c := h.tab.Track(p, h.now)
	if !h.tab.Help(&c, p, h.now) {
		h.tab.Discard(&c)
		return c.State, false
	}
	if c.Fresh {
		if o := h.tab.Confirm(&c, h.now); o != Confirmed {
			h.t.Fatalf("confirm: %v", o)
		}
	}
	return c.State, true
}

// segment plays a TCP segment with the right numbers. A dropped one does not count as sent.
func (h *helped) segment(from, to string, flags uint8, text string) (State, bool) {
	h.t.Helper()
	there, back := from+" "+to, to+" "+from
	opts := []packettest.Option{packettest.Seq(h.seq[there]), packettest.Payload([]byte(text)), packettest.Window(65000)}
	if flags&packettest.ACK != 0 {
		opts = append(opts, packettest.Ack(h.seq[back]))
	}
	s, ok := h.frame(packettest.NewTCP(packettest.AP(from), packettest.AP(to), flags, opts...))
	if ok {
		h.seq[there] += uint32(len(text)) + uint32(flags&packettest.SYN)/2 + uint32(flags&packettest.FIN)
	}
	return s, ok
}

// open plays a handshake; the first packet must have that state.
func (h *helped) open(client, server string, want State) {
	h.t.Helper()
	h.seq[client+" "+server], h.seq[server+" "+client] = 1000, 0xffffffc0
	if s, ok := h.segment(client, server, packettest.SYN, ""); s != want || !ok {
		h.t.Fatalf("SYN from %s to %s: %v %v, want %v", client, server, s, ok, want)
	}
	h.segment(server, client, packettest.SYN|packettest.ACK, "")
	h.segment(client, server, packettest.ACK, "")
}

// say plays text on an open connection and checks whether it passes.
func (h *helped) say(from, to, text string, want bool) {
	h.t.Helper()
	if s, ok := h.segment(from, to, packettest.ACK|packettest.PSH, text); ok != want || s != StateEstablished {
		h.t.Errorf("%q: %v, passed %v, want %v", text, s, ok, want)
	}
}

// datagram plays a UDP datagram.
func (h *helped) datagram(from, to, text string) (State, bool) {
	h.t.Helper()
	return h.frame(packettest.NewUDP(packettest.AP(from), packettest.AP(to), packettest.Payload([]byte(text))))
}

// expects checks the listing of expectations.
func (h *helped) expects(want ...string) {
	h.t.Helper()
	var out [16]ExpectInfo
	n, _ := h.tab.expect.List(0, out[:], h.now)
	var got []string
	for i := range out[:n] {
		got = append(got, string(out[i].AppendLine(nil, FormatProc)))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		h.t.Fatalf("expected\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

const (
	ftpClient  = "192.0.2.10:40000"
	ftpServer  = "198.51.100.1:21"
	ftpClient6 = "[2001:db8::10]:40000"
	ftpServer6 = "[2001:db8:1::1]:21"
)

func TestFTPPassive(t *testing.T) {
	h := newHelped(t, "ftp")
	h.open(ftpClient, ftpServer, StateNew)
	h.say(ftpServer, ftpClient, "220 ready\r\n", true)
	h.say(ftpClient, ftpServer, "PASV\r\n", true)
	h.say(ftpServer, ftpClient, "227 Entering Passive Mode (198,51,100,1,200,10).\r\n", true)
	h.expects("300 l3proto = 2 proto=6 src=192.0.2.10 dst=198.51.100.1 sport=0 dport=51210 ftp")
	// Neither another client nor another port is expected.
	if s, _ := h.segment("192.0.2.11:40001", "198.51.100.1:51210", packettest.SYN, ""); s != StateNew {
		t.Error("somebody else is expected:", s)
	}
	if s, _ := h.segment("192.0.2.10:40001", "198.51.100.1:51211", packettest.SYN, ""); s != StateNew {
		t.Error("another port is expected:", s)
	}
	h.open("192.0.2.10:40001", "198.51.100.1:51210", StateRelated)
	h.expects()
	if s, _ := h.segment("192.0.2.10:40002", "198.51.100.1:51210", packettest.SYN, ""); s != StateNew {
		t.Error("one expectation made two connections:", s)
	}
	var found bool
	buf := make([]Info, 16)
	n, _ := h.tab.Dump(0, buf, h.now)
	for i := range buf[:n] {
		o := buf[i].Tuple(Original)
		m, ok := buf[i].MasterTuple()
		if o.SrcPort == 40001 && o.DstPort == 51210 && o.Src.String() == "192.0.2.10" {
			found = true
			if !ok || m.Src.String() != "192.0.2.10" || m.SrcPort != 40000 || m.DstPort != 21 || buf[i].Status&StatusExpected == 0 {
				t.Errorf("master %+v %v, status %x", m, ok, buf[i].Status)
			}
		} else if ok {
			t.Errorf("%+v has a master", o)
		}
		if (o.DstPort == 21) != (buf[i].Helper == HelperFTP) {
			t.Errorf("%+v: helper %v", o, buf[i].Helper)
		}
	}
	if !found {
		t.Error("the data connection is not listed")
	}
	// The next announcement, and the end of the control connection takes it along.
	h.say(ftpServer, ftpClient, "229 Entering Extended Passive Mode (|||51300|)\r\n", true)
	h.expects("300 l3proto = 2 proto=6 src=192.0.2.10 dst=198.51.100.1 sport=0 dport=51300 ftp")
	h.tab.Flush()
	h.expects()
}

func TestFTPActive(t *testing.T) {
	h := newHelped(t, "ftp=21")
	h.open(ftpClient, ftpServer, StateNew)
	h.say(ftpServer, ftpClient, "220 ready\r\n", true)
	// Before a line is known to end, nothing is read: the client's first command.
	h.say(ftpClient, ftpServer, "PORT 192,0,2,10,200,9\r\n", true)
	h.expects()
	h.say(ftpClient, ftpServer, "PORT 192,0,2,10,200,10\r\n", true)
	h.expects("300 l3proto = 2 proto=6 src=198.51.100.1 dst=192.0.2.10 sport=0 dport=51210 ftp")
	h.after(1000)
	h.say(ftpClient, ftpServer, "PORT 192,0,2,10,200,11\r\n", true) // one at a time
	h.expects("300 l3proto = 2 proto=6 src=198.51.100.1 dst=192.0.2.10 sport=0 dport=51211 ftp")
	h.say(ftpClient, ftpServer, "PORT 192,0,2,99,0,22\r\n", true) // another machine
	h.expects("300 l3proto = 2 proto=6 src=198.51.100.1 dst=192.0.2.10 sport=0 dport=51211 ftp")
	h.open("198.51.100.1:20", "192.0.2.10:51211", StateRelated)

	// Split over segments: what could be the beginning is dropped until it comes whole.
	h.say(ftpClient, ftpServer, "PO", false)
	h.say(ftpClient, ftpServer, "PORT 192,0,2,10,2", false)
	h.say(ftpClient, ftpServer, "PORT 192,0,2,10,200,12\r\n", true)
	h.expects("300 l3proto = 2 proto=6 src=198.51.100.1 dst=192.0.2.10 sport=0 dport=51212 ftp")
	// Text that does not begin a line is none.
	h.say(ftpClient, ftpServer, "STOR ", true)
	h.say(ftpClient, ftpServer, "PORT 192,0,2,10,200,13\r\n", true)
	h.expects("300 l3proto = 2 proto=6 src=198.51.100.1 dst=192.0.2.10 sport=0 dport=51212 ftp")
	h.after(299_999)
	h.expects("0 l3proto = 2 proto=6 src=198.51.100.1 dst=192.0.2.10 sport=0 dport=51212 ftp")
	h.after(1)
	h.expects()
	if s, _ := h.segment("198.51.100.1:20", "192.0.2.10:51212", packettest.SYN, ""); s != StateNew {
		t.Error("an expired expectation matched")
	}
	h.after(5000) // the store is swept in some steps
	for range 3 {
		h.tab.Expire(h.now, 64)
		h.after(expectSweepStep)
	}
	if h.tab.expect.Len() != 0 {
		t.Error("an expired expectation is counted")
	}
}

func TestFTPLoose(t *testing.T) {
	h := newHelped(t, "ftp", "nf_conntrack_ftp_loose", "1")
	h.open(ftpClient, ftpServer, StateNew)
	h.say(ftpClient, ftpServer, "SYST\r\n", true)
	h.say(ftpClient, ftpServer, "PORT 192,0,2,99,0,22\r\n", true)
	h.expects("300 l3proto = 2 proto=6 src=198.51.100.1 dst=192.0.2.99 sport=0 dport=22 ftp")
}

func TestFTPv6(t *testing.T) {
	h := newHelped(t, "ftp")
	h.open(ftpClient6, ftpServer6, StateNew)
	h.say(ftpServer6, ftpClient6, "220 ready\r\n", true)
	h.say(ftpServer6, ftpClient6, "229 Entering Extended Passive Mode (|||6446|)\r\n", true)
	h.say(ftpClient6, ftpServer6, "EPSV\r\n", true)
	h.expects("300 l3proto = 10 proto=6 src=2001:0db8:0000:0000:0000:0000:0000:0010 dst=2001:0db8:0001:0000:0000:0000:0000:0001 sport=0 dport=6446 ftp")
	h.open("[2001:db8::10]:40001", "[2001:db8:1::1]:6446", StateRelated)
	h.say(ftpClient6, ftpServer6, "EPRT |2|2001:db8::10|5282|\r\n", true)
	h.open("[2001:db8:1::1]:20", "[2001:db8::10]:5282", StateRelated)
	h.expects()
}

// Without a helper nothing is read, and a helper is given to fresh connections only.
func TestSetHelper(t *testing.T) {
	h := newHelped(t, "")
	h.open(ftpClient, ftpServer, StateNew)
	h.say(ftpServer, ftpClient, "220 ready\r\n", true)
	h.say(ftpServer, ftpClient, "229 ok (|||6446|)\r\n", true)
	h.expects()
	ask := packettest.NewUDP(packettest.AP("192.0.2.10:3000"), packettest.AP("198.51.100.1:6969"), packettest.Payload([]byte("\x00\x01f\x00octet\x00")))
	p := h.parse(ask)
	c := h.tab.Track(p, h.now)
	if h.tab.SetHelper(&c, HelperFTP) || !h.tab.SetHelper(&c, HelperTFTP) || h.tab.Helper(&c) != HelperTFTP {
		t.Error("SetHelper")
	}
	if !h.tab.Help(&c, p, h.now) {
		t.Error("Help")
	}
	h.expects("300 l3proto = 2 proto=17 src=198.51.100.1 dst=192.0.2.10 sport=0 dport=3000 tftp")
	h.tab.Discard(&c) // the packet never left, so nobody is expected
	h.expects()
	c = h.tab.Track(h.parse(ask), h.now)
	h.tab.Confirm(&c, h.now)
	if h.tab.SetHelper(&c, HelperTFTP); h.tab.Helper(&c) != HelperNone {
		t.Error("a confirmed connection got a helper")
	}
}

func TestTFTP(t *testing.T) {
	h := newHelped(t, "tftp")
	const cl, sv = "[2001:db8::10]:3000", "[2001:db8:1::1]:69"
	if s, ok := h.datagram(cl, sv, "\x00\x01file\x00octet\x00"); s != StateNew || !ok {
		t.Error(s, ok)
	}
	h.after(1000)
	h.datagram(cl, sv, "\x00\x01file\x00octet\x00") // a retransmission: the time begins anew
	h.expects("300 l3proto = 10 proto=17 src=2001:0db8:0001:0000:0000:0000:0000:0001 dst=2001:0db8:0000:0000:0000:0000:0000:0010 sport=0 dport=3000 tftp")
	if s, _ := h.datagram("[2001:db8:1::1]:1234", cl, "\x00\x03\x00\x01data"); s != StateRelated {
		t.Error(s)
	}
	h.expects()
	if s, _ := h.datagram(cl, "[2001:db8:1::1]:1234", "\x00\x04\x00\x01"); s != StateEstablished {
		t.Error(s)
	}
	// The master's mark is the expected connection's.
	h.datagram(cl, sv, "\x00\x02file\x00octet\x00")
	p := h.parse(packettest.NewUDP(packettest.AP(cl), packettest.AP(sv)))
	c := h.tab.Track(p, h.now)
	h.tab.SetMark(&c, 77)
	p = h.parse(packettest.NewUDP(packettest.AP("[2001:db8:1::1]:1235"), packettest.AP(cl)))
	if c = h.tab.Track(p, h.now); c.State != StateRelated || h.tab.Mark(&c) != 77 || h.tab.MasterHelper(&c) != HelperTFTP || h.tab.Helper(&c) != HelperNone {
		t.Errorf("%v, mark %d", c.State, h.tab.Mark(&c))
	}
	// As in Linux the expectation is used up, though the rules drop the packet.
	h.tab.Discard(&c)
	h.expects()
}

func TestIRC(t *testing.T) {
	h := newHelped(t, "irc=6667", "nf_conntrack_irc_max_dcc_channels", "2", "nf_conntrack_irc_dcc_timeout", "60")
	const cl, sv = "10.0.0.1:4000", "198.51.100.1:6667"
	h.open(cl, sv, StateNew)
	for i := range 3 {
		h.say(cl, sv, fmt.Sprintf("PRIVMSG nick :\x01DCC SEND f 167772161 %d 9\x01\r\n", 5000+i), true)
		h.after(1)
	}
	h.say(cl, sv, "PRIVMSG nick :\x01DCC SEND f 167772162 6000 9\x01\r\n", true) // forged
	h.say(sv, cl, "PRIVMSG nick :\x01DCC SEND f 167772161 6001 9\x01\r\n", true) // the server's side
	h.after(997)
	h.expects("59 l3proto = 2 proto=6 src=0.0.0.0 dst=10.0.0.1 sport=0 dport=5001 irc", "59 l3proto = 2 proto=6 src=0.0.0.0 dst=10.0.0.1 sport=0 dport=5002 irc")
	h.open("203.0.113.5:999", "10.0.0.1:5002", StateRelated)
}

const (
	sipPhone = "192.0.2.10:5060"
	sipProxy = "192.0.2.1:5060"
)

func TestSIPCall(t *testing.T) {
	h := newHelped(t, "sip")
	if _, ok := h.datagram(sipPhone, sipProxy, sipInviteText); !ok {
		t.Fatal("dropped")
	}
	// The video is sent from another address than the signalling, and is not expected (sip_direct_media).
	media := []string{"180 l3proto = 2 proto=17 src=192.0.2.1 dst=192.0.2.10 sport=0 dport=49172 sip/audio",
		"180 l3proto = 2 proto=17 src=192.0.2.1 dst=192.0.2.10 sport=0 dport=49173 sip/audio"}
	h.expects(media...)
	h.datagram(sipProxy, sipPhone, crlf("SIP/2.0 100 Trying", "CSeq: 2 INVITE", ""))
	h.expects(media...)
	sdp := strings.ReplaceAll(strings.ReplaceAll(sipSDP, "192.0.2.10", "192.0.2.1"), "m=audio 49172", "m=audio 3457")
	h.datagram(sipProxy, sipPhone, crlf("SIP/2.0 200 OK", "CSeq: 2 INVITE", "")+sdp)
	media = append(media, "180 l3proto = 2 proto=17 src=192.0.2.10 dst=192.0.2.1 sport=0 dport=3456 sip/audio", "180 l3proto = 2 proto=17 src=192.0.2.10 dst=192.0.2.1 sport=0 dport=3457 sip/audio")
	h.expects(media...)
	if s, _ := h.datagram("192.0.2.1:7000", "192.0.2.10:49172", "RTP"); s != StateRelated {
		t.Error(s)
	}
	if s, _ := h.datagram("192.0.2.10:7001", "192.0.2.1:3457", "RTCP"); s != StateRelated {
		t.Error(s)
	}
	h.expects(media[1], media[2])
	// A re-INVITE replaces what was not used.
	h.datagram(sipPhone, sipProxy, strings.Replace(strings.Replace(sipInviteText, "49172", "50000", 1), "CSeq: 2", "CSeq: 3", 1))
	h.expects("180 l3proto = 2 proto=17 src=192.0.2.1 dst=192.0.2.10 sport=0 dport=50000 sip/audio", "180 l3proto = 2 proto=17 src=192.0.2.1 dst=192.0.2.10 sport=0 dport=50001 sip/audio")
	h.datagram(sipProxy, sipPhone, crlf("SIP/2.0 486 Busy here", "CSeq: 2 INVITE", "")) // late
	if h.tab.expect.Len() != 2 {
		t.Error("the answer to an older INVITE removed something")
	}
	h.datagram(sipPhone, sipProxy, crlf("BYE sip:b@192.0.2.1 SIP/2.0", "CSeq: 4 BYE", ""))
	h.expects()
	// Malformed messages are dropped.
	for _, text := range []string{crlf("INVITE sip:b@192.0.2.1 SIP/2.0", "CSeq: x", ""), crlf("SIP/2.0 abc", "CSeq: 1 INVITE", ""), strings.Replace(sipInviteText, "49172", "99", 1)} {
		if _, ok := h.datagram(sipPhone, sipProxy, text); ok {
			t.Errorf("%q passed", text)
		}
	}
	buf := make([]Info, 8)
	n, _ := h.tab.Dump(0, buf, h.now)
	for i := range buf[:n] {
		if want := uint32(3_600_000); buf[i].Helper == HelperSIP && buf[i].Left != want {
			t.Errorf("timeout %d, want %d", buf[i].Left, want)
		}
	}
}

func TestSIPRegister(t *testing.T) {
	h := newHelped(t, "sip")
	h.datagram(sipPhone, sipProxy, sipRegisterText)
	h.expects("180 l3proto = 2 proto=17 src=192.0.2.1 dst=192.0.2.10 sport=0 dport=5070 PERMANENT,INACTIVE sip/signalling")
	answer := func(code string, cseq int, contact string) string {
		return crlf("SIP/2.0 "+code, fmt.Sprintf("CSeq: %d REGISTER", cseq), "Expires: 60", "Contact: "+contact, "")
	}
	own := "<sip:bob@192.0.2.10:5070>"
	h.datagram(sipProxy, sipPhone, answer("200 OK", 9, own)) // not the answer
	h.datagram(sipProxy, sipPhone, answer("100 Trying", 1, own))
	h.expects("180 l3proto = 2 proto=17 src=192.0.2.1 dst=192.0.2.10 sport=0 dport=5070 PERMANENT,INACTIVE sip/signalling")
	h.datagram(sipProxy, sipPhone, answer("200 OK", 1, "<sip:bob@192.0.2.77>, "+own+";expires=120"))
	h.expects("120 l3proto = 2 proto=17 src=192.0.2.1 dst=192.0.2.10 sport=0 dport=5070 PERMANENT sip/signalling")
	// A call comes in: from the registrar only, as often as it likes, and with a helper of its own.
	if s, _ := h.datagram("203.0.113.9:5060", "192.0.2.10:5070", sipInviteText); s != StateNew {
		t.Error(s)
	}
	for port := range 2 {
		from := fmt.Sprintf("192.0.2.1:%d", 6000+port)
		text := strings.ReplaceAll(strings.ReplaceAll(sipInviteText, "192.0.2.10", "192.0.2.1"), "49172", fmt.Sprint(20000+10*port))
		if s, ok := h.datagram(from, "192.0.2.10:5070", text); s != StateRelated || !ok {
			t.Error(s, ok)
		}
	}
	h.expects("120 l3proto = 2 proto=17 src=192.0.2.1 dst=192.0.2.10 sport=0 dport=5070 PERMANENT sip/signalling",
		"180 l3proto = 2 proto=17 src=192.0.2.10 dst=192.0.2.1 sport=0 dport=20000 sip/audio", "180 l3proto = 2 proto=17 src=192.0.2.10 dst=192.0.2.1 sport=0 dport=20001 sip/audio",
		"180 l3proto = 2 proto=17 src=192.0.2.10 dst=192.0.2.1 sport=0 dport=20010 sip/audio", "180 l3proto = 2 proto=17 src=192.0.2.10 dst=192.0.2.1 sport=0 dport=20011 sip/audio")
	// The end of the registration.
	h.datagram(sipPhone, sipProxy, strings.NewReplacer("CSeq: 1", "CSeq: 2", "expires=600", "expires=0").Replace(sipRegisterText))
	h.datagram(sipProxy, sipPhone, crlf("SIP/2.0 200 OK", "CSeq: 2 REGISTER", ""))
	if h.tab.expect.Len() != 4 {
		t.Error("the registration is still there")
	}
}

func TestSIPStream(t *testing.T) {
	h := newHelped(t, "sip=5060")
	const cl = "192.0.2.10:33333"
	h.open(cl, sipProxy, StateNew)
	reg := strings.Replace(sipRegisterText, "<sip:bob@192.0.2.10:5070>", "<sip:bob@192.0.2.10:5070;transport=tcp>", 1)
	n := len(sipSDP)
	invite := strings.Replace(sipInviteText, "l: 151", fmt.Sprintf("l: %d", n), 1)
	h.say(cl, sipProxy, reg+invite+invite[:50], true) // two messages, and the beginning of a third
	h.expects("180 l3proto = 2 proto=6 src=192.0.2.1 dst=192.0.2.10 sport=0 dport=5070 PERMANENT,INACTIVE sip/signalling",
		"180 l3proto = 2 proto=17 src=192.0.2.1 dst=192.0.2.10 sport=0 dport=49172 sip/audio", "180 l3proto = 2 proto=17 src=192.0.2.1 dst=192.0.2.10 sport=0 dport=49173 sip/audio")
}

func TestPPTPCall(t *testing.T) {
	h := newHelped(t, "pptp")
	const cl, sv = "192.0.2.10:1025", "198.51.100.1:1723"
	h.open(cl, sv, StateNew)
	h.say(cl, sv, string(pptpText(pptpStartRequest)), true)
	h.say(sv, cl, string(pptpText(pptpStartReply, 0x100, pptpOK)), true)
	h.say(cl, sv, string(pptpText(pptpOutRequest, 0x11)), true)
	h.say(sv, cl, string(pptpText(pptpOutReply, 0x22, 0x11, pptpOK)), true)
	h.expects("300 l3proto = 2 proto=47 src=192.0.2.10 dst=198.51.100.1 srckey=0x11 dstkey=0x22 pptp", "300 l3proto = 2 proto=47 src=198.51.100.1 dst=192.0.2.10 srckey=0x22 dstkey=0x11 pptp")
	there := packettest.NewPPTP(packettest.IP("192.0.2.10"), packettest.IP("198.51.100.1"), 0x22)
	back := packettest.NewPPTP(packettest.IP("198.51.100.1"), packettest.IP("192.0.2.10"), 0x11)
	other := packettest.NewPPTP(packettest.IP("198.51.100.1"), packettest.IP("192.0.2.10"), 0x12)
	if s, _ := h.frame(there); s != StateRelated {
		t.Error(s)
	}
	h.expects() // both directions are one connection
	if s, _ := h.frame(back); s != StateEstablished {
		t.Error(s)
	}
	if s, _ := h.frame(other); s != StateNew {
		t.Error(s)
	}
	lines := strings.Join(h.lines(FormatConntrack), "\n")
	if !strings.Contains(lines, "src=192.0.2.10 dst=198.51.100.1 srckey=0x11 dstkey=0x22 src=198.51.100.1 dst=192.0.2.10 srckey=0x22 dstkey=0x11") {
		t.Error(lines)
	}
	n := h.tab.Len()
	h.say(sv, cl, string(pptpText(pptpDisconnect, 0x22)), true)
	h.tab.Expire(h.now, 64)
	if h.tab.Len() != n-1 {
		t.Errorf("%d entries, want %d: the call's connection goes with it", h.tab.Len(), n-1)
	}
	if s, _ := h.frame(there); s != StateNew {
		t.Error(s)
	}
}

func TestHelperSettings(t *testing.T) {
	d := DefaultSettings()
	s, err := d.WithHelpers(" ftp , ftp=2121,tftp=69,sip, pptp=1723,irc ")
	if err != nil || s.Helpers() != "ftp=21,ftp=2121,tftp=69,sip=5060,pptp=1723,irc=6667" || d.Helpers() != "" {
		t.Errorf("%v %q", err, s.Helpers())
	}
	if all, err := d.WithHelpers("1"); err != nil || all.Helpers() != "ftp=21,tftp=69,irc=6667,sip=5060,pptp=1723" {
		t.Error(all.Helpers(), err)
	} else if none, err := all.WithHelpers("0"); err != nil || none.Helpers() != "" {
		t.Error(none.Helpers(), err)
	}
	again, err := s.WithHelpers(s.Helpers())
	if err != nil || *again != *s {
		t.Error("the list cannot be read back", err)
	}
	for h := HelperNone + 1; h < Helpers; h++ {
		if got, err := HelperByName(h.String()); got != h || err != nil {
			t.Error(h, got, err)
		}
	}
	for _, c := range []struct {
		port  uint16
		proto uint8
		fam   uint8
		want  Helper
	}{
		{21, packet.ProtoTCP, 4, HelperFTP}, {21, packet.ProtoUDP, 4, HelperNone}, {2121, packet.ProtoTCP, 6, HelperFTP}, {69, packet.ProtoUDP, 6, HelperTFTP},
		{5060, packet.ProtoTCP, 6, HelperSIP}, {5060, packet.ProtoUDP, 4, HelperSIP}, {5060, packet.ProtoSCTP, 4, HelperNone},
		{1723, packet.ProtoTCP, 4, HelperPPTP}, {1723, packet.ProtoTCP, 6, HelperNone}, {6667, packet.ProtoTCP, 6, HelperNone}, {80, packet.ProtoTCP, 4, HelperNone},
	} {
		if got := s.helpers.find(c.port, c.proto, c.fam); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	for text, want := range map[string]string{
		"http": `helper "http" is not known`, "ftp=0": `"0" is not a port`, "ftp=x": `"x" is not a port`, "ftp=70000": "not a port",
		"ftp,ftp": "port 21 has helper ftp already", "sip,tftp=5060": "port 5060 has helper sip already",
		strings.Repeat("ftp,", 1) + func() (b string) {
			for i := range maxAssignments {
				b += fmt.Sprintf("ftp=%d,", 1000+i)
			}
			return
		}(): "more than 32 ports",
	} {
		if _, err := d.WithHelpers(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := d.WithHelpers("tftp=5060,ftp=5060"); err != nil {
		t.Error("different transports may share a port:", err)
	}
}

// Random bytes on every helper's port: no panic, and no more expectations than the policies allow.
func FuzzHelp(f *testing.F) {
	f.Add(uint8(0), []byte("220 x\r\n"), []byte("227 Entering Passive Mode (198,51,100,1,200,10).\r\n"))
	f.Add(uint8(1), []byte("\x00\x01f\x00octet\x00"), []byte("\x00\x03\x00\x01x"))
	f.Add(uint8(2), []byte("PRIVMSG nick :\x01DCC SEND f 3221225994 5000 9\x01\r\n"), []byte("x"))
	f.Add(uint8(3), []byte(sipInviteText), []byte(crlf("SIP/2.0 200 OK", "CSeq: 2 INVITE", "")+sipSDP))
	f.Add(uint8(3), []byte(sipRegisterText), []byte(crlf("SIP/2.0 200 OK", "CSeq: 1 REGISTER", "Contact: <sip:bob@192.0.2.10:5070>;expires=9", "")))
	f.Add(uint8(4), append(pptpText(pptpStartRequest), pptpText(pptpOutRequest, 1)...), pptpText(pptpOutReply, 2, 1, pptpOK))
	f.Fuzz(func(t *testing.T, which uint8, a, b []byte) {
		if len(a) > 1400 || len(b) > 1400 {
			return
		}
		h := newHelped(t, "ftp,tftp,irc,sip,pptp")
		const cl = "192.0.2.10:40000"
		switch which % 6 {
		case 1, 3:
			sv := "198.51.100.1:69"
			if which%6 == 3 {
				sv = "198.51.100.1:5060"
			}
			for range 2 {
				h.datagram(cl, sv, string(a))
				h.datagram(sv, cl, string(b))
			}
		default:
			sv := "198.51.100.1:" + [...]string{"21", "", "6667", "", "1723", "5060"}[which%6]
			h.open(cl, sv, StateNew)
			for range 2 {
				h.segment(cl, sv, packettest.ACK, string(a))
				h.segment(sv, cl, packettest.ACK, string(b))
			}
		}
		if n := h.tab.expect.Len(); n > 11 {
			t.Fatalf("%d expectations of one connection", n)
		}
		h.tab.Flush()
		if n := h.tab.expect.Len(); n != 0 {
			t.Fatalf("%d expectations without a master", n)
		}
	})
}
