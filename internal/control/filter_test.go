package control

import (
	"net/url"
	"testing"

	"corewire/conntrack"
	"corewire/internal/packet"
)

// No query crashes the reader, and what it accepts can be asked.
func FuzzFilter(f *testing.F) {
	for _, q := range []string{"proto=tcp&src=10.0.0.0/8&dport=80&status=ASSURED&format=json", "family=6&dst=2001:db8::1&mark=0x1/0xff&state=established", "sport=-1", "icmp-type=8&icmp-code=0&id=5&format=save", "srckey=0x5&reply-port-src=7&orig-vtag=4294967295&buffer=1&events=new", "proto=tcp&set-state=close&set-timeout=5&set-status=assured&translated=1", "x=y", "src=::ffff:1.2.3.4/100"} {
		f.Add(q)
	}
	var infos [3]conntrack.Info
	infos[1].Key = packet.Key{A: packet.Addr{Lo: 0xffff_0a000001}, B: packet.Addr{Lo: 0xffff_0a000002}, APort: 1, BPort: 2, Proto: 6, Family: 4}
	infos[2].Key = packet.Key{A: packet.Addr{Hi: 1, Lo: 1}, B: packet.Addr{Hi: 1, Lo: 2}, APort: 1, BPort: 8 << 8, Proto: 1, Family: 6}
	f.Fuzz(func(t *testing.T, text string) {
		q, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		s, err := parseFilter(q)
		if err != nil {
			return
		}
		for i := range infos {
			s.admits(&infos[i])
			if line := s.appendLine(nil, &infos[i]); line[len(line)-1] != '\n' {
				t.Errorf("%q", line)
			}
		}
	})
}
