package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// relatedRules pass control connections, and what belongs to a known connection.
const relatedRules = `-A FORWARD -p tcp -m multiport --dports 21,1723 -j ACCEPT
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT`

// talk plays TCP segments with the right numbers.
type talk struct {
	*rig
	seq map[string]uint32
}

func newTalk(t testing.TB, workers int, helpers string) *talk {
	s, err := conntrack.DefaultSettings().WithHelpers(helpers)
	if err != nil {
		t.Fatal(err)
	}
	return &talk{newRig(t, workers, relatedRules, func(c *Config) { c.Settings = s }), map[string]uint32{}}
}

// say plays one segment, received by some worker, and reports whether it was sent on.
func (k *talk) say(worker int, in packet.Port, from, to netip.AddrPort, flags uint8, text string) bool {
	k.t.Helper()
	there, back := from.String()+to.String(), to.String()+from.String()
	k.inject(worker, in, packettest.NewTCP(from, to, flags, packettest.Seq(k.seq[there]), packettest.Ack(k.seq[back]), packettest.Payload([]byte(text))))
	k.settle()
	n := len(k.out(in.Other()))
	if n > 0 {
		k.seq[there] += uint32(len(text)) + uint32(flags&packettest.SYN)/2
	}
	return n == 1
}

// The control connection and the data connections that it announces belong to different workers, and are received by
// others still: each announced connection is RELATED wherever it arrives, once, and no other is.
func TestExpectedOnAnyWorker(t *testing.T) {
	const workers = 4
	k := newTalk(t, workers, "ftp")
	client, server := packettest.IP("192.0.2.10"), packettest.IP("198.51.100.1")
	owners := map[uint32]map[uint32]int{}
	owner := func(frame []byte) uint32 {
		p := packet.Packet{Frame: frame}
		packet.Parse(&p)
		return k.e.workers[0].owner(&p)
	}
	for i := range 40 {
		from, to := netip.AddrPortFrom(client, uint16(40000+i)), netip.AddrPortFrom(server, 21)
		if !k.say(i%workers, packet.Inside, from, to, syn, "") || !k.say(i%workers, packet.Outside, to, from, syn|ack, "") ||
			!k.say(i%workers, packet.Inside, from, to, ack, "") || !k.say(i%workers, packet.Outside, to, from, ack, "220 ready\r\n") ||
			!k.say(i%workers, packet.Inside, from, to, ack, "PASV\r\n") {
			t.Fatal("the control connection is not passed")
		}
		port := uint16(50000 + i)
		data := netip.AddrPortFrom(server, port)
		if k.say(0, packet.Inside, netip.AddrPortFrom(client, 1), data, syn, "") {
			t.Fatal("a data connection passed before it was announced")
		}
		if !k.say(i%workers, packet.Outside, to, from, ack, fmt.Sprintf("227 Entering Passive Mode (198,51,100,1,%d,%d).\r\n", port>>8, port&255)) {
			t.Fatal("the announcement is not passed")
		}
		if k.say(0, packet.Inside, netip.AddrPortFrom(packettest.IP("192.0.2.11"), 2), data, syn, "") {
			t.Fatal("somebody else's connection passed")
		}
		source := netip.AddrPortFrom(client, uint16(30000+7*i))
		a, b := owner(packettest.NewTCP(from, to, syn)), owner(packettest.NewTCP(source, data, syn))
		if owners[a] == nil {
			owners[a] = map[uint32]int{}
		}
		owners[a][b]++
		if !k.say((i+1)%workers, packet.Inside, source, data, syn, "") {
			t.Fatalf("connection %d, announced on worker %d, is not RELATED on worker %d", i, a, b)
		}
		if k.say((i+2)%workers, packet.Inside, netip.AddrPortFrom(client, uint16(20000+i)), data, syn, "") {
			t.Fatal("one announcement made two connections")
		}
		if !k.say((i+3)%workers, packet.Outside, data, source, syn|ack, "") {
			t.Fatal("the answer is not passed")
		}
	}
	pairs := 0
	for _, m := range owners {
		pairs += len(m)
	}
	if len(owners) != workers || pairs < 3*workers {
		t.Errorf("control and data connections by worker: %v", owners)
	}
	masters := 0
	if err := k.e.Connections(context.Background(), func(infos []conntrack.Info) error {
		for i := range infos {
			if m, ok := infos[i].MasterTuple(); ok {
				masters++
				if o := infos[i].Tuple(conntrack.Original); m.DstPort != 21 || m.SrcPort-40000 != o.DstPort-50000 {
					t.Errorf("%+v has master %+v", o, m)
				}
			}
		}
		return nil
	}); err != nil || masters != 40 {
		t.Errorf("%d connections with a master, %v", masters, err)
	}
	s := k.stats()
	if s.Expect.New != 40 || s.Expect.Create != 40 || s.Expected != 0 {
		t.Errorf("%+v, %d left", s.Expect, s.Expected)
	}
	k.balanced()
}

