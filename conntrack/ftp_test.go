package conntrack

import (
	"testing"

	"corewire/internal/packet"
)

// What the examples of RFC 959, 1123 and 2428, of real servers, and of broken ones announce.
func TestFTPAnnounced(t *testing.T) {
	const own4, own6 = "192.0.2.1", "2001:db8::1"
	for _, c := range []struct {
		dir    Dir
		family uint8
		text   string
		want   match
		addr   string
		port   uint16
	}{
		{Original, 4, "PORT 192,168,1,2,7,138\r\n", matchFound, "192.168.1.2", 1930},
		{Original, 4, "port 10,0,0,1,0,20\r\n", matchFound, "10.0.0.1", 20},
		{Original, 4, "PORT   10,0,0,1,0,20\r\n", matchPartial, "", 0}, // one space, as in the kernel
		{Original, 4, "PORT 10,0,0,1,0,20\n", matchPartial, "", 0},     // the line ends with CR
		{Original, 4, "PORT 10,0,0,1,0\r\n", matchPartial, "", 0},
		{Original, 4, "PORT 10,0,0,1,0,20", matchPartial, "", 0}, // cut off
		{Original, 4, "PORT 10,0,0,1,0,20,3\r\n", matchPartial, "", 0},
		{Original, 4, "PORT", matchPartial, "", 0},
		{Original, 4, "PO", matchPartial, "", 0},
		{Original, 4, "E", matchPartial, "", 0},
		{Original, 4, "PORTX", matchPartial, "", 0},
		{Original, 4, "PASV\r\n", matchNone, "", 0},
		{Original, 4, "PWD\r\n", matchNone, "", 0},
		{Original, 4, " PORT 10,0,0,1,0,20\r\n", matchNone, "", 0},
		{Original, 4, "227 (10,0,0,1,0,20)\r\n", matchNone, "", 0}, // the server's word
		{Original, 4, "EPRT |1|132.235.1.2|6275|\r\n", matchFound, "132.235.1.2", 6275},
		{Original, 4, "eprt !1!132.235.1.2!6275!\r\n", matchFound, "132.235.1.2", 6275},
		{Original, 4, "EPRT |2|2001:db8::2|6275|\r\n", matchPartial, "", 0}, // the other family
		{Original, 4, "EPRT |1|132.235.1.2|0|\r\n", matchPartial, "", 0},
		{Original, 4, "EPRT |1|132.235.1.2|62x|\r\n", matchPartial, "", 0},
		{Original, 4, "EPRT 111132.235.1.2162751\r\n", matchPartial, "", 0}, // a digit as delimiter
		{Original, 6, "EPRT |2|1080::8:800:200C:417A|5282|\r\n", matchFound, "1080::8:800:200c:417a", 5282},
		{Original, 6, "EPRT |1|132.235.1.2|6275|\r\n", matchPartial, "", 0},
		{Original, 6, "EPRT |2|1080::8:800:200C:417A|5282", matchPartial, "", 0},
		{Reply, 4, "227 Entering Passive Mode (192,168,1,2,7,138).\r\n", matchFound, "192.168.1.2", 1930},
		{Reply, 4, "227 Entering passive mode. 192,168,1,2,7,138\r\n", matchFound, "192.168.1.2", 1930},
		{Reply, 4, "227 =192,168,1,2,7,138\r\n", matchFound, "192.168.1.2", 1930},
		{Reply, 4, "227 192,168,1,2,7,138", matchPartial, "", 0},
		{Reply, 4, "227 no numbers\r\n", matchPartial, "", 0},
		{Reply, 4, "227 (1,2,3)\r\n", matchPartial, "", 0},
		{Reply, 4, "227-Entering (192,168,1,2,7,138)\r\n", matchNone, "", 0}, // not the last line of the reply
		{Reply, 4, "226 Transfer complete\r\n", matchNone, "", 0},
		{Reply, 4, "22", matchPartial, "", 0},
		{Reply, 4, "229 Entering Extended Passive Mode (|||6446|)\r\n", matchFound, own4, 6446},
		{Reply, 6, "229 Entering Extended Passive Mode (|||6446|)\r\n", matchFound, own6, 6446},
		{Reply, 6, "229 ok (!!!6446!)\r\n", matchFound, own6, 6446},
		{Reply, 6, "229 ok (|||6446)\r\n", matchPartial, "", 0},
		{Reply, 6, "229 ok (||6446|)\r\n", matchPartial, "", 0},
		{Reply, 6, "229 ok |||6446|\r\n", matchPartial, "", 0},
		{Reply, 6, "229 ok (", matchPartial, "", 0},
		{Reply, 6, "PORT 10,0,0,1,0,20\r\n", matchNone, "", 0}, // the client's word
	} {
		own := addrOf(own4)
		if c.family == 6 {
			own = addrOf(own6)
		}
		addr, port, m := ftpAnnounced([]byte(c.text), c.dir, c.family, own)
		if m != c.want || m == matchFound && (addr != addrOf(c.addr) || port != c.port) {
			t.Errorf("%v %q: %v, %v:%d, want %v, %s:%d", c.dir, c.text, m, addr, port, c.want, c.addr, c.port)
		}
	}
}

