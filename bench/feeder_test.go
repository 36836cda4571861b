package bench

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
	"corewire/ring"
)

// frameSize is a minimal Ethernet frame without its FCS, which AF_XDP never sees.
const frameSize = 60

// feeder is a ring.Wire without a network and almost without cost: Receive copies the next prepared frames into chunks,
// as a NIC's DMA would, and sent frames go straight back. Its own time is measured by BenchmarkFeeder.
type feeder struct {
	frames []byte // size bytes each, in the order of arrival
	size   int
	next   int
	port   packet.Port // where they arrive
	chunks []byte
	sent   int
}

const feederChunks = 256

func newFeeder() *feeder { return &feeder{size: frameSize, chunks: make([]byte, feederChunks*2048)} }

func (f *feeder) Receive(port packet.Port, out []packet.Frame) int {
	if port != f.port {
		return 0
	}
	n := min(len(out), len(f.frames)/f.size-f.next)
	for i := range n {
		at := (f.next + i) % feederChunks * 2048
		c := f.chunks[at : at+f.size : at+2048]
		copy(c, f.frames[(f.next+i)*f.size:(f.next+i+1)*f.size])
		out[i] = packet.Frame{Data: c, Addr: uint64(at)}
	}
	f.next += n
	return n
}

func (f *feeder) Send(_ packet.Port, out []packet.Frame) int { f.sent += len(out); return len(out) }
func (f *feeder) Release([]packet.Frame)                     {}
func (f *feeder) Alloc([]packet.Frame) int                   { return 0 }
func (f *feeder) Flush() error                               { return nil }
func (f *feeder) Wait(time.Duration) error                   { return nil }
func (f *feeder) Wake()                                      {}
func (f *feeder) Account(a *ring.Account)                    { *a = ring.Account{} }
func (f *feeder) Stats(s *ring.Stats)                        { *s = ring.Stats{} }
func (f *feeder) Close() error                               { return nil }

// flow returns the two ends of flow i: 10.0.0.0/8 asks 172.16.0.0/12, a quarter of a million hosts, all ports.
func flow(i int, family int) (client, server netip.AddrPort) {
	a, b := netip.AddrFrom4([4]byte{10, byte(i >> 12), byte(i >> 4), byte(i)}), netip.AddrFrom4([4]byte{172, 16, 0, byte(i)})
	if family == 6 {
		a = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 13: byte(i >> 12), 14: byte(i >> 4), 15: byte(i)})
		b = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 1, 15: byte(i)})
	}
	return netip.AddrPortFrom(a, uint16(1024+i*7)), netip.AddrPortFrom(b, 443)
}

// traffic is prepared frames of a number of flows: what opens them, and packets of established ones in random order.
type traffic struct {
	size   int       // of every frame
	open   [3][]byte // in the order in which they must arrive: from inside, outside, inside
	steady []byte    // from inside, in random order
}

// udpTraffic makes frames of size bytes, or the least that its headers need if that is more.
func udpTraffic(flows, family, size int) traffic {
	t := traffic{size: max(size, headers(family)+8)}
	payload := packettest.PayloadLen(t.size - headers(family) - 8)
	for i := range flows {
		c, s := flow(i, family)
		t.open[0] = append(t.open[0], t.sized(packettest.NewUDP(c, s, payload))...)
		t.open[1] = append(t.open[1], t.sized(packettest.NewUDP(s, c, payload))...)
	}
	t.steady = t.shuffled(t.open[0])
	return t
}

// tcpTraffic does the same for TCP. The segments of the handshake are padded, as short frames are on Ethernet.
func tcpTraffic(flows, family, size int) traffic {
	const syn, ack = 0x02, 0x10
	t := traffic{size: max(size, headers(family)+20)}
	payload := packettest.PayloadLen(t.size - headers(family) - 20)
	if t.size <= frameSize {
		payload = packettest.PayloadLen(0)
	}
	var steady, other []byte
	for i := range flows {
		c, s := flow(i, family)
		t.open[0] = append(t.open[0], t.sized(packettest.NewTCP(c, s, syn, packettest.Seq(1000), packettest.Window(64000)))...)
		t.open[1] = append(t.open[1], t.sized(packettest.NewTCP(s, c, syn|ack, packettest.Seq(5000), packettest.Ack(1001), packettest.Window(64000)))...)
		t.open[2] = append(t.open[2], t.sized(packettest.NewTCP(c, s, ack, packettest.Seq(1001), packettest.Ack(5001), packettest.Window(64000)))...)
		steady = append(steady, t.sized(packettest.NewTCP(c, s, ack, packettest.Seq(1001), packettest.Ack(5001), packettest.Window(63000), payload))...)
		other = append(other, t.sized(packettest.NewTCP(c, s, ack, packettest.Seq(1001), packettest.Ack(5001), packettest.Window(64000), payload))...)
	}
	// Every other time another window: the same segment again and again would be counted as retransmissions.
	t.steady = append(t.shuffled(steady), t.shuffled(other)...)
	return t
}

// headers is the length of the headers below the transport's.
func headers(family int) int {
	if family == 6 {
		return 14 + 40
	}
	return 14 + 20
}

// sized pads a frame to the size of all.
func (t *traffic) sized(b []byte) []byte {
	out := make([]byte, t.size)
	if copy(out, b) < len(b) {
		panic("frame does not fit")
	}
	return out
}

// shuffled returns the frames in a random order that is the same in every run.
func (t *traffic) shuffled(frames []byte) []byte {
	n := len(frames) / t.size
	out := make([]byte, 0, len(frames))
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(n) {
		out = append(out, frames[i*t.size:(i+1)*t.size]...)
	}
	return out
}
