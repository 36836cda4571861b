package dataplane

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/ring"
)

func addrPort(a netip.AddrPort, i int) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr(), a.Port()+uint16(i))
}

// TestHandOff brings frames to workers without regard to their flow, both directions to different ones, as a NIC with an
// asymmetric hash does. Every frame must leave once, in the order of its flow, and be judged by one shard.
func TestHandOff(t *testing.T) {
	const workers, flows, each = 4, 60, 8
	r := newRig(t, workers, "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A FORWARD -i inside -j ACCEPT", nil)
	rnd := rand.New(rand.NewPCG(3, 4))
	seq, next := map[string]uint32{}, map[string]uint32{}
	sent := 0
	collect := func(b []byte) {
		sent++
		p := packet.Packet{Frame: b}
		packet.Parse(&p)
		key := fmt.Sprint(netip.AddrPortFrom(p.Src.Netip(), p.SrcPort), netip.AddrPortFrom(p.Dst.Netip(), p.DstPort))
		if n := binary.BigEndian.Uint32(b[42:]); n != next[key] {
			t.Errorf("flow %s: frame %d when %d was due", key, n, next[key])
		}
		next[key]++
	}
	for range each {
		for f := range flows {
			c, s := addrPort(client, f), addrPort(server, f/7)
			for _, port := range []packet.Port{packet.Inside, packet.Outside} {
				from, to := c, s
				if port == packet.Outside {
					from, to = s, c
				}
				key := fmt.Sprint(from, to)
				body := binary.BigEndian.AppendUint32(nil, seq[key])
				seq[key]++
				// One receive queue per flow and direction, as any NIC keeps it.
				worker := (f*7 + int(port)*3) % workers
				r.inject(worker, port, pt.NewUDP(from, to, pt.Payload(body)))
				r.settle()
				for _, w := range r.wires {
					w.Collect(port.Other(), collect)
				}
			}
		}
		if rnd.IntN(2) == 0 {
			r.now += 3
		}
	}
	if sent != 2*flows*each {
		t.Errorf("%d frames sent, want %d", sent, 2*flows*each)
	}
	if n := r.e.Count(); n != flows {
		t.Errorf("%d connections, want %d: directions met in different shards", n, flows)
	}
	s := r.stats()
	total := s.Total()
	if total.Handed == 0 || total.Handed != total.Taken {
		t.Errorf("%d frames handed over, %d taken", total.Handed, total.Taken)
	}
	r.balanced()
}

// TestFragmentsOfDifferentQueues: the fragments of one datagram arrive on different workers.
func TestFragmentsOfDifferentQueues(t *testing.T) {
	const workers = 4
	r := newRig(t, workers, "-A FORWARD -p udp --dport 53:200 -j ACCEPT", nil)
	moved := false
	for i := range 40 {
		frame := pt.NewUDP(addrPort(client, i), pt.AP(fmt.Sprintf("10.0.0.2:%d", 53+i)), pt.PayloadLen(4000))
		pieces := pt.Fragments(frame, uint32(100+i), 1000)
		if i%2 == 1 {
			slices.Reverse(pieces)
		}
		for j, f := range pieces {
			r.inject((i+j)%workers, packet.Inside, f)
			r.settle()
		}
		got := r.out(packet.Outside)
		slices.Sort(got)
		var want []string
		for _, f := range pieces {
			want = append(want, string(f))
		}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("datagram %d: %d fragments sent, want %d", i, len(got), len(want))
		}
	}
	for _, w := range r.e.workers {
		moved = moved || w.regroup.Counters().Completed > 0
	}
	if !moved {
		t.Error("no datagram changed its worker: the test proves nothing")
	}
	if n := r.e.Count(); n != 40 {
		t.Errorf("%d connections, want 40", n)
	}
	if l := r.balanced(); l.Held != 0 || l.HandedOff != 0 {
		t.Errorf("frames left behind: %+v", l)
	}
}

