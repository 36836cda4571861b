package ring

// owner names who owns a chunk. The build tag cwdebug keeps one per chunk and panics on an illegal transition; without
// it the checks are empty functions.
type owner uint8

const (
	ownerFree   owner = iota // its home's free list
	ownerFill                // fill ring, kernel or RX ring
	ownerCaller              // the user of a wire
	ownerTX                  // TX ring, kernel or completion ring
	ownerReturn              // staged or in a return ring
)

// String returns the name used in the debug build's panics.
func (o owner) String() string {
	return [...]string{"free list", "reception", "caller", "transmission", "return ring"}[o]
}
