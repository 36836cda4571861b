package rules

import (
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// Targets that change a packet or a mark, and the rarer matches, allocate nothing.
func TestEffectsAllocateNothing(t *testing.T) {
	const text = `*mangle
-A PREROUTING -p tcp --syn -j TCPMSS --set-mss 1000
-A PREROUTING -p tcp -j TCPOPTSTRIP --strip-options timestamp
-A PREROUTING -j TTL --ttl-dec 1 -4
-A PREROUTING -j HL --hl-dec 1 -6
-A PREROUTING -p tcp -j ECN --ecn-tcp-remove -4
-A FORWARD -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu
-A FORWARD -j DSCP --set-dscp 46
-A FORWARD -j TOS --xor-tos 255
-A FORWARD -j MARK --xor-mark 7
-A FORWARD -j CONNMARK --save-mark --left-shift-mark 1
-A POSTROUTING -j CONNMARK --restore-mark
-A POSTROUTING -m connlabel --label 5 --set
-A POSTROUTING -p udp -j CHECKSUM --checksum-fill
-A POSTROUTING -j HMARK --hmark-tuple src,dst,sport,dport --hmark-mod 9 --hmark-rnd 1
-A POSTROUTING -j HMARK --hmark-tuple ct,src,dst,sport,dport --hmark-mod 9 --hmark-rnd 1
COMMIT
*filter
-A FORWARD -m u32 --u32 "6&0xff=1" -j ACCEPT
-A FORWARD -p esp -m esp --espspi 1:9
-A FORWARD -p mh -m mh --mh-type 1 -6
-A FORWARD -m frag --fragid 1 -6
-A FORWARD -m hbh --hbh-opts 1 -6
-A FORWARD -m ipv6header --header esp -6
-A FORWARD -m time --timestart 10:00
-A FORWARD -m connbytes --connbytes 9 --connbytes-mode bytes --connbytes-dir both
-A FORWARD -m helper --helper ftp
-A FORWARD -m quota --quota 1000000
-A FORWARD -m bpf --bytecode "5,48 0 0 0,2 0 0 3,96 0 0 3,4 0 0 1,22 0 0 0"
-A FORWARD -m cluster --cluster-total-nodes 4 --cluster-local-node 1 --cluster-hash-seed 1
-A FORWARD -m srh --srh-tag 1 -6
-A FORWARD -m rt --rt-type 0 --rt-0-addrs ::1 -6
-A FORWARD -m eui64 -6
COMMIT
`
	f, err := Parse("x", []byte(text), Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := Compile([]*File{f}, Options{Clock: true, Wall: true, Counts: true, Clamps: true})
	if err != nil {
		t.Fatal(err)
	}
	m := rs.NewMatcher()
	for _, hosts := range [][2]string{{"10.0.0.1:1", "10.0.0.2:2"}, {"[2001:db8::1]:1", "[2001:db8::2]:2"}} {
		frame := pt.NewTCP(pt.AP(hosts[0]), pt.AP(hosts[1]), pt.SYN, pt.TCPOptions(pt.NOP(1), pt.MSS(1460), pt.Timestamps(1, 2)), pt.TTL(255))
		room := make([]byte, len(frame), len(frame)+8)
		var p packet.Packet
		var c Context
		if n := testing.AllocsPerRun(20, func() {
			copy(room, frame)
			p = packet.Packet{Frame: room}
			packet.Parse(&p)
			c = Context{State: New, MTU: 576}
			m.Match(&p, &c)
		}); n != 0 {
			t.Errorf("%s: %v allocations", hosts[0], n)
		}
	}
}
