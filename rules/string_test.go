package rules

import (
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// TestString judges a datagram of 20 + 8 + 16 bytes by -m string; the texts' places were counted by hand.
func TestString(t *testing.T) {
	p := packet.Packet{Frame: packettest.NewUDP(packettest.AP("10.0.0.1:1"), packettest.AP("10.0.0.2:2"), packettest.Payload([]byte("aabaabaaGET /\xe4 \x00")))}
	packet.Parse(&p)
	for _, c := range []struct {
		match, save string
		want        Verdict
	}{
		{`--string "GET /" --algo bm`, `--string "GET /" --algo bm`, Accept},
		{`--algo kmp --string get`, `--string "get" --algo kmp`, Drop},
		{`--algo kmp --string get --icase`, `--string "get" --algo kmp --icase`, Accept},
		{`--algo kmp --string aabaaa --icase`, `--string "aabaaa" --algo kmp --icase`, Drop},
		{`--algo kmp --string AABAAG --icase`, `--string "AABAAG" --algo kmp --icase`, Accept},
		{`! --string GET --algo bm`, `! --string "GET" --algo bm`, Drop},
		{`--string GET --algo bm --from 36`, `--string "GET" --algo bm --from 36`, Accept},
		{`--string GET --algo bm --from 37`, `--string "GET" --algo bm --from 37`, Drop},
		{`--string GET --algo bm --to 39`, `--string "GET" --algo bm --to 39`, Accept},
		{`--string GET --algo bm --to 38`, `--string "GET" --algo bm --to 38`, Drop},
		{`--string GET --algo bm --from 60 --to 70`, `--string "GET" --algo bm --from 60 --to 70`, Drop},
		{`--string GET --algo bm --to 0`, `--string "GET" --algo bm --to 0`, Drop},
		{`--hex-string "|45 00|" --algo bm`, `--hex-string "|4500|" --algo bm`, Accept},
		{`--hex-string "T /|c4|" --algo bm --icase`, `--hex-string "|54202fc4|" --algo bm --icase`, Accept},
		{`--hex-string "|61 62|c|63|" --algo bm`, `--string "abcc" --algo bm`, Drop},
		{`--string "x\"y\\z" --algo bm`, `--string "x\"y\\z" --algo bm`, Drop},
		{`--hex-string "|2000|" --algo kmp`, `--hex-string "|2000|" --algo kmp`, Accept},
	} {
		f, err := Parse("string", []byte("*filter\n:FORWARD DROP\n-A FORWARD -m string "+c.match+" -j ACCEPT\nCOMMIT\n"), Both)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(f.Tables[0].Chains[0].Rules[0].Matches[0].AppendSave(nil)); got != " "+c.save {
			t.Errorf("%s prints as%s, want %s", c.match, got, c.save)
		}
		rs, err := Compile([]*File{f}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := rs.NewMatcher()
		if r := m.Match(&p, &Context{State: New}); r.Verdict != c.want || r.Cacheable() {
			t.Errorf("%s: %v, cacheable %v", c.match, r.Verdict, r.Cacheable())
		}
		if n := testing.AllocsPerRun(10, func() { m.Match(&p, &Context{State: New}) }); n != 0 {
			t.Errorf("%s: %v allocations", c.match, n)
		}
	}
	for _, s := range []string{"", "--string a", "--algo bm", `--string "" --algo bm`, "--string a --algo fsm", "--string a --hex-string b --algo bm",
		`--hex-string "|zz|" --algo bm`, `--hex-string "|6|" --algo bm`, `--hex-string "|61" --algo bm`, "--string a --algo bm --to 65536", "--string a --algo bm --from 9 --to 5"} {
		if _, err := Parse("string", []byte("*filter\n-A FORWARD -m string "+s+" -j ACCEPT\nCOMMIT\n"), Both); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}
