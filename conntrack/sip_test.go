package conntrack

import (
	"strings"
	"testing"

	"corewire/internal/packet"
)

// crlf makes a message of lines.
func crlf(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n" }

// sipRegisterText, sipInviteText and sipSDP are messages of a client at 192.0.2.10, after RFC 3665.
var (
	sipRegisterText = crlf("REGISTER sip:192.0.2.1 SIP/2.0",
		"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKnashds7",
		"Max-Forwards: 70",
		"From: Bob <sip:bob@192.0.2.1>;tag=a73kszlfl",
		"To: Bob <sip:bob@192.0.2.1>",
		"Call-ID: 1j9FpLxk3uxtm8tn@192.0.2.10",
		"CSeq: 1 REGISTER",
		"Contact: <sip:bob@192.0.2.10:5070>;expires=600",
		"Content-Length: 0", "")
	sipSDP = crlf("v=0",
		"o=alice 2890844526 2890844526 IN IP4 192.0.2.10",
		"s=-",
		"c=IN IP4 192.0.2.10",
		"t=0 0",
		"m=audio 49172 RTP/AVP 0",
		"a=rtpmap:0 PCMU/8000",
		"m=video 49174 RTP/AVP 31",
		"c=IN IP4 192.0.2.11",
		"m=application 9 UDP 0",
		"m=image 0 udptl t38")
	sipInviteText = crlf("INVITE sip:bob@192.0.2.1 SIP/2.0",
		"v: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK74bf9",
		"f: Alice <sip:alice@192.0.2.10>;tag=9fxced76sl",
		"t: Bob <sip:bob@192.0.2.1>",
		"i: 3848276298220188511@192.0.2.10",
		"CSeq: 2 INVITE",
		"m: <sip:alice@192.0.2.10:5060;transport=udp>",
		"c: application/sdp",
		"l: 151", "") + sipSDP
)

func TestSIPStart(t *testing.T) {
	for _, c := range []struct {
		text string
		want sipStart
		r    match
	}{
		{sipRegisterText, sipStart{sipRegister, 0, 1}, matchFound},
		{sipInviteText, sipStart{sipInvite, 0, 2}, matchFound},
		{crlf("SIP/2.0 200 OK", "CSeq: 7 INVITE", ""), sipStart{sipInvite, 200, 7}, matchFound},
		{crlf("SIP/2.0 180 Ringing", "CSEQ :\t 4294967295   INVITE", ""), sipStart{sipOther, 180, 4294967295}, matchFound}, // one space, as in the kernel
		{crlf("sip/2.0 486 Busy", "cseq: 9 update", ""), sipStart{sipUpdate, 486, 9}, matchFound},
		{crlf("SIP/2.0 200 OK", "CSeq: 3 BYE", ""), sipStart{sipOther, 200, 3}, matchFound},
		{crlf("SIP/2.0 200 OK", "CSeq:", " 8 REGISTER", ""), sipStart{sipRegister, 200, 8}, matchFound}, // continued
		{crlf("SIP/2.0 200 OK", "Via: x", ""), sipStart{}, matchPartial},                                // no CSeq
		{crlf("SIP/2.0 OK 200", "CSeq: 3 BYE", ""), sipStart{}, matchPartial},
		{crlf("SIP/2.0 200 OK", "CSeq: x BYE", ""), sipStart{}, matchPartial},
		{crlf("BYE sip:bob@192.0.2.1 SIP/2.0", "CSeq: 12345678901234 BYE", ""), sipStart{}, matchPartial},
		{crlf("BYE sip:bob@192.0.2.1 SIP/2.0", "CSeq: 12 BYE", ""), sipStart{sipBye, 0, 12}, matchFound},
		{crlf("PRACK sip:bob@192.0.2.1 SIP/2.0", "CSeq: 12 PRACK", ""), sipStart{sipPrack, 0, 12}, matchFound},
		{crlf("ACK  sip:bob@192.0.2.1 SIP/2.0", "CSeq: 12 ACK", ""), sipStart{}, matchNone}, // two spaces
		{crlf("OPTIONS sip:bob@192.0.2.1 SIP/2.0", "CSeq: 12 OPTIONS", ""), sipStart{}, matchNone},
		{"\r\n\r\n\r\n\r\n\r\n\r\n", sipStart{}, matchNone},
	} {
		m := sipMessage{[]byte(c.text), 4}
		if s, r := m.start(); s != c.want && r != matchPartial || r != c.r {
			t.Errorf("%q: %+v %v, want %+v %v", c.text, s, r, c.want, c.r)
		}
	}
}

func TestSIPContacts(t *testing.T) {
	type contact struct {
		addr string
		port uint16
	}
	for _, c := range []struct {
		family uint8
		text   string
		want   []contact
		r      match // at the end
	}{
		{4, sipRegisterText, []contact{{"192.0.2.10", 5070}}, matchNone},
		{4, sipInviteText, []contact{{"192.0.2.10", 5060}}, matchNone},
		{4, crlf("x", `Contact: "Mr. Watson" <sip:watson@192.0.2.3:5065>;q=0.7, <sip:192.0.2.4>,<sip:home@192.0.2.5:1024>`, "m:sip:192.0.2.6:5061;a"),
			// The kernel looks for a user up to the end of the line, and so passes over an address without one.
			[]contact{{"192.0.2.3", 5065}, {"192.0.2.5", 1024}, {"192.0.2.6", 5061}}, matchNone},
		{4, crlf("x", "Contact:", " <sip:a@192.0.2.3>,", "\t<sip:b@192.0.2.4>", ""), []contact{{"192.0.2.3", 5060}, {"192.0.2.4", 5060}}, matchNone},
		{4, crlf("x", "Contact: <sip:a@host.example>, <sip:b@192.0.2.4>", "Contact: *", "contact: <SIP:192.0.2.5:6000>", ""), []contact{{"192.0.2.5", 6000}}, matchNone}, // the first of a header must be numeric
		{4, crlf("x", "Contact: <sip:a@192.0.2.3:80>", ""), nil, matchNone},                                                                                              // a port that is not expected
		{4, crlf("x", "Contact: <sip:a@192.0.2.3:99999>", ""), nil, matchNone},
		{4, crlf("x", "Contact: <sip:a@192.0.2.3:123456>", ""), nil, matchNone},
		{4, crlf("x", "Contact <sip:a@192.0.2.3>", ""), nil, matchNone},
		{4, "x\nContact: <sip:a@192.0.2.3>\n", []contact{{"192.0.2.3", 5060}}, matchNone},
		{4, "x\r\nContact: <sip:a@192.0.2.3", nil, matchNone}, // the end of the message is not the end of an address
		{6, crlf("x", "Contact: <sip:a@[2001:db8::3]:5070>, <sip:[2001:db8::4]>", ""), []contact{{"2001:db8::3", 5070}, {"2001:db8::4", 5060}}, matchNone},
		{6, crlf("x", "Contact: <sip:a@2001:db8::3>", "Contact: <sip:a@[2001:db8::3>", "Contact: <sip:a@192.0.2.3>", ""), nil, matchNone},
	} {
		m := sipMessage{[]byte(c.text), c.family}
		var w sipWalk
		var got []contact
		r := matchFound
		for r == matchFound && len(got) < 9 {
			var addr packet.Addr
			var port uint16
			if addr, port, _, r = w.contact(&m); r == matchFound {
				got = append(got, contact{addr.String(), port})
			}
		}
		ok := len(got) == len(c.want) && r == c.r
		for i := range min(len(got), len(c.want)) {
			ok = ok && got[i] == c.want[i]
		}
		if !ok {
			t.Errorf("%q: %v %v, want %v %v", c.text, got, r, c.want, c.r)
		}
	}
}

func TestSIPParameters(t *testing.T) {
	for _, c := range []struct {
		text    string // of a Contact, behind the address
		expires uint32
		r       match
		udp     bool // the transport is that of a UDP connection
	}{
		{";expires=60\r\n", 60, matchFound, true},
		{">;q=1;EXPIRES=60;transport=udp\r\n", 60, matchFound, true},
		{";transport=TCP>;expires=\r\n", 0, matchPartial, false},
		{";transport=sctp>\r\n", 0, matchNone, false},
		{">, <sip:1.2.3.4>;expires=60\r\n", 0, matchNone, true}, // another's
		{">\r\n ;expires=60\r\n", 60, matchFound, true},
		{">\r\nExpires=60\r\n", 0, matchNone, true},
		{"", 0, matchNone, true},
	} {
		m := sipMessage{[]byte(c.text), 4}
		n, r := m.expires(0)
		if n != c.expires || r != c.r || m.transport(0, packet.ProtoUDP) != c.udp {
			t.Errorf("%q: expires %d %v, UDP %v", c.text, n, r, m.transport(0, packet.ProtoUDP))
		}
	}
}

func TestSDP(t *testing.T) {
	type stream struct {
		addr  string
		port  uint16
		class uint8
	}
	head := crlf("INVITE sip:b@192.0.2.1 SIP/2.0", "CSeq: 1 INVITE", "")
	for _, c := range []struct {
		family uint8
		text   string
		want   []stream
		r      match
	}{
		{4, sipInviteText, []stream{{"192.0.2.10", 49172, sipAudio}, {"192.0.2.11", 49174, sipVideo}}, matchNone},
		{4, sipRegisterText, nil, matchNone},
		{4, head + crlf("v=0", "m=audio 4000 RTP/AVP 0"), nil, matchPartial}, // no address
		{4, head + crlf("v=0", "c=IN IP4 host.example", "m=audio 4000 RTP/AVP 0"), nil, matchPartial},
		{4, head + crlf("v=0", "c=IN IP4 192.0.2.1", "m=audio 80 RTP/AVP 0"), nil, matchPartial},
		{4, head + crlf("v=0", "c=IN IP4 192.0.2.1", "m=audio 70000 RTP/AVP 0"), nil, matchPartial},
		{4, head + crlf("v=0", "m=audio 4000 RTP/AVP 0", "c=IN IP4 192.0.2.1"), []stream{{"192.0.2.1", 4000, sipAudio}}, matchNone},
		{4, head + crlf("c=IN IP4 192.0.2.1", "m=audio 4000 RTP/AVP 0"), nil, matchNone}, // no version line
		{4, head + crlf("v=0", "c=IN IP4 192.0.2.1", "m=audio 0 RTP/AVP 0", "m=video 4002/2 RTP/AVP 0", "m=text 4004 x", "m=audio4006", "m=audio 4008 x"),
			[]stream{{"192.0.2.1", 4002, sipVideo}}, matchNone}, // ends at the malformed one
		{4, head + strings.Repeat(crlf("v=0", "c=IN IP4 192.0.2.1", "m=audio 4000 x"), 5), []stream{{"192.0.2.1", 4000, sipAudio}, {"192.0.2.1", 4000, sipAudio}, {"192.0.2.1", 4000, sipAudio}}, matchNone},
		{6, head + crlf("v=0", "c=IN IP6 2001:db8::1", "m=audio 4000 RTP/AVP 0"), []stream{{"2001:db8::1", 4000, sipAudio}}, matchNone},
		{6, head + crlf("v=0", "c=IN IP4 192.0.2.1", "m=audio 4000 RTP/AVP 0"), nil, matchPartial},
	} {
		m := sipMessage{[]byte(c.text), c.family}
		var got []stream
		r := matchNone
		var w sdpWalk
		if w.begin(&m) {
			for r = matchFound; r == matchFound && len(got) < 9; {
				var s sdpStream
				if s, r = w.next(&m); r == matchFound {
					got = append(got, stream{s.addr.String(), s.port, s.class})
				}
			}
		}
		ok := len(got) == len(c.want) && r == c.r
		for i := range min(len(got), len(c.want)) {
			ok = ok && got[i] == c.want[i]
		}
		if !ok {
			t.Errorf("%q: %v %v, want %v %v", c.text, got, r, c.want, c.r)
		}
	}
}

func TestSIPNext(t *testing.T) {
	bye := crlf("BYE sip:b@192.0.2.1 SIP/2.0", "CSeq: 1 BYE", "Content-Length: 0", "")
	body := crlf("INVITE sip:b@192.0.2.1 SIP/2.0", "CSeq: 1 INVITE", "l: 4", "") + "body"
	for _, c := range []struct {
		text string
		want int
	}{
		{bye, len(bye)}, {bye + bye, len(bye)}, {body, len(body)}, {body + bye, len(body)},
		{body[:len(body)-1], 0}, {bye[:len(bye)-2], 0},
		{crlf("BYE sip:b@192.0.2.1 SIP/2.0", "CSeq: 1 BYE", ""), 0}, // no length
		{crlf("BYE sip:b@192.0.2.1 SIP/2.0", "Content-Length: 4294967295", ""), 0},
		{crlf("BYE sip:b@192.0.2.1 SIP/2.0", "Content-Length: x", ""), 0},
	} {
		if n := sipNext([]byte(c.text), 4); n != c.want {
			t.Errorf("%q: %d, want %d", c.text, n, c.want)
		}
	}
}

func FuzzSIP(f *testing.F) {
	for _, s := range []string{sipRegisterText, sipInviteText, crlf("SIP/2.0 200 OK", "CSeq: 7 REGISTER", "Expires: 60", "Contact: <sip:a@1.2.3.4>, <sip:b@5.6.7.8:5070>;expires=9", "Content-Length: 0", ""),
		crlf("BYE sip:b@192.0.2.1 SIP/2.0", "CSeq: 1 BYE", "Content-Length: 0", ""), "x\nContact\r\n :\r\n sip:a@\r\n,sip:1.2.3.4"} {
		f.Add([]byte(s), uint8(0))
		f.Add([]byte(strings.ReplaceAll(s, "192.0.2.10", "2001:db8::1")), uint8(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, how uint8) {
		m := sipMessage{b, 4 + how&1*2}
		inside := func(v span) {
			if v.at < 0 || v.n < 0 || v.at+v.n > len(b) {
				t.Fatalf("%q: %+v", b, v)
			}
		}
		m.start()
		for h := sipCSeq; h <= sipContentLength; h++ {
			if v, r := m.header(0, h); r == matchFound {
				inside(v)
			}
			m.number(h)
		}
		var w sipWalk
		for at := -1; ; {
			_, _, v, r := w.contact(&m)
			if r != matchFound {
				break
			}
			if inside(v); v.at <= at {
				t.Fatalf("%q: no progress at %d", b, at)
			}
			at = v.at
			m.expires(v.at + v.n)
			m.transport(v.at+v.n, packet.ProtoTCP)
		}
		var d sdpWalk
		if d.begin(&m) {
			for {
				if _, r := d.next(&m); r != matchFound {
					break
				}
			}
		}
		if n := sipNext(b, m.family); n < 0 || n > len(b) {
			t.Fatalf("%q: %d", b, n)
		}
	})
}
