package ring

import (
	"time"

	"corewire/internal/packet"
)

// Wire is one worker's two ports: the frames that come in, the frames that go out, and the chunks behind them.
//
// One goroutine uses a Wire. Wake and Stats are the exceptions: any goroutine may call them at any time before Close
// returns, Stats also afterwards.
//
// A Frame that Receive or Alloc returned belongs to the caller, who gives it up exactly once: to Send or Release of
// any Wire over the same Pool (a frame that worker 0 received may be sent by worker 1), or by leaving it where it is
// until every Wire is closed. What a Frame may look like when it comes back:
//
//   - Data may be shortened at the end, or extended up to its capacity.
//   - Data may be shortened at the front by n bytes if Addr is raised by n as well. Addr is what counts: Send
//     transmits len(Data) bytes from Addr. A Data that was moved elsewhere (append beyond its capacity) is a bug; a
//     build with the tag cwdebug panics on it, and on every frame given up twice.
//
// No method but Wait and Close blocks, none allocates, none calls back.
type Wire interface {
	// Receive takes up to len(f) frames that arrived at port, in order of arrival on this worker's queue, and
	// returns how many. The first n elements of f are overwritten; the caller owns these frames.
	Receive(port packet.Port, f []packet.Frame) int

	// Send queues frames for transmission out of port, in order, and returns how many it took; ownership of those
	// passes to the wire. Fewer than len(f) means that the transmit ring is full; the rest stays with the caller,
	// who releases it or tries again after Flush. Frames of a port whose link is down are taken, counted in
	// PortStats.TXDown and go back to the pool. Nothing need move before Flush.
	Send(port packet.Port, f []packet.Frame) int

	// Release gives frames back to the pool. A chunk whose home is another worker goes home through a return ring,
	// at the next Flush at the latest.
	Release(f []packet.Frame)

	// Alloc takes up to len(f) unused frames from this worker's free list, for frames that the firewall itself
	// sends, and returns how many. Data has the full room of a chunk (Pool.Room bytes) and arbitrary content.
	Alloc(f []packet.Frame) int

	// Flush takes back transmitted chunks, refills the fill rings, sends foreign chunks home and wakes the driver
	// where it must be woken, at most one kick per port in the normal case. The worker calls it once a loop.
	// An error means that a port has gone for good (its interface was removed).
	Flush() error

	// Wait returns when a port may have frames, when Wake was called, or when d has passed, whichever comes first.
	// A Wake between two Waits ends the second one at once. It may return early for no reason. d ≤ 0 returns at once.
	Wait(d time.Duration) error

	// Wake ends the current or the next Wait.
	Wake()

	// Account overwrites a with the chunks of this worker by place. It is exact when nobody else moves chunks: see
	// Account.
	Account(a *Account)

	// Stats overwrites s with the counters since the wire was made.
	Stats(s *Stats)

	// Close releases the wire. The frames that the caller still holds become invalid when the last Wire over the
	// pool is closed; Account stays readable and reports the state at the end. A second Close does nothing.
	Close() error
}

// Account says where a worker's chunks are. Chunks pass between workers (hand-off), so the parts of one worker need
// not add up; the sum over all wires of a pool does, whenever no wire is in use: Total = Free + Returning + Fill + RX
// + TX + Completion + Caller. Caller is what the frames' users must be able to name: frames in their hands, in
// hand-off rings, held fragments.
type Account struct {
	Total      int // chunks whose home is this worker
	Free       int // in this worker's free list
	Returning  int // on the way home: in return rings to this worker, or staged here for another one
	Fill       int // given to the kernel for reception and not yet filled, both ports
	RX         int // received, not yet taken by Receive, both ports
	TX         int // sent and not yet completed, both ports
	Completion int // transmitted and not yet taken back, both ports
	Caller     int // given to the caller minus taken from it; negative where frames of other workers are sent
}

// Add adds b to a, field by field.
func (a *Account) Add(b *Account) {
	a.Total += b.Total
	a.Free += b.Free
	a.Returning += b.Returning
	a.Fill += b.Fill
	a.RX += b.RX
	a.TX += b.TX
	a.Completion += b.Completion
	a.Caller += b.Caller
}

// Balanced reports whether every chunk is accounted for. It is meant for the sum over all wires of a pool.
func (a *Account) Balanced() bool {
	return a.Total == a.Free+a.Returning+a.Fill+a.RX+a.TX+a.Completion+a.Caller
}

// Stats is a wire's counters since it was made, by port (index packet.Inside, packet.Outside).
type Stats struct {
	Port [packet.Ports]PortStats
}

// Add adds b to s, field by field.
func (s *Stats) Add(b *Stats) {
	for i := range s.Port {
		s.Port[i].add(&b.Port[i])
	}
}

// PortStats counts one port of one worker. The fields from KernelRXDropped on are the kernel's, from getsockopt
// XDP_STATISTICS (struct xdp_statistics in include/uapi/linux/if_xdp.h); they are zero for drivers without a kernel.
type PortStats struct {
	RX        uint64 // frames handed to the caller by Receive
	TX        uint64 // frames taken by Send and put into the transmit ring
	TXFull    uint64 // frames that Send left with the caller because the transmit ring was full
	TXDown    uint64 // frames taken by Send and dropped because the link was down
	TXLost    uint64 // frames that the driver refused after Send had taken them (EBUSY from the kick, one frame each)
	RXBad     uint64 // receive descriptors ignored because address or length was impossible; their chunks are lost
	TXBad     uint64 // completions ignored because the address was impossible; their chunks are lost
	FillShort uint64 // times a fill ring could not be filled up because the free list was empty
	Kicks     uint64 // system calls made to start transmission
	Wakeups   uint64 // system calls made because the fill ring asked for one (need_wakeup)

	KernelRXDropped   uint64 // frames dropped for other reasons, e.g. longer than a chunk
	KernelRXInvalid   uint64 // invalid descriptors in the fill ring; must stay 0
	KernelTXInvalid   uint64 // invalid descriptors in the TX ring; must stay 0
	KernelRXFull      uint64 // frames dropped because the RX ring was full
	KernelFillEmpty   uint64 // times the fill ring was empty when the driver wanted a chunk
	KernelTXRingEmpty uint64 // times the TX ring was empty when the driver looked
}

func (s *PortStats) add(b *PortStats) {
	s.RX += b.RX
	s.TX += b.TX
	s.TXFull += b.TXFull
	s.TXDown += b.TXDown
	s.TXLost += b.TXLost
	s.RXBad += b.RXBad
	s.TXBad += b.TXBad
	s.FillShort += b.FillShort
	s.Kicks += b.Kicks
	s.Wakeups += b.Wakeups
	s.KernelRXDropped += b.KernelRXDropped
	s.KernelRXInvalid += b.KernelRXInvalid
	s.KernelTXInvalid += b.KernelTXInvalid
	s.KernelRXFull += b.KernelRXFull
	s.KernelFillEmpty += b.KernelFillEmpty
	s.KernelTXRingEmpty += b.KernelTXRingEmpty
}