// TestConservation throws damaged and whole frames at all workers: every frame is decided once, every chunk comes back.
func TestConservation(t *testing.T) {
	const workers = 3
	r := newRig(t, workers, web+"\n-A FORWARD -p icmp -j ACCEPT", nil)
	rnd := rand.New(rand.NewPCG(5, 6))
	seeds := [][]byte{
		pt.NewTCP(client, server, syn), pt.NewTCP(server, client, syn|ack), pt.NewTCP(client, server, ack), pt.NewTCP(server, client, rst),
		pt.NewUDP(client, pt.AP("10.0.0.2:53")), pt.NewUDP(c6, s6), pt.NewARP(), pt.NewSTP(),
		pt.Echo(pt.IP("10.0.0.1"), pt.IP("10.0.0.2"), 1, 1), pt.EchoReply(pt.IP("10.0.0.2"), pt.IP("10.0.0.1"), 1, 1),
	}
	for i := range uint32(20) {
		seeds = append(seeds, pt.Fragments(pt.NewUDP(client, pt.AP("10.0.0.2:53"), pt.PayloadLen(2500)), i, 800)...)
		seeds = append(seeds, pt.Fragments(pt.NewUDP(c6, s6, pt.PayloadLen(2500)), i, 800)...)
	}
	var in uint64
	for range 20_000 {
		f := slices.Clone(seeds[rnd.IntN(len(seeds))])
		if rnd.IntN(3) == 0 {
			f[rnd.IntN(len(f))] ^= byte(1 << rnd.IntN(8))
		}
		if rnd.IntN(10) == 0 {
			f = f[:rnd.IntN(len(f))]
		}
		if len(f) > 0 && r.wires[rnd.IntN(workers)].Inject(packet.Port(rnd.IntN(2)), f) {
			in++
		}
		if rnd.IntN(4) == 0 {
			r.step()
		}
		if rnd.IntN(50) == 0 {
			r.out(packet.Inside)
			r.out(packet.Outside)
			r.now += 100
		}
	}
	for range 200 {
		r.settle()
		r.out(packet.Inside)
		r.out(packet.Outside)
		r.now += 1000
	}
	r.settle()
	l := r.balanced()
	if l.Held != 0 || l.HandedOff != 0 || l.RX != 0 || l.TX != 0 {
		t.Errorf("frames left behind: %+v", l)
	}
	s := r.stats()
	total := s.Total()
	if done := total.Verdict[Accept] + total.Verdict[Drop]; done != in {
		t.Errorf("%d frames went in, %d were decided", in, done)
	}
	if total.Verdict[Accept] == 0 || total.Verdict[Drop] == 0 || total.Verdict[Hold] == 0 || total.Verdict[Moved] == 0 {
		t.Errorf("a verdict never happened, the test proves little: %v", total.Verdict)
	}
}

// TestHandOffFull stops the owner of a flow until the ring towards it is full: what does not fit is dropped and counted, a
// datagram's fragments all or none, and every chunk comes back.
func TestHandOffFull(t *testing.T) {
	const room = 8
	r := newRig(t, 2, "-A FORWARD -j ACCEPT", nil)
	small := ring.NewSPSC[handoff](room)
	r.e.workers[0].to[1], r.e.workers[1].from[0] = small, small
	theirs := func(frame []byte) bool {
		p := packet.Packet{Frame: frame}
		packet.Parse(&p)
		return r.e.workers[0].owner(&p) == 1
	}
	var flow, cut [][]byte
	for i := range 200 {
		if f := pt.NewUDP(addrPort(client, i), server); flow == nil && theirs(f) {
			for range 5 * room {
				flow = append(flow, f)
			}
		}
		// A datagram of worker 1 whose fragments are worker 0's.
		src := pt.AP(fmt.Sprintf("10.0.1.%d:%d", i%250+1, 3000+i))
		whole := pt.NewUDP(src, server, pt.PayloadLen(2000))
		if pieces := pt.Fragments(whole, 9, 200); cut == nil && theirs(whole) && !theirs(pieces[0]) {
			cut = pieces
		}
	}
	if flow == nil || len(cut) <= room {
		t.Fatal("no flow found that must change its worker")
	}
	drive := func(frames [][]byte) (full uint64) {
		before := r.e.workers[0].c.Drop[DropHandoff]
		for _, f := range frames {
			r.inject(0, packet.Inside, f)
		}
		if _, err := r.e.workers[0].Step(r.now); err != nil {
			t.Fatal(err)
		}
		return r.e.workers[0].c.Drop[DropHandoff] - before
	}
	if n := drive(flow); n != uint64(len(flow)-room) {
		t.Errorf("%d frames dropped as %v, want %d", n, DropHandoff, len(flow)-room)
	}
	if l := r.balanced(); l.HandedOff != room {
		t.Errorf("%d frames in the ring, want %d", l.HandedOff, room)
	}
	r.settle()
	if n := len(r.out(packet.Outside)); n != room {
		t.Errorf("%d frames sent, want the %d that fitted", n, room)
	}
	if n := drive(cut); n != uint64(len(cut)) {
		t.Errorf("%d fragments dropped, want all %d of the datagram", n, len(cut))
	}
	r.settle()
	if n := len(r.out(packet.Outside)); n != 0 {
		t.Errorf("%d fragments of a dropped datagram sent", n)
	}
	if l := r.balanced(); l.HandedOff != 0 || l.Held != 0 {
		t.Errorf("frames left behind: %+v", l)
	}
}
