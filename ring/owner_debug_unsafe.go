//go:build cwdebug

package ring

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"corewire/internal/packet"
)

// owners keeps the owner of every chunk and panics on a transition that starts from a wrong one: a frame released or
// sent twice, a completion of a chunk that was never sent, a descriptor for a chunk that the kernel was not given.
type owners struct{ of []atomic.Uint32 }

func (o *owners) init(chunks int) { o.of = make([]atomic.Uint32, chunks) }

// move passes chunk c from one owner to the next.
func (o *owners) move(c uint32, from, to owner) {
	if !o.of[c].CompareAndSwap(uint32(from), uint32(to)) {
		panic(fmt.Sprintf("ring: chunk %d goes from %v to %v, but %v owns it", c, from, to, owner(o.of[c].Load())))
	}
}

func (o *owners) moveAll(cs []uint32, from, to owner) {
	for _, c := range cs {
		o.move(c, from, to)
	}
}

// check panics unless f is a frame of p whose Data starts at Addr and ends within the chunk.
func (*owners) check(p *Pool, f *packet.Frame) {
	g, ok := p.frame(f.Addr, uint32(len(f.Data)))
	if !ok {
		panic(fmt.Sprintf("ring: frame at %#x, %d bytes, is not within one chunk of the pool", f.Addr, len(f.Data)))
	}
	if len(f.Data) > 0 && unsafe.SliceData(f.Data) != unsafe.SliceData(g.Data) {
		panic(fmt.Sprintf("ring: frame at %#x: Data does not start at Addr", f.Addr))
	}
}
