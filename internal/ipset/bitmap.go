package ipset

import "sync/atomic"

// bitmap keeps the elements of a bitmap type: a bit for each that there may be, and arrays of what they have beside.
// All are read and written by atomic operations; a bit is set when the rest is written.
type bitmap struct {
	size   uint64   // elements that there may be
	member []uint64 // bits
	loaded []uint64 // bits: came from a file
	noted  []uint64 // bits: has a comment
	expiry []uint64 // of sets with timeouts: as a slot's state, or stateStored and seconds
	mac    []uint64 // of bitmap:ip,mac: macFilled and the address, or 0
	ext    []uint64
}

const (
	// stateStored: the element's time does not run yet, for its MAC address is not known; the seconds are in the low
	// half (IPSET_ADD_STORE_PLAIN_TIMEOUT).
	stateStored = 1 << 35
	macFilled   = 1 << 48
)

// maxBitmap is the largest range of a bitmap type (IPSET_BITMAP_MAX_RANGE, one more for both ends).
const maxBitmap = 1 << 16

func newBitmap(s *Set, size uint64) *bitmap {
	b := &bitmap{size: size, member: make([]uint64, (size+63)/64), loaded: make([]uint64, (size+63)/64), noted: make([]uint64, (size+63)/64)}
	if s.spec.HasTimeout {
		b.expiry = make([]uint64, size)
	}
	if s.kind == BitmapIPMAC {
		b.mac = make([]uint64, size)
	}
	if s.nExt > 0 {
		b.ext = make([]uint64, size*uint64(s.nExt))
	}
	return b
}

// bytes is what the arrays take.
func bitmapBytes(s *Set, size uint64) int64 {
	n := size/16 + 3 + size*uint64(s.nExt)
	if s.spec.HasTimeout {
		n += size
	}
	if s.kind == BitmapIPMAC {
		n += size
	}
	return int64(8 * n)
}

func (b *bitmap) has(id uint64) bool {
	return atomic.LoadUint64(&b.member[id>>6])>>(id&63)&1 != 0
}

func setBit(w []uint64, id uint64) bool {
	bit := uint64(1) << (id & 63)
	return atomic.OrUint64(&w[id>>6], bit)&bit == 0
}

func clearBit(w []uint64, id uint64) bool {
	bit := uint64(1) << (id & 63)
	return atomic.AndUint64(&w[id>>6], ^bit)&bit != 0
}

// late says that a member has had its time.
func (b *bitmap) late(id uint64, now Tick) bool {
	if b.expiry == nil {
		return false
	}
	e := atomic.LoadUint64(&b.expiry[id])
	return e&stateStored == 0 && expired(e, now)
}

func (b *bitmap) extra(s *Set, id uint64) []uint64 { return b.ext[id*uint64(s.nExt):][:s.nExt] }

// id returns an element's place in the range.
func (s *Set) id(f *fields) (uint64, bool) {
	var v uint64
	switch s.kind {
	case BitmapPort:
		v = uint64(f.port)
	default:
		v = f.a.lo
	}
	if v < s.spec.first || v > s.spec.last {
		return 0, false
	}
	v -= s.spec.first
	if s.kind == BitmapIP && s.spec.NetMask != 0 {
		v >>= 32 - s.spec.NetMask
	}
	return v, true
}

// putBit adds an element of a bitmap type (bitmap_*_add in ip_set_bitmap_gen.h). A MAC address of 0 is none.
func (s *Set) putBit(f *fields, x *extras, now Tick) result {
	id, ok := s.id(f)
	if !ok {
		return errRange
	}
	b := s.bitmap
	there := b.has(id)
	bits := x.bits(s, now) &^ (stateNoMatch | stateLoaded)
	if there && b.mac != nil {
		old := atomic.LoadUint64(&b.mac[id])
		switch {
		case old == 0 && f.mac != 0: // what a packet, or the operator, knows now
			if b.expiry != nil {
				if e := atomic.LoadUint64(&b.expiry[id]); x.timeout == s.spec.Timeout && e&stateStored != 0 {
					y := extras{timeout: uint32(e)}
					bits = y.bits(s, now)
				}
				atomic.StoreUint64(&b.expiry[id], bits)
			}
			atomic.StoreUint64(&b.mac[id], f.mac|macFilled)
			s.write(b.extra(s, id), x)
			s.remarkBit(id, x)
			return done
		case !b.late(id, now) && !x.exist:
			return errExist
		case x.exist && f.mac != 0:
			atomic.StoreUint64(&b.mac[id], f.mac|macFilled)
		}
	} else if there && !b.late(id, now) && !x.exist {
		return errExist
	}
	if !there || b.late(id, now) {
		for i := range b.extra(s, id) {
			atomic.StoreUint64(&b.extra(s, id)[i], 0)
		}
		if b.mac != nil {
			m := f.mac
			if m != 0 {
				m |= macFilled
			}
			atomic.StoreUint64(&b.mac[id], m)
		}
	}
	if b.mac != nil && atomic.LoadUint64(&b.mac[id]) == 0 {
		bits = stateStored | uint64(x.timeout)
	}
	if b.expiry != nil {
		atomic.StoreUint64(&b.expiry[id], bits)
	}
	s.write(b.extra(s, id), x)
	if x.loaded {
		setBit(b.loaded, id)
	} else if !x.frame || !there {
		clearBit(b.loaded, id)
	}
	s.remarkBit(id, x)
	if setBit(b.member, id) {
		s.count.Add(1)
	}
	return done
}

// remarkBit sets or clears an element's comment, unless a packet gives the rest.
func (s *Set) remarkBit(id uint64, x *extras) {
	if x.frame || !s.spec.Comment {
		return
	}
	delete(s.notes, id)
	clearBit(s.bitmap.noted, id)
	if x.comment == "" {
		return
	}
	if s.notes == nil {
		s.notes = make(map[uint64]note)
	}
	s.notes[id] = note{text: x.comment}
	setBit(s.bitmap.noted, id)
}

// removeBit deletes an element of a bitmap type, whatever its MAC address.
func (s *Set) removeBit(f *fields, now Tick) result {
	id, ok := s.id(f)
	if !ok {
		return errRange
	}
	late := s.bitmap.late(id, now)
	clearBit(s.bitmap.noted, id)
	if !clearBit(s.bitmap.member, id) {
		return errMissing
	}
	s.count.Add(-1)
	if late {
		return errMissing
	}
	return done
}

// collectBits removes the elements whose time has come.
func (s *Set) collectBits(now Tick) (n int) {
	b := s.bitmap
	if b.expiry == nil {
		return 0
	}
	for w := range b.member {
		if atomic.LoadUint64(&b.member[w]) == 0 {
			continue
		}
		for id := uint64(w) * 64; id < min(uint64(w)*64+64, b.size); id++ {
			// A packet may give it more time between the two: then it is lost, as an element that came a moment too late.
			if b.has(id) && b.late(id, now) && clearBit(b.member, id) {
				s.count.Add(-1)
				n++
			}
		}
	}
	return n
}
