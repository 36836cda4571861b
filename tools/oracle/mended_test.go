package main

import (
	"bytes"
	"fmt"
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/rules"
)

// mended are rules and frames of which the two sides once made not the same.
var mended = []struct {
	name   string
	family rules.Family
	rules  string // in FORWARD of the table filter, but for those that say another table
	frames func() [][]byte
}{
	{
		"a negated match about chunks that are cut off counts and drops", rules.IPv4,
		"-A FORWARD -p sctp -m sctp ! --chunk-types any DATA -j LOG\n-A FORWARD -p sctp -m sctp ! --chunk-types only INIT -m ttl --ttl-gt 200 -j ACCEPT\n-A FORWARD\n",
		func() (list [][]byte) {
			a, b := pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:2")
			init := pt.SCTPChunk(1, 0, make([]byte, 16))
			empty := append(bytes.Clone(init), 0, 3, 0, 0)
			for _, ttl := range []uint8{9, 255} {
				list = append(list, pt.NewSCTP(a, b, 0, init, pt.TTL(ttl)), pt.NewSCTP(a, b, 0, empty, pt.TTL(ttl)), pt.NewSCTP(a, b, 0, empty[:len(empty)-2], pt.TTL(ttl)))
			}
			return list
		},
	},
	{
		"a routing header is looked for behind one that is cut off", rules.IPv6,
		"-A FORWARD -m hl --hl-lt 9 -j ACCEPT\n-A FORWARD -m rt ! --rt-type 5 -j ACCEPT\n-A FORWARD\n",
		func() (list [][]byte) {
			a, b := pt.IP("2001:db8::1"), pt.IP("2001:db8::2")
			for _, proto := range []uint8{0, 43, 44, 51, 60} {
				for n := range 30 {
					list = append(list, pt.NewIP(a, b, proto, pt.Payload(append([]byte{proto, 1}, make([]byte, n)...)[:n])))
				}
			}
			for n := range 9 {
				list = append(list, pt.NewIP(a, b, 17, pt.ExtHeader(51, []byte{43, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}), pt.ExtHeader(43, append([]byte{0, 5}, make([]byte, n)...))))
			}
			return list
		},
	},
	{
		"an atomic fragment whose headers lead nowhere is a datagram", rules.IPv6,
		"*raw\n-A PREROUTING\nCOMMIT\n*filter\n-A FORWARD -m frag\n-A FORWARD -m length --length 50\n",
		func() (list [][]byte) {
			for n := range 12 {
				for _, proto := range []uint8{0, 43, 51, 59, 60, 6, 17} {
					list = append(list, pt.NewIP(pt.IP("2001:db8::1"), pt.IP("2001:db8::2"), proto, pt.AtomicFragment(uint32(n+1)<<8|uint32(proto)), pt.Payload([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}[:n])))
				}
			}
			return list
		},
	},
	{
		"a connection that a reset ends is still confirmed", rules.IPv4,
		"-A FORWARD -m conntrack --ctstatus CONFIRMED\n-A FORWARD -m conntrack ! --ctstatus CONFIRMED\n-A FORWARD -m conntrack --ctexpire 1:500\n",
		func() [][]byte {
			a, b, c := pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:2"), pt.AP("10.0.0.3:3")
			return [][]byte{
				pt.NewTCP(a, b, pt.SYN, pt.Seq(9)), pt.NewTCP(a, b, pt.RST, pt.Seq(10)),
				pt.NewTCP(a, c, pt.SYN, pt.Seq(9)), pt.NewTCP(c, a, pt.RST|pt.ACK, pt.Ack(10)), pt.NewTCP(c, a, pt.RST|pt.ACK, pt.Ack(10)),
			}
		},
	},
	{
		"of a later fragment that nobody puts together ecn and tcpmss read the IP header", rules.IPv6,
		"-A FORWARD -p tcp -m ecn --ecn-tcp-cwr\n-A FORWARD -p tcp -m ecn ! --ecn-tcp-ece\n-A FORWARD -m hl --hl-lt 9 -j ACCEPT\n-A FORWARD -p tcp -m tcpmss ! --mss 1\n-A FORWARD\n",
		func() (list [][]byte) {
			for _, ttl := range []uint8{3, 64} {
				for _, src := range []string{"2001:db8::1", "2001:db8:50c0::1", "2001:db8:6040::1", "2001:db8:f080::1"} {
					// The first header is of an atomic fragment, and only that is taken out.
					list = append(list, pt.NewIP(pt.IP(src), pt.IP("2001:db8::2"), 6, pt.TTL(ttl), pt.AtomicFragment(7), pt.FragmentHeader(8, true, 8), pt.PayloadLen(24)))
				}
			}
			return list
		},
	},
	{
		"a negated range of one number is that number", rules.IPv4,
		"-A FORWARD -m connbytes ! --connbytes 1:1 --connbytes-mode packets --connbytes-dir reply\n-A FORWARD -m connbytes ! --connbytes 2:2 --connbytes-mode packets --connbytes-dir original\n",
		func() (list [][]byte) {
			a, b := pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:2")
			for range 3 {
				list = append(list, pt.NewUDP(a, b), pt.NewUDP(b, a))
			}
			return list
		},
	},
	{
		"who comes to connlimit twice before it is confirmed counts twice", rules.IPv4,
		"*filter\n:u - [0:0]\n-A FORWARD -j u\n-A FORWARD -j u\n-A u -m connlimit --connlimit-above 1\n-A u -m connlimit --connlimit-above 2 -j ACCEPT\n",
		func() (list [][]byte) {
			for k := range uint16(3) {
				list = append(list, pt.NewUDP(pt.AP(fmt.Sprintf("10.0.0.%d:1", k+1)), pt.AP("10.0.0.9:9")))
			}
			return list
		},
	},
	{
		"127.255.255.255 is a broadcast address", rules.IPv4,
		"-A FORWARD -m addrtype --dst-type LOCAL\n-A FORWARD -m addrtype --dst-type BROADCAST\n-A FORWARD -m addrtype --dst-type UNICAST --limit-iface-in\n",
		func() (list [][]byte) {
			for _, a := range []string{"127.0.0.0:9", "127.0.0.1:9", "127.255.255.254:9", "127.255.255.255:9", "128.0.0.0:9"} {
				list = append(list, pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP(a)))
			}
			return list
		},
	},
}