// A line begins where one ended; two such places are remembered, older ones do not come back.
func TestFTPLines(t *testing.T) {
	var s ftpState
	if s.begins(Original, 100) {
		t.Error("nothing is known yet")
	}
	s.ends(Original, 100)
	s.ends(Original, 150)
	s.ends(Original, 150)
	if !s.begins(Original, 100) || !s.begins(Original, 150) || s.begins(Reply, 100) || s.begins(Original, 101) {
		t.Errorf("%+v", s)
	}
	s.ends(Original, 90) // a retransmission of old text
	s.ends(Original, 200)
	if s.begins(Original, 90) || s.begins(Original, 100) || !s.begins(Original, 150) || !s.begins(Original, 200) {
		t.Errorf("%+v", s)
	}
	w := ftpState{line: [2][ftpLines]uint32{{0xfffffff0, 0xfffffff8}}, known: [2]uint8{2}}
	w.ends(Original, 4) // beyond the wrap
	if !w.begins(Original, 4) || !w.begins(Original, 0xfffffff8) || w.begins(Original, 0xfffffff0) {
		t.Errorf("%+v", w)
	}
	s.pickup[Reply] = 1
	if !s.begins(Reply, 7) || s.begins(Reply, 7) {
		t.Error("a pickup counts once")
	}
}

func FuzzFTP(f *testing.F) {
	for _, s := range []string{"PORT 192,168,1,2,7,138\r\n", "EPRT |1|132.235.1.2|6275|\r\n", "EPRT |2|1080::8:800:200C:417A|5282|\r\n",
		"227 Entering Passive Mode (192,168,1,2,7,138).\r\n", "229 Entering Extended Passive Mode (|||6446|)\r\n", "PO", "EPRT |1|1.2.3.4|", "227 ", "229 ("} {
		f.Add([]byte(s), uint8(0))
		f.Add([]byte(s), uint8(1))
		f.Add([]byte(s), uint8(2))
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, how uint8) {
		dir, family := Dir(how&1), 4+how&2
		own := packet.Addr{Hi: 1, Lo: 2}
		addr, _, m := ftpAnnounced(b, dir, family, own)
		if m > matchPartial || m == matchFound && dir == Reply && family == 6 && b[2] == '9' && addr != own {
			t.Fatalf("%q: %v %v", b, addr, m)
		}
		// What is found in a text is found in the same text with more behind it.
		if m == matchFound {
			long := append(append([]byte(nil), b...), "\r\n"...)
			if a2, _, m2 := ftpAnnounced(long, dir, family, own); m2 != matchFound || a2 != addr {
				t.Fatalf("%q: %v %v, with a line end %v %v", b, addr, m, a2, m2)
			}
		}
	})
}
