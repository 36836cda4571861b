package conntrack

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"corewire/internal/packet"
)

// addrOf is the Addr of an address in text.
func addrOf(s string) packet.Addr { return packet.AddrFrom(netip.MustParseAddr(s)) }

func TestScanAddr4(t *testing.T) {
	for _, c := range []struct {
		text string
		want string // "" for none
		n    int
	}{
		{"10.1.2.3", "10.1.2.3", 8},
		{"10.1.2.3:5060", "10.1.2.3", 8},
		{"010.001.2.003 x", "10.1.2.3", 13},
		{"255.255.255.255;a", "255.255.255.255", 15},
		{"0.0.0.0\r\n", "0.0.0.0", 7},
		{"1.2.3.4z", "1.2.3.4", 7},
		{"1.2.3.4a", "", 0}, // a hexadecimal digit
		{"1.2.3.4.5", "", 0},
		{"1.2.3.256", "", 0},
		{"1.2.3", "", 0},
		{"1..2.3", "", 0},
		{".1.2.3", "", 0},
		{"1.2.3.", "", 0},
		{"", "", 0},
		{"x", "", 0},
		{"12345.1.1.1", "", 0},
	} {
		a, n := scanAddr4([]byte(c.text))
		if n != c.n || n > 0 && a != addrOf(c.want) {
			t.Errorf("%q: %v, %d, want %s, %d", c.text, a, n, c.want, c.n)
		}
	}
}

func TestScanAddr6(t *testing.T) {
	for _, text := range []string{"::", "::1", "1::", "2001:db8::1", "1:2:3:4:5:6:7:8", "fe80::a:b", "::ffff:10.0.0.1",
		"64:ff9b::192.0.2.33", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "ABCD:ef01::"} {
		for _, tail := range []string{"", "]:5060", "|", " x", "\r"} {
			a, n := scanAddr6([]byte(text + tail))
			want := netip.MustParseAddr(text)
			if n != len(text) || a.Netip6() != netip.AddrFrom16(want.As16()) {
				t.Errorf("%q: %v, %d", text+tail, a, n)
			}
		}
	}
	for _, text := range []string{"", ":", ":1", "1", "1:2", "1:2:3:4:5:6:7", "1:::2", "1::2::3", "12345::", "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3", "::1.2.3.256", "g::", "1.2.3.4"} {
		if a, n := scanAddr6([]byte(text)); n != 0 {
			t.Errorf("%q: %v, %d, want none", text, a, n)
		}
	}
}

// Random text: whatever netip reads and the scanner reads is the same; what ends the text makes no difference.
func TestScanAddrAgainstNetip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const alphabet = "0123456789abcdef::::...."
	agreed := 0
	for range 300_000 {
		var b []byte
		for range 2 + r.IntN(14) {
			b = append(b, alphabet[r.IntN(len(alphabet))])
		}
		text := string(b)
		want, err := netip.ParseAddr(text)
		a, n := scanAddr6(b)
		if n > len(b) {
			t.Fatalf("%q: length %d", text, n)
		}
		if err == nil && want.Is6() {
			if n != len(b) || a.Netip6() != netip.AddrFrom16(want.As16()) {
				t.Fatalf("%q: %v, %d; netip %v", text, a, n, want)
			}
			agreed++
		} else if n == len(b) && !strings.Contains(text, ".") { // leading zeros in a quad and long groups are the kernel's leniency
			long := false
			for g := range strings.SplitSeq(text, ":") {
				long = long || len(g) > 4
			}
			if !long {
				t.Fatalf("%q: %v; netip %v", text, a, err)
			}
		}
	}
	if agreed < 100 {
		t.Errorf("only %d addresses", agreed)
	}
}

func TestScanNumber(t *testing.T) {
	for _, c := range []struct {
		text string
		v    uint32
		n    int
	}{
		{"0", 0, 1}, {"4294967295;", 4294967295, 10}, {"4294967296", 0, 0}, {"00004294967295", 0, 0}, {"00000000001", 1, 11},
		{"000000000001", 0, 0}, {"", 0, 0}, {"x1", 0, 0}, {"17 x", 17, 2},
	} {
		if v, n := scanNumber([]byte(c.text)); v != c.v || n != c.n {
			t.Errorf("%q: %d, %d, want %d, %d", c.text, v, n, c.v, c.n)
		}
	}
}
