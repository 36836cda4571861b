package conntrack

// coverage says which parts of a datagram have arrived, in blocks of 8 bytes: fragments begin at block borders, and
// only the datagram's last block can be partly filled. It takes constant space and time whatever the order of the
// fragments, so no sender can make the store slow with a bad one.
//
// Fragments form runs as in inet_frag_queue_insert (net/ipv4/inet_fragment.c), since what counts as a duplicate depends
// on them: a fragment that continues the highest one belongs to its run, any other begins a run of its own, even where
// it touches a neighbour.
type coverage struct {
	taken [coverageWords]uint64 // blocks that a fragment covers
	start [coverageWords]uint64 // blocks at which a run begins
}

// coverageWords gives room for the highest end that an IPv4 header can express: 8191*8 + 65535 - 20 bytes.
const coverageWords = (8191*8+65535-20)/8/64 + 1

// fit is how a fragment fits to those that came before it.
type fit uint8

const (
	fitNew       fit = iota // covers nothing that was there
	fitDuplicate            // lies within one run
	fitOverlap              // covers some blocks that were there, or parts of several runs
)

// add adds the bytes from off to end (off < end) to the coverage if they are new. tail is the highest end of what is
// there, 0 when there is nothing.
func (c *coverage) add(off, end, tail uint32) fit {
	first, last := off/8, (end-1)/8
	touched, missing, begins := uint64(0), uint64(0), uint64(0)
	for w := first / 64; w <= last/64; w++ {
		m := blockMask(w, first, last)
		touched |= c.taken[w] & m
		missing |= m &^ c.taken[w]
		if w == first/64 {
			m &^= 1 << (first % 64) // a run may begin where the fragment does
		}
		begins |= c.start[w] & m
	}
	if touched != 0 {
		if missing == 0 && begins == 0 {
			return fitDuplicate
		}
		return fitOverlap
	}
	for w := first / 64; w <= last/64; w++ {
		c.taken[w] |= blockMask(w, first, last)
	}
	if tail == 0 || off != tail {
		c.start[first/64] |= 1 << (first % 64)
	}
	return fitNew
}

// blockMask returns the bits of word w that stand for the blocks first to last.
func blockMask(w, first, last uint32) uint64 {
	m := ^uint64(0)
	if w == first/64 {
		m <<= first % 64
	}
	if w == last/64 {
		m &= ^uint64(0) >> (63 - last%64)
	}
	return m
}

// clear forgets everything below tail, the highest end of what is there.
func (c *coverage) clear(tail uint32) {
	n := (tail + 511) / 512
	clear(c.taken[:n])
	clear(c.start[:n])
}
