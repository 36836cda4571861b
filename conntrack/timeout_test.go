package conntrack

import (
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

func withTimeouts(t testing.TB, s *Settings, list string) *Settings {
	t.Helper()
	s, err := s.WithTimeouts(list)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTimeoutDefinitions(t *testing.T) {
	s := withTimeouts(t, DefaultSettings(), " voip UDP replied 300 unreplied 10 ;; ssh tcp ESTABLISHED 86400;")
	const want = "voip udp unreplied 10 replied 300; ssh tcp established 86400"
	if s.Timeouts() != want || withTimeouts(t, s, s.Timeouts()).Timeouts() != want {
		t.Errorf("%q", s.Timeouts())
	}
	if p := s.TimeoutPolicies(); len(p) != 2 || p["voip"] != 17 || p["ssh"] != 6 {
		t.Error(p)
	}
	if s := withTimeouts(t, s, ""); s.Timeouts() != "" || *s != *DefaultSettings() {
		t.Error("policies are left")
	}
	for list, part := range map[string]string{
		"a":                              "a protocol is missing",
		"a tpc established 1":            "tcp, udp, udplite",
		"a tcp":                          "pairs",
		"a tcp established":              "pairs",
		"a udp established 3":            `no state "established" (unreplied, replied)`,
		"a tcp established 0":            "from 1 to 2147483",
		"a tcp established 2147484":      "from 1 to 2147483",
		"a tcp close 1 close 2":          "stands twice",
		"a tcp close 1; a udp replied 3": "defined twice",
		strings.Repeat("n", 32) + " icmp timeout 3": "longer than 31 bytes",
	} {
		if _, err := DefaultSettings().WithTimeouts(list); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", list, err)
		}
	}
	for _, p := range policyProtos() {
		def := DefaultSettings()
		for _, st := range p.states {
			o := withTimeouts(t, def, "x "+p.name+" "+st.name+" 77").override("x")
			if *st.field(o) != 77_000 {
				t.Errorf("%s %s", p.name, st.name)
			}
		}
	}
}

// A connection that began under a template keeps its policy; changed definitions hold from its next packet on, and the
// settings' own timeouts where the definition is gone.
func TestTimeoutPolicy(t *testing.T) {
	r := newRig(t, Config{Settings: withTimeouts(t, DefaultSettings(), "voip udp unreplied 10 replied 300; ssh tcp syn_sent 7 established 1000")})
	change := func(list string) {
		t.Helper()
		if err := r.tab.SetSettings(withTimeouts(t, DefaultSettings(), list)); err != nil {
			t.Fatal(err)
		}
	}
	left := func(src string, seconds int) {
		t.Helper()
		var out [16]Info
		n, _ := r.tab.Dump(0, out[:], r.now)
		for i := range out[:n] {
			if tu := out[i].Tuple(Original); tu.SrcPort == packettest.AP(src).Port() {
				if int(out[i].Left) != 1000*seconds {
					t.Errorf("%s: %d ms left, want %d s", src, out[i].Left, seconds)
				}
				return
			}
		}
		t.Errorf("%s is not there", src)
	}
	voip, ssh := r.tab.NewTemplate(HelperNone, "voip"), r.tab.NewTemplate(HelperNone, "ssh")
	const a, b, c, s = "192.0.2.1:1000", "192.0.2.1:2000", "192.0.2.1:3000", "198.51.100.1:5000"
	r.tab.SetTemplate(&voip)
	r.pass(udp(a, s), StateNew)
	r.tab.SetTemplate(&ssh)
	r.pass(packettest.NewTCP(packettest.AP(c), packettest.AP(s), packettest.SYN, packettest.Seq(1), packettest.Window(65000)), StateNew)
	r.tab.SetTemplate(nil)
	r.pass(udp(b, s), StateNew)
	left(a, 10)
	left(b, 30)
	left(c, 7)
	r.pass(packettest.NewTCP(packettest.AP(s), packettest.AP(c), packettest.SYN|packettest.ACK, packettest.Seq(1), packettest.Ack(2), packettest.Window(65000)), StateEstablished)
	left(c, 60) // not said by the policy
	r.pass(packettest.NewTCP(packettest.AP(c), packettest.AP(s), packettest.ACK, packettest.Seq(2), packettest.Ack(2), packettest.Window(65000)), StateEstablished)
	left(c, 1000)
	r.pass(udp(s, a), StateEstablished)
	r.after(3000)
	r.pass(udp(s, a), StateEstablished)
	left(a, 300)

	change("voip udp replied 50")
	left(a, 300)
	r.pass(udp(a, s), StateEstablished)
	left(a, 50)
	change("")
	r.pass(udp(a, s), StateEstablished)
	left(a, 120)
	change("other icmp timeout 3; voip udp replied 60")
	r.pass(udp(a, s), StateEstablished)
	left(a, 60)

	// An entry that takes the place of one with a policy has none of it.
	r.tab.Flush()
	r.pass(udp(b, s), StateNew)
	left(b, 30)
}

// A template's helper is for connections that were not expected and whose protocol it reads.
func TestTemplateHelper(t *testing.T) {
	h := newHelped(t, "")
	x := h.tab.NewTemplate(HelperFTP, "")
	h.tab.SetTemplate(&x)
	h.open(ftpClient, ftpServer, StateNew)
	h.tab.SetTemplate(nil)
	h.say(ftpServer, ftpClient, "220 ready\r\n", true)
	h.say(ftpServer, ftpClient, "227 Entering Passive Mode (198,51,100,1,200,10).\r\n", true)
	h.open("192.0.2.10:40001", "198.51.100.1:51210", StateRelated)
	h.tab.SetTemplate(&x)
	c := h.track(udp("192.0.2.1:1000", "198.51.100.1:21"))
	if h.tab.Helper(&c) != HelperNone {
		t.Error("a UDP connection got the helper ftp")
	}
	h.tab.Discard(&c)
}

// The raw table's --notrack holds for every packet: malformed ones, wrong checksums, and packets of known connections.
func TestUntracked(t *testing.T) {
	r := newRig(t, Config{})
	r.pass(udp("192.0.2.1:1000", "192.0.2.2:2000"), StateNew)
	bad := udp("192.0.2.1:1000", "192.0.2.2:2000")
	bad[len(bad)-1] ^= 1
	for _, f := range [][]byte{udp("192.0.2.2:2000", "192.0.2.1:1000"), udp("192.0.2.1:1", "192.0.2.2:2"), bad, bad[:14+20+4]} {
		p := r.parse(f)
		p.Flags |= packet.Untracked
		if c := r.tab.Track(p, r.now); c.State != StateUntracked || c.Fresh || c.Ref != 0 {
			t.Errorf("%+v", c)
		}
	}
	if r.tab.Len() != 1 {
		t.Error("an entry was made")
	}
}
