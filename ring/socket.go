package ring

import (
	"corewire/internal/packet"
)

// CopyMode says how AF_XDP sockets may move frames between NIC and pool.
type CopyMode uint8

const (
	CopyAuto CopyMode = iota // zero copy on each port that can, else copy
	CopyOnly                 // the kernel copies every frame: XDP_COPY
	ZeroCopy                 // the NIC reads and writes the pool itself: XDP_ZEROCOPY; opening fails where a port cannot
)

// String returns the mode's spelling in flags and reports.
func (m CopyMode) String() string {
	switch m {
	case CopyOnly:
		return "copy"
	case ZeroCopy:
		return "zerocopy"
	}
	return "auto"
}

// socketConfig describes the AF_XDP sockets of a link: one per worker and port, worker i on queue i of both ports.
// openXSK and openAsavie make the wires from it. Both must run on a thread in the network namespace of the interfaces,
// and need CAP_NET_RAW (socket) and, before Linux 5.11, RLIMIT_MEMLOCK for the pool.
type socketConfig struct {
	Pool     PoolConfig              // Workers is the number of queues
	Port     [packet.Ports]socketDev // by packet.Port
	RingSize int                     // slots of each of the four rings, a power of two; default 2048
	Copy     CopyMode
	TXBudget int // frames that one system call may transmit in copy mode (XDP_MAX_TX_SKB_BUDGET, Linux 6.17); 0: default 256
}

// socketDev is one interface.
type socketDev struct {
	Name  string // for error messages
	Index int    // its index
}

// socketMode says what the kernel really gave a socket.
type socketMode struct {
	ZeroCopy   bool // from getsockopt XDP_OPTIONS (always false where the kernel lacks it, before Linux 5.3)
	NeedWakeup bool // the driver says when it must be woken; else every kick is a system call
	SharedUMEM bool // bound with XDP_SHARED_UMEM; false for the first socket, the fallback, and the asavie driver
	TXBudget   int  // frames per transmitting system call in copy mode: 32 where the socket option is missing
}

// socketWire is a Wire over AF_XDP sockets, as the Link needs it.
//
// Opening order: openXSK or openAsavie (sockets bound, fill rings full), attach the XDP program, then FD into the
// XSKMAP of that port at key Queue. Closing order: delete the XSKMAP slots, let the workers end, then Close.
type socketWire interface {
	Wire
	FD(port packet.Port) int          // the socket to put into the port's XSKMAP
	Queue() uint32                    // queue of both ports, the key in the XSKMAP
	Mode(port packet.Port) socketMode // what was really got
}