// A command that could be the beginning of an announcement is dropped, and counted.
func TestHelperDrops(t *testing.T) {
	k := newTalk(t, 1, "ftp")
	from, to := packettest.AP("192.0.2.10:40000"), packettest.AP("198.51.100.1:21")
	k.say(0, packet.Inside, from, to, syn, "")
	k.say(0, packet.Outside, to, from, syn|ack, "")
	k.say(0, packet.Inside, from, to, ack, "SYST\r\n")
	k.say(0, packet.Outside, to, from, ack, "215 UNIX\r\n")
	if k.say(0, packet.Inside, from, to, ack, "PO") || !k.say(0, packet.Inside, from, to, ack, "PORT 192,0,2,10,200,10\r\n") {
		t.Error("verdicts")
	}
	s := k.stats()
	if d := s.Total().Drop[DropHelper]; d != 1 || DropHelper.String() != "helper" {
		t.Errorf("%d drops", d)
	}
	var lines []string
	if err := k.e.Expectations(context.Background(), func(infos []conntrack.ExpectInfo) error {
		for i := range infos {
			lines = append(lines, string(infos[i].AppendLine(nil, conntrack.FormatConntrack)))
		}
		return nil
	}); err != nil || len(lines) != 1 || lines[0] != "300 proto=6 src=198.51.100.1 dst=192.0.2.10 sport=0 dport=51210 mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=192.0.2.10 master-dst=198.51.100.1 sport=40000 dport=21 class=0 helper=ftp" {
		t.Errorf("%q %v", lines, err)
	}
	if k.e.FlushExpectations() != 1 || k.stats().Expected != 0 {
		t.Error("flush")
	}
}

// A PPTP call's GRE packets belong to the worker that their addresses choose, wherever the control connection is.
func TestPPTPOnAnyWorker(t *testing.T) {
	const workers = 4
	k := newTalk(t, workers, "pptp")
	message := func(kind byte, words ...byte) string {
		b := make([]byte, 12+208)
		copy(b[2:], []byte{0, 1, 0x1a, 0x2b, 0x3c, 0x4d, 0, kind})
		copy(b[12:], words)
		return string(b)
	}
	for i := range byte(8) {
		client, server := netip.AddrFrom4([4]byte{192, 0, 2, 1 + i}), netip.AddrFrom4([4]byte{198, 51, 100, 9 * i})
		from, to := netip.AddrPortFrom(client, 1025+uint16(i)), netip.AddrPortFrom(server, 1723)
		k.say(0, packet.Inside, from, to, syn, "")
		k.say(0, packet.Outside, to, from, syn|ack, "")
		k.say(0, packet.Inside, from, to, ack, message(1))
		k.say(0, packet.Outside, to, from, ack, message(2, 1, 0, 1))
		k.say(0, packet.Inside, from, to, ack, message(7, 0, 5+i))
		gre := func(worker int, in packet.Port, src, dst netip.Addr, call uint16) bool {
			k.inject(worker, in, packettest.NewPPTP(src, dst, call))
			k.settle()
			return len(k.out(in.Other())) == 1
		}
		if gre(1, packet.Inside, client, server, 77) {
			t.Fatal("GRE passed before the call")
		}
		k.say(0, packet.Outside, to, from, ack, message(8, 0, 77, 0, 5+i, 1))
		if !gre(2, packet.Outside, server, client, 5+uint16(i)) || !gre(3, packet.Inside, client, server, 77) {
			t.Fatal("the call's GRE is not passed")
		}
		before := k.e.Count()
		k.say(0, packet.Outside, to, from, ack, message(13, 0, 77))
		k.settle()
		if gre(0, packet.Inside, client, server, 77) {
			t.Error("GRE passed after the call")
		}
		if k.settle(); k.e.Count() != before-1 {
			t.Errorf("%d connections, were %d: the call's has gone", k.e.Count(), before)
		}
	}
}

// Workers at work at the same time: every announced connection passes, though its SYN arrives at another worker as soon as
// the announcement has left.
func TestExpectedAtOnce(t *testing.T) {
	const workers, calls = 2, 100
	k := newTalk(t, workers, "ftp")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- k.e.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	var passed atomic.Int64
	// play sends a segment and waits until it has left through the other port.
	play := func(worker int, in packet.Port, from, to netip.AddrPort, flags uint8, text string) bool {
		there, back := from.String()+to.String(), to.String()+from.String()
		frame := packettest.NewTCP(from, to, flags, packettest.Seq(k.seq[there]), packettest.Ack(k.seq[back]), packettest.Payload([]byte(text)))
		for !k.wires[worker].Inject(in, frame) {
			time.Sleep(time.Microsecond)
		}
		k.wires[worker].Wake()
		for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
			n := 0
			for _, w := range k.wires {
				w.Collect(in.Other(), func([]byte) { n++ })
			}
			if n > 0 {
				k.seq[there] += uint32(len(text)) + uint32(flags&packettest.SYN)/2
				passed.Add(1)
				return true
			}
		}
		return false
	}
	client, server := packettest.IP("192.0.2.10"), packettest.IP("198.51.100.1")
	for i := range calls {
		from, to := netip.AddrPortFrom(client, uint16(40000+i)), netip.AddrPortFrom(server, 21)
		port := uint16(50000 + i)
		if !play(0, packet.Inside, from, to, syn, "") || !play(0, packet.Outside, to, from, syn|ack, "") || !play(0, packet.Inside, from, to, ack, "") ||
			!play(0, packet.Outside, to, from, ack, "220 ready\r\n") || !play(0, packet.Inside, from, to, ack, "EPSV\r\n") ||
			!play(0, packet.Outside, to, from, ack, fmt.Sprintf("229 ok (|||%d|)\r\n", port)) {
			t.Fatalf("call %d: the control connection is not passed", i)
		}
		if !play(1, packet.Inside, netip.AddrPortFrom(client, uint16(20000+3*i)), netip.AddrPortFrom(server, port), syn, "") {
			t.Fatalf("call %d: the data connection is not passed", i)
		}
	}
	if passed.Load() != 7*calls {
		t.Errorf("%d frames", passed.Load())
	}
}