// Differences that were found and mended do not come back.
func TestMended(t *testing.T) {
	j := newTestJudges(t)
	for _, m := range mended {
		t.Run(m.name, func(t *testing.T) {
			x := &trial{name: "mended", text: m.rules, family: m.family}
			if x.text[0] != '*' {
				x.text = "*filter\n" + x.text
			}
			x.text += "COMMIT\n"
			in := packet.Inside
			first := packet.Packet{}
			for i, f := range m.frames() {
				p := parsed(f)
				if i == 0 {
					first = *p
				}
				in = packet.Inside
				if p.Dst == first.Src {
					in = packet.Outside
				}
				x.frames = append(x.frames, shot{in: in, frame: f})
			}
			r, err := j.run(x)
			if err != nil {
				t.Fatal(err)
			}
			if r.difference != nil {
				t.Error(x.describe(r.difference))
			}
			if r.hits == 0 {
				t.Error("no rule counted anything")
			}
			t.Logf("%d frames, %d counts", r.pairs, r.hits)
		})
	}
}

// A text that two fragments of a datagram share is found here by both algorithms, in Linux by kmp alone: bm begins anew in
// every piece of the packet (bm_find, lib/ts_bm.c). Generated frames have none for bm.
func TestSharedText(t *testing.T) {
	j := newTestJudges(t)
	var frames []shot
	for _, f := range pt.Fragments(pt.NewUDP(pt.AP("10.0.0.1:1"), pt.AP("10.0.0.2:2"), pt.Payload([]byte("abcdefghijklmnopqrst"))), 1, 24) {
		frames = append(frames, shot{in: packet.Inside, frame: f})
	}
	for _, x := range []struct {
		algo, text string
		differ     bool
	}{{"kmp", "cdef", false}, {"kmp", "opqr", false}, {"bm", "cdef", false}, {"bm", "opqr", true}} {
		rule := fmt.Sprintf("-A FORWARD -m string --algo %s --string %s\n", x.algo, x.text)
		r, err := j.run(&trial{name: "shared text", family: rules.IPv4, text: "*filter\n" + rule + "COMMIT\n", frames: frames})
		if err != nil {
			t.Fatal(err)
		}
		if (r.difference != nil) != x.differ || !x.differ && r.hits != 1 {
			t.Errorf("%s%d packets counted, difference %+v", rule, r.hits, r.difference)
		}
	}
}
