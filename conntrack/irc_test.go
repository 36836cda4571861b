package conntrack

import "testing"

func TestIRCOffer(t *testing.T) {
	for _, c := range []struct {
		text string
		want match
		addr string
		port uint16
	}{
		{"PRIVMSG nick :\x01DCC SEND file.txt 3232235777 4000 123456\x01\r\n", matchFound, "192.168.1.1", 4000},
		{"privmsg nick :\x01DCC CHAT chat 167772161 5000\x01\r\n", matchFound, "10.0.0.1", 5000},
		{"\r\n PRIVMSG nick :\x01DCC CHAT chat 167772161 5000\x01\r\n", matchFound, "10.0.0.1", 5000},
		{"PRIVMSG nick :\x01DCC TSEND f 167772161   5000\x01\n", matchFound, "10.0.0.1", 5000},
		{"PRIVMSG nick :\x01DCC MOVE f 167772161 70000 x\x01\n", matchFound, "10.0.0.1", 4464}, // wraps
		{"PRIVMSG nick :\x01DCC SCHAT chat 167772161 0\x01\n", matchFound, "10.0.0.1", 0},
		{"PRIVMSG nick :\x01DCC CHAT chat 167772161 5000\x01", matchNone, "", 0}, // no line end
		{"PRIVMSG nick :\x01DCC RESUME file 5000 100000000\x01\r\n", matchNone, "", 0},
		{"PRIVMSG nick :look: :\x01DCC CHAT chat 167772161 5000\x01\r\n", matchNone, "", 0}, // within the text
		{"PRIVMSG nick :\x01dcc CHAT chat 167772161 5000\x01\r\n", matchNone, "", 0},
		{"NOTICE nick :\x01DCC CHAT chat 167772161 5000\x01\r\n", matchNone, "", 0},
		{"PRIVMSG nick :hello, how are you today, my friend?\r\n", matchNone, "", 0},
		{"PRIVMSG n :\x01DCC CHAT", matchNone, "", 0},
		{"PRIVMSG ", matchNone, "", 0},
		{"", matchNone, "", 0},
	} {
		addr, port, m := ircOffer([]byte(c.text))
		if m != c.want || m == matchFound && (addr != addrOf(c.addr) || port != c.port) {
			t.Errorf("%q: %v, %v:%d, want %v, %s:%d", c.text, m, addr, port, c.want, c.addr, c.port)
		}
	}
}

func FuzzIRC(f *testing.F) {
	f.Add([]byte("PRIVMSG nick :\x01DCC SEND file.txt 3232235777 4000 123456\x01\r\n"))
	f.Add([]byte("\r\n PRIVMSG nick :\x01DCC SCHAT chat 167772161 5000\x01\r\n"))
	f.Add([]byte("PRIVMSG nick :\x01DCC RESUME :\x01DCC CHAT chat 167772161 5000\x01\r\n"))
	f.Add([]byte("PRIVMSG n :\x01DCC CHAT x 167772161 5000\x01\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, m := ircOffer(b); m == matchPartial {
			t.Fatal("offers are found or not")
		}
	})
}

func TestTFTPRequest(t *testing.T) {
	for text, want := range map[string]bool{
		"\x00\x01boot.img\x00octet\x00": true, "\x00\x02f\x00netascii\x00": true, "\x00\x01": true,
		"\x00\x03\x00\x01data": false, "\x00\x04\x00\x01": false, "\x00\x05\x00\x01no\x00": false, "\x01\x00": false, "\x00": false, "": false,
	} {
		if tftpRequest([]byte(text)) != want {
			t.Errorf("%q: want %v", text, want)
		}
	}
}
