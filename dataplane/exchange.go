package dataplane

import (
	"sync/atomic"

	"corewire/internal/packet"
	"corewire/ring"
)

// handoff is a frame on its way to the worker that owns its flow.
type handoff struct {
	frame   packet.Frame
	in      packet.Port
	grouped bool // a fragment of a datagram that is complete: its group follows in one piece
}

// handoffRingSize bounds the frames that wait between two workers. Larger absorbs longer pauses of the receiver and
// costs cache; at 4096 a receiver may sleep a millisecond at 4 Mpps.
const handoffRingSize = 4096

// indirection is the number of entries of the RSS indirection table that the owner of a flow is computed with: the
// default of in-tree drivers (ethtool_rxfh_indir_default spreads hash mod entries over the queues in turn).
const indirection = 128

// exchange is a worker's half of the hand-off between workers. from, to and peers have an element per worker; a
// worker's own elements are a ring that stays empty.
type exchange struct {
	self     uint32
	from, to []*ring.SPSC[handoff]
	peers    []*Worker
	outbox   [][]handoff // per worker: what this burst hands over
	inbox    []handoff
	group    []handoff   // room for one datagram
	sleeping atomic.Bool // set before this worker sleeps, so that who hands over a frame wakes it
}

// owner returns the worker whose shard holds the packet's flow: the queue that symmetric RSS would choose.
func (x *exchange) owner(p *packet.Packet) uint32 {
	return packet.SymmetricHash(p) % indirection % uint32(len(x.to))
}

// foreign tells whether another worker owns the packet's flow.
func (x *exchange) foreign(p *packet.Packet) bool {
	return len(x.to) > 1 && x.owner(p) != x.self
}

// handOff puts a frame among those for another worker.
func (w *Worker) handOff(f packet.Frame, in packet.Port, to uint32) {
	if len(w.outbox[to]) == cap(w.outbox[to]) {
		w.post()
	}
	w.outbox[to] = append(w.outbox[to], handoff{frame: f, in: in})
}

// handOffGroup hands over all fragments of a datagram, or drops them all.
func (w *Worker) handOffGroup(f []packet.Frame, in packet.Port, to uint32) {
	w.post() // what came before goes before
	group := w.group[:0]
	for i := range f {
		group = append(group, handoff{frame: f[i], in: in, grouped: true})
	}
	if !w.to[to].PushAll(group) {
		w.settleAll(f, in, DropHandoff)
		return
	}
	w.c.Handed += uint64(len(f))
	w.c.Verdict[Moved] += uint64(len(f))
	w.wake(to)
}

// post pushes the burst's hand-offs. Frames that do not fit are dropped: waiting for a slow worker would stop this one.
func (w *Worker) post() {
	for to := range w.outbox {
		box := w.outbox[to]
		if len(box) == 0 {
			continue
		}
		w.outbox[to] = box[:0]
		n := w.to[to].Push(box)
		w.c.Handed += uint64(n)
		w.c.Verdict[Moved] += uint64(n)
		for _, h := range box[n:] {
			w.settle(h.frame, h.in, DropHandoff)
		}
		w.wake(uint32(to))
	}
}

// wake wakes a worker that sleeps. The flag is sequentially consistent with the ring: a worker sets it, looks at its
// rings once more, and only then sleeps.
func (w *Worker) wake(worker uint32) {
	if p := w.peers[worker]; p.sleeping.Load() {
		p.wire.Wake()
	}
}
