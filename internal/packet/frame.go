package packet

// Port names one of the two ports of the wire.
type Port uint8

const (
	Inside  Port = 0 // the protected side
	Outside Port = 1 // the other side
	Ports        = 2 // number of ports of a wire
)

// Other returns the opposite port: where a forwarded frame leaves.
func (p Port) Other() Port { return p ^ 1 }

// String returns "inside" or "outside", the names that rules use after -i and -o.
func (p Port) String() string {
	if p == Inside {
		return "inside"
	}
	return "outside"
}

// Frame is the bytes of one link-layer frame in the memory of a frame pool (for AF_XDP: the UMEM).
//
// Whoever holds the Frame owns its chunk: exactly one of free list, fill ring, RX, worker, hand-off ring,
// fragment store, TX, completion ring at any time. Copying the struct does not copy ownership.
type Frame struct {
	Data []byte // the frame, aliasing pool memory; len is the frame's length
	Addr uint64 // offset of Data[0] in the pool, as in xdp_desc.addr (if_xdp.h); the driver's business
}
