package ring

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"corewire/internal/packet"

	"golang.org/x/sys/unix"
)

// Limits of the system calls of one Flush. They bound the time that a worker spends in the kernel; what is left over
// waits in the TX ring for the next Flush.
const (
	maxKicks      = 16  // sendto per port: 4096 frames at a budget of 256, 512 at the kernel's own 32
	maxIdleKicks  = 2   // of these, how many may end with EAGAIN and not one frame completed: the driver's queue is full
	probeInterval = 64  // Flushes between two looks at a link that is down
	aliveInterval = 256 // Waits between two looks at whether the interface still exists: about four a second when idle
)

// defaultTXBudget is the number of frames that one sendto may transmit in copy mode. 32, the kernel's default, lost up
// to 7 % at 2.15 Mpps where 256 lost nothing; more gains nothing at bursts of 64 and holds the thread longer.
const defaultTXBudget = 256

// kernelTXBudget is TX_BATCH_SIZE in net/xdp/xsk.c: the budget of kernels without XDP_MAX_TX_SKB_BUDGET.
const kernelTXBudget = 32

// xskKernel is the system calls of a running xskWire, so that tests can play the kernel.
type xskKernel interface {
	transmit(p *xskPort) unix.Errno           // make the kernel look at the TX ring: sendto
	receive(p *xskPort) unix.Errno            // make the driver look at the fill ring: recvfrom
	running(p *xskPort) (up bool, err error)  // is the link up
	statistics(p *xskPort) unix.XDPStatistics // kernel's counters
	close() error
}

// reclaimer takes back what a port has transmitted. It is how the parts that all drivers over sockets have in common
// call the driver.
type reclaimer interface{ reclaim(p *xskPort) }

// xskWire is a Wire over two AF_XDP sockets of its own.
type xskWire struct {
	home   *home
	port   [packet.Ports]xskPort
	kernel xskKernel
	taker  reclaimer // the wire itself
	queue  uint32

	event int  // eventfd that ends Wait
	waits uint // Waits since the start
	polls [packet.Ports + 1]unix.PollFd
	limit unix.Timespec // Wait's, here so that it does not escape
	drain [8]byte       // what was read from event

	idle  atomic.Bool // in Wait, or about to be: Wake must write to event
	woken atomic.Bool // a Wake that no Wait has taken yet

	mu     sync.Mutex // guards the descriptors against Close in Wake and Stats
	closed bool
}

// xskPort is one socket: its four rings and what we know of it.
type xskPort struct {
	rx, tx           xskRing[desc]
	fill, completion xskRing[uint64]

	rxOut   int // chunks given through fill and not yet back from rx: fill ring + kernel + RX ring
	txOut   int // frames put into tx and not yet back from completion: TX ring + kernel + completion ring
	rxLimit int // most chunks that rxOut may have, so that the other port and the TX rings get theirs
	txLimit int // most frames that txOut may have, so that a stuck transmitter cannot starve the fill rings
	down    bool
	gone    bool
	probe   uint // Flushes since the link went down

	fd    int
	dev   socketDev
	queue uint32
	mode  socketMode
	maps  [4][]byte // the ring mappings, to unmap
	last  unix.XDPStatistics
	count xskCounters
}

// xskCounters are PortStats' own counters. The worker adds, anybody reads.
type xskCounters struct {
	rx, tx, txFull, txDown, txLost, rxBad, txBad, fillShort, kicks, wakeups atomic.Uint64
}

// errNoSharedUMEM says that the kernel cannot share a UMEM across devices (before Linux 5.10).
var errNoSharedUMEM = errors.New("kernel older than 5.10 cannot share a UMEM across devices")

// openXSK makes one wire per worker over own AF_XDP sockets and one UMEM, which is the pool. The first socket registers
// it; the others share it (XDP_SHARED_UMEM, across devices since Linux 5.10), so a frame crosses from port to port and
// from worker to worker without a copy in user space. Where only one of the ports does zero copy they cannot share;
// then the other one registers the same memory once more, and offsets still mean the same to both.
//
// On error nothing is left open. Errors wrap the errno: EBUSY (another socket is bound to the queue; a rebind is tried
// for a second, because the kernel unbinds a closed socket late), EINVAL (no such queue), EOPNOTSUPP (ZeroCopy asked
// for and not to be had), EPERM, ENODEV, ENOBUFS (RLIMIT_MEMLOCK), or errNoSharedUMEM, which asks for openAsavie.
func openXSK(c socketConfig) ([]socketWire, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	ws, err := bindXSK(c)
	if err != nil && c.Copy == CopyAuto && !hopeless(err) {
		// A driver may promise zero copy and refuse it for this queue, MTU or chunk size. Copy always works.
		c.Copy = CopyOnly
		var again error
		if ws, again = bindXSK(c); again != nil {
			return nil, errors.Join(err, again)
		}
		err = nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]socketWire, len(ws))
	for i, w := range ws {
		out[i] = w
	}
	return out, nil
}

// fill replaces zero values by defaults and checks the rest.
func (c *socketConfig) fill() error {
	if err := c.Pool.fill(); err != nil {
		return err
	}
	if c.RingSize == 0 {
		c.RingSize = DefaultRingSize
	}
	if c.TXBudget == 0 {
		c.TXBudget = defaultTXBudget
	}
	switch {
	case c.RingSize < 2 || c.RingSize > 1<<20 || c.RingSize&(c.RingSize-1) != 0:
		return fmt.Errorf("open xsk: ring size %d (a power of two from 2 to %d)", c.RingSize, 1<<20)
	case c.Pool.Chunks < 16:
		return fmt.Errorf("open xsk: %d chunks per worker (at least 16)", c.Pool.Chunks)
	case c.TXBudget < kernelTXBudget:
		return fmt.Errorf("open xsk: transmit budget %d (at least %d)", c.TXBudget, kernelTXBudget)
	}
	c.TXBudget = min(c.TXBudget, max(c.RingSize, kernelTXBudget)) // the kernel refuses more than the TX ring holds
	return nil
}

// hopeless reports whether an error of bindXSK would be the same in copy mode.
func hopeless(err error) bool {
	for _, e := range [...]error{errNoSharedUMEM, unix.EBUSY, unix.ENODEV, unix.EPERM, unix.EACCES, unix.EAFNOSUPPORT, unix.ENOBUFS, unix.ENOMEM, unix.EMFILE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// bindXSK opens and binds all sockets in the mode c.Copy.
func bindXSK(c socketConfig) (ws []*xskWire, err error) {
	pool, err := NewPool(c.Pool)
	if err != nil {
		return nil, err
	}
	pool.retain()
	defer func() {
		if err != nil {
			for _, w := range ws {
				err = errors.Join(err, w.Close())
			}
			ws = nil
		}
		err = errors.Join(err, pool.release())
	}()
	var lead [packet.Ports]*xskPort // the port's first socket, with whom the others of the port share
	for i := range c.Pool.Workers {
		w, err := newXSKWire(pool, i)
		if err != nil {
			return ws, err
		}
		ws = append(ws, w) // from here on the deferred function closes it
		for _, port := range [...]packet.Port{packet.Inside, packet.Outside} {
			p := &w.port[port]
			p.dev = c.Port[port]
			switch {
			case lead[port] != nil:
				err = w.bind(p, &c, lead[port], 0)
			case port == packet.Inside:
				err = w.bind(p, &c, nil, c.Copy.flags())
			default:
				err = w.bindOther(p, &c, lead[packet.Inside])
			}
			if err != nil {
				return ws, err
			}
			if lead[port] == nil {
				lead[port] = p
			}
			w.polls[port] = unix.PollFd{Fd: int32(p.fd), Events: unix.POLLIN}
		}
	}
	return ws, nil
}

// flags returns the bind flags that ask for the mode.
func (m CopyMode) flags() uint16 {
	switch m {
	case CopyOnly:
		return unix.XDP_USE_NEED_WAKEUP | unix.XDP_COPY
	case ZeroCopy:
		return unix.XDP_USE_NEED_WAKEUP | unix.XDP_ZEROCOPY
	}
	return unix.XDP_USE_NEED_WAKEUP
}

// bindOther binds the second port's first socket. A socket that shares inherits the mode of the one that it shares
// with, so a mix of zero copy and copy takes a UMEM of its own over the same memory.
func (w *xskWire) bindOther(p *xskPort, c *socketConfig, first *xskPort) error {
	if c.Copy != CopyAuto {
		return w.bind(p, c, first, 0)
	}
	if first.mode.ZeroCopy {
		err := w.bind(p, c, first, 0)
		if err != nil && !hopeless(err) {
			err = w.bind(p, c, nil, CopyOnly.flags())
		}
		return err
	}
	err := w.bind(p, c, nil, ZeroCopy.flags())
	if err != nil && !hopeless(err) {
		err = w.bind(p, c, first, 0)
	}
	return err
}

// newXSKWire makes a wire without sockets for worker i.
func newXSKWire(pool *Pool, i int) (*xskWire, error) {
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open eventfd: %w", err)
	}
	link, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open control socket: %w", err), unix.Close(event))
	}
	pool.retain()
	w := &xskWire{home: &pool.homes[i], kernel: &linux{link: link, req: new(unix.Ifreq)}, queue: uint32(i), event: event}
	for i := range w.port {
		w.port[i].fd = -1
		w.port[i].queue = w.queue
		w.polls[i].Fd = -1 // poll skips it
	}
	w.polls[packet.Ports] = unix.PollFd{Fd: int32(event), Events: unix.POLLIN}
	w.limits()
	w.taker = w
	return w, nil
}

// limits divides the worker's chunks. A quarter of them may be out for reception at each port and three sixteenths
// for transmission; an eighth is left for the caller. So neither a stuck transmitter nor a port that is flooded takes
// the other's share.
func (w *xskWire) limits() {
	n := int(w.home.pool.each)
	for i := range w.port {
		w.port[i].rxLimit = n / 4
		w.port[i].txLimit = n * 3 / 16
	}
}

// bind makes the socket p: rings, a full fill ring, then the bind itself. With share it uses that socket's UMEM and
// inherits its mode, else it registers the pool. On error the port is as before.
func (w *xskWire) bind(p *xskPort, c *socketConfig, share *xskPort, flags uint16) (err error) {
	fail := func(op string, err error, hint string) error {
		if hint != "" {
			hint = " (" + hint + ")"
		}
		return fmt.Errorf("%s xsk %s queue %d: %w%s", op, p.dev.Name, p.queue, err, hint)
	}
	p.fd, err = unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail("open", err, socketHint(err))
	}
	defer func() {
		if err != nil {
			w.unfill(p)
			err = errors.Join(err, p.close())
		}
	}()
	pool := w.home.pool
	if share == nil {
		if err := setUMEM(p.fd, pool.area, pool.ChunkSize()); err != nil {
			return fail("register frame pool at", err, socketHint(err))
		}
	}
	for _, option := range [...]int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_RX_RING, unix.XDP_TX_RING} {
		if err := unix.SetsockoptInt(p.fd, unix.SOL_XDP, option, c.RingSize); err != nil {
			return fail(fmt.Sprintf("size ring %d of", option), err, "")
		}
	}
	p.mode = socketMode{NeedWakeup: true, SharedUMEM: share != nil, TXBudget: kernelTXBudget}
	if unix.SetsockoptInt(p.fd, unix.SOL_XDP, xdpMaxTXBudget, c.TXBudget) == nil {
		p.mode.TXBudget = c.TXBudget
	}
	// In copy mode every frame between the TX ring and its completion counts against the send buffer; the default has
	// room for some ninety.
	buffer := c.RingSize * 2 * MaxChunkSize
	if unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, buffer) != nil {
		_ = unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, buffer) // as far as net.core.wmem_max allows
	}
	if err := p.mapRings(uint32(c.RingSize)); err != nil {
		return fail("map rings of", err, "")
	}
	w.refill1(p, min(c.RingSize, p.rxLimit)) // before bind: ice and i40e stall otherwise

	sa := &unix.SockaddrXDP{Flags: flags, Ifindex: uint32(p.dev.Index), QueueID: p.queue}
	if share != nil {
		sa.Flags, sa.SharedUmemFD = unix.XDP_SHARED_UMEM, uint32(share.fd)
	}
	if err := bindRetry(p.fd, sa); err != nil {
		if err == unix.EINVAL && share != nil && share.dev.Index != p.dev.Index && !share.mode.ZeroCopy && oldKernel() {
			err = errNoSharedUMEM
		}
		return fail("bind", err, socketHint(err))
	}
	// A kernel that does not know the option has no zero copy to report.
	if o, err := xdpOptions(p.fd); err == nil {
		p.mode.ZeroCopy = o&unix.XDP_OPTIONS_ZEROCOPY != 0
	}
	return nil
}

// bindRetry binds, and tries again for a second while the queue is taken: after a close the kernel unbinds in a work
// queue, some 30 ms later.
func bindRetry(fd int, sa *unix.SockaddrXDP) error {
	const tries, pause = 50, 20 * time.Millisecond
	for i := 0; ; i++ {
		err := unix.Bind(fd, sa)
		if err != unix.EBUSY || i == tries {
			return err
		}
		time.Sleep(pause)
	}
}

// oldKernel reports whether the kernel is older than 5.10, which taught sockets to share a UMEM across devices.
func oldKernel() bool {
	var u unix.Utsname
	var major, minor int
	if unix.Uname(&u) != nil {
		return false
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major < 5 || major == 5 && minor < 10
}

// socketHint says what an errno of socket, setsockopt or bind usually means here.
func socketHint(err error) string {
	for _, h := range [...]struct {
		errno unix.Errno
		hint  string
	}{
		{unix.EBUSY, "is another socket bound to this queue?"},
		{unix.EINVAL, "does the interface have this queue?"},
		{unix.EOPNOTSUPP, "the driver has no zero copy; copy mode works everywhere"},
		{unix.EPERM, "needs CAP_NET_RAW and CAP_NET_ADMIN"},
		{unix.EACCES, "needs CAP_NET_RAW and CAP_NET_ADMIN"},
		{unix.ENODEV, "was the interface removed?"},
		{unix.ENETDOWN, "is the interface up?"},
		{unix.EAFNOSUPPORT, "kernel built without CONFIG_XDP_SOCKETS"},
		{unix.ENOBUFS, "raise RLIMIT_MEMLOCK, or use fewer chunks"},
		{unix.ENOMEM, "use fewer chunks or shorter rings"},
	} {
		if errors.Is(err, h.errno) {
			return h.hint
		}
	}
	return ""
}

// mapRings maps the four rings, each of size slots.
func (p *xskPort) mapRings(size uint32) error {
	off, err := mmapOffsets(p.fd)
	if err != nil {
		return err
	}
	if p.rx, err = mapRing[desc](p, 0, unix.XDP_PGOFF_RX_RING, off.Rx, size); err != nil {
		return err
	}
	if p.tx, err = mapRing[desc](p, 1, unix.XDP_PGOFF_TX_RING, off.Tx, size); err != nil {
		return err
	}
	if p.fill, err = mapRing[uint64](p, 2, unix.XDP_UMEM_PGOFF_FILL_RING, off.Fr, size); err != nil {
		return err
	}
	p.completion, err = mapRing[uint64](p, 3, unix.XDP_UMEM_PGOFF_COMPLETION_RING, off.Cr, size)
	return err
}

// mapRing maps one ring, which becomes p.maps[i].
func mapRing[T uint64 | desc](p *xskPort, i int, page int64, off unix.XDPRingOffset, size uint32) (xskRing[T], error) {
	n, err := ringBytes[T](off, size)
	if err != nil {
		return xskRing[T]{}, err
	}
	p.maps[i], err = unix.Mmap(p.fd, page, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return xskRing[T]{}, os.NewSyscallError("mmap", err)
	}
	return ringOver[T](p.maps[i], off, size)
}

// close closes the socket and unmaps its rings. The port can be bound again.
func (p *xskPort) close() error {
	var errs []error
	if p.fd >= 0 {
		if err := unix.Close(p.fd); err != nil {
			errs = append(errs, fmt.Errorf("close xsk %s queue %d: %w", p.dev.Name, p.queue, err))
		}
		p.fd = -1
	}
	p.rx, p.tx, p.fill, p.completion = xskRing[desc]{}, xskRing[desc]{}, xskRing[uint64]{}, xskRing[uint64]{}
	for i, m := range p.maps {
		if m != nil {
			if err := unix.Munmap(m); err != nil {
				errs = append(errs, fmt.Errorf("unmap rings of xsk %s queue %d: %w", p.dev.Name, p.queue, err))
			}
			p.maps[i] = nil
		}
	}
	return errors.Join(errs...)
}

// unfill takes the chunks back out of the fill ring of a socket that could not be bound, so that nobody else read it.
func (w *xskWire) unfill(p *xskPort) {
	for ; p.rxOut > 0; p.rxOut-- {
		p.fill.next--
		w.home.give(w.home.pool.chunk(p.fill.get(0)), ownerFill)
	}
}

// FD is socketWire.FD.
func (w *xskWire) FD(port packet.Port) int { return w.port[port].fd }

// Queue is socketWire.Queue.
func (w *xskWire) Queue() uint32 { return w.queue }

// Mode is socketWire.Mode.
func (w *xskWire) Mode(port packet.Port) socketMode { return w.port[port].mode }

// Receive is Wire.Receive.
func (w *xskWire) Receive(port packet.Port, f []packet.Frame) int {
	p := &w.port[port]
	n := p.rx.ready(uint32(min(len(f), len(p.rx.slots))))
	if n == 0 {
		return 0
	}
	pool := w.home.pool
	k, home := 0, 0
	for i := range n {
		d := p.rx.get(i)
		frame, ok := pool.frame(d.addr, d.len)
		if !ok || d.options != 0 {
			// Out of the pool: nothing can be said about the chunk, it stays counted as out for reception. A part
			// of a packet in several chunks, which we never asked for: the chunk itself is good.
			p.count.rxBad.Add(1)
			if ok {
				w.home.give(pool.chunk(d.addr), ownerFill)
				home++
			}
			continue
		}
		pool.owners.move(pool.chunk(d.addr), ownerFill, ownerCaller)
		f[k] = frame
		k++
	}
	p.rx.consume(n)
	p.rxOut -= k + home
	w.home.given += uint64(k)
	p.count.rx.Add(uint64(k))
	return k
}

// Send is Wire.Send.
func (w *xskWire) Send(port packet.Port, f []packet.Frame) int {
	p := &w.port[port]
	if len(f) == 0 {
		return 0
	}
	if p.down {
		w.home.put(f)
		p.count.txDown.Add(uint64(len(f)))
		return len(f)
	}
	pool := w.home.pool
	want := min(len(f), len(p.tx.slots), max(p.txLimit-p.txOut, 0))
	n := int(p.tx.room(uint32(want)))
	k := uint32(0)
	for i := range f[:n] {
		pool.owners.check(pool, &f[i])
		d := desc{addr: f[i].Addr, len: uint32(len(f[i].Data))}
		if _, ok := pool.frame(d.addr, d.len); !ok || d.len == 0 {
			w.refuse(p, &f[i])
			continue
		}
		pool.owners.move(pool.chunk(d.addr), ownerCaller, ownerTX)
		p.tx.put(k, d)
		k++
	}
	if k > 0 {
		p.tx.produce(k)
	}
	p.txOut += int(k)
	w.home.taken += uint64(n)
	p.count.tx.Add(uint64(k))
	if n < len(f) {
		p.count.txFull.Add(uint64(len(f) - n))
	}
	return n
}

// refuse drops a frame that no descriptor can describe: the kernel would count it as invalid, and its chunk would be
// lost. An empty frame is the caller's way to ask for that.
func (w *xskWire) refuse(p *xskPort, f *packet.Frame) {
	p.count.txLost.Add(1)
	if f.Addr < uint64(len(w.home.pool.area)) {
		w.home.give(w.home.pool.chunk(f.Addr), ownerCaller)
	}
}

// Release is Wire.Release.
func (w *xskWire) Release(f []packet.Frame) { w.home.put(f) }

// Alloc is Wire.Alloc.
func (w *xskWire) Alloc(f []packet.Frame) int { return w.home.alloc(f) }

// Flush is Wire.Flush.
func (w *xskWire) Flush() error {
	for i := range w.port {
		w.reclaim(&w.port[i])
	}
	w.home.settle()
	w.refill()
	var err error
	for i := range w.port {
		p := &w.port[i]
		if p.fill.sleepy() && p.fill.waiting() > 0 {
			p.count.wakeups.Add(1)
			w.kernel.receive(p) // what is wrong with the socket comes up when it transmits or polls
		}
		if p.gone || p.down || p.tx.waiting() > 0 {
			if e := w.transmit(p); e != nil {
				err = e
			}
		}
	}
	return err
}

// reclaim takes transmitted chunks back.
func (w *xskWire) reclaim(p *xskPort) {
	n := p.completion.ready(uint32(len(p.completion.slots)))
	if n == 0 {
		return
	}
	pool := w.home.pool
	bad := 0
	for i := range n {
		addr := p.completion.get(i)
		if addr >= uint64(len(pool.area)) {
			bad++ // the chunk stays counted as out for transmission
			continue
		}
		w.home.give(pool.chunk(addr), ownerTX)
	}
	p.completion.consume(n)
	p.txOut -= int(n) - bad
	if bad > 0 {
		p.count.txBad.Add(uint64(bad))
	}
}

// refill fills both fill rings up, level if there are not enough chunks for both.
func (w *xskWire) refill() {
	in, out := &w.port[packet.Inside], &w.port[packet.Outside]
	a, b := in.hunger(), out.hunger()
	x, y := share(len(w.home.free), a, b)
	w.refill1(in, x)
	w.refill1(out, y)
	if x < a {
		in.count.fillShort.Add(1)
	}
	if y < b {
		out.count.fillShort.Add(1)
	}
}

// hunger returns how many chunks the fill ring should get.
func (p *xskPort) hunger() int {
	return min(int(p.fill.room(uint32(len(p.fill.slots)))), max(p.rxLimit-p.rxOut, 0))
}

// refill1 puts n chunks into the fill ring; they are free and there is room for them.
func (w *xskWire) refill1(p *xskPort, n int) {
	if n == 0 {
		return
	}
	for i := range uint32(n) {
		p.fill.put(i, w.home.pool.base(w.home.pop(ownerFill)))
	}
	p.fill.produce(uint32(n))
	p.rxOut += n
}

// transmit makes the kernel transmit what is in the TX ring, where it does not do so by itself.
func (w *xskWire) transmit(p *xskPort) error {
	if p.gone {
		return p.errGone()
	}
	if p.down {
		if p.probe++; p.probe%probeInterval != 0 {
			return nil
		}
		w.look(p)
	}
	if p.mode.NeedWakeup && !p.tx.sleepy() {
		return nil
	}
	busy, again := 0, 0
	for range maxKicks {
		p.count.kicks.Add(1)
		done := p.completion.filled()
		errno := w.kernel.transmit(p)
		switch errno {
		case 0:
			if busy > 0 {
				w.look(p)
			}
			return nil
		case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
			// The budget is spent, the driver's queue or the completion ring is full, or no memory for now. Frames
			// stay in the TX ring. Going on makes sense as long as frames complete.
			if p.completion.filled() == done {
				if again++; again == maxIdleKicks {
					return nil
				}
			}
			w.taker.reclaim(p)
		case unix.EBUSY: // one frame was dropped, but completed: receiver's queue full, or no carrier
			busy++
			p.count.txLost.Add(1)
		case unix.EINTR:
		default:
			return w.refused(p, errno)
		}
	}
	if busy > 0 {
		w.look(p)
	}
	return nil
}

// refused deals with an errno of a kick that says something about the interface.
func (w *xskWire) refused(p *xskPort, errno unix.Errno) error {
	switch errno {
	case unix.ENETDOWN:
		p.down = true
		return nil
	case unix.ENXIO, unix.ENODEV, unix.EBADF:
		p.gone = true
		return p.errGone()
	}
	return fmt.Errorf("transmit at xsk %s queue %d: %w", p.dev.Name, p.queue, errno)
}

func (p *xskPort) errGone() error {
	return fmt.Errorf("transmit at xsk %s queue %d: %w (the interface was removed)", p.dev.Name, p.queue, unix.ENXIO)
}

// look asks whether the link is up. When it has just gone down, the frames in the TX ring are dropped one system call
// each, so that they do not come out stale when it is up again.
func (w *xskWire) look(p *xskPort) {
	up, err := w.kernel.running(p)
	if err != nil {
		return // an interface that was removed shows at the next kick
	}
	was := p.down
	p.down = !up
	if up || was {
		return
	}
	p.probe = 0
	for range len(p.tx.slots) {
		w.taker.reclaim(p) // a full completion ring stops the kernel
		p.count.kicks.Add(1)
		if w.kernel.transmit(p) != unix.EBUSY {
			return
		}
		p.count.txLost.Add(1)
	}
}

// Wait is Wire.Wait. Polling also makes the kernel transmit and wakes drivers that ask for it.
func (w *xskWire) Wait(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	w.idle.Store(true) // before the last look: whoever calls Wake after it sees this and writes to the eventfd
	defer w.idle.Store(false)
	if w.woken.Swap(false) {
		return nil
	}
	w.waits++
	for i := range w.port {
		p := &w.port[i]
		if p.rx.filled() > 0 {
			return nil
		}
		if p.down {
			w.look(p)
		}
		if w.waits%aliveInterval == 0 {
			if errno := w.kernel.transmit(p); errno == unix.ENXIO || errno == unix.ENETDOWN {
				if err := w.refused(p, errno); err != nil {
					return err
				}
			}
		}
	}
	w.limit = unix.NsecToTimespec(int64(d))
	n, err := unix.Ppoll(w.polls[:], &w.limit, nil)
	if err != nil && err != unix.EINTR && err != unix.EAGAIN {
		return fmt.Errorf("poll xsk queue %d: %w", w.queue, err)
	}
	if n > 0 && w.polls[packet.Ports].Revents != 0 {
		_, _ = unix.Read(w.event, w.drain[:]) // EAGAIN: nothing to drain
		w.woken.Store(false)
	}
	return nil
}

// Wake is Wire.Wake.
func (w *xskWire) Wake() {
	if w.woken.Swap(true) || !w.idle.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		// Fails only when the counter is full, and then Wait returns anyway.
		_, _ = unix.Write(w.event, []byte{1, 0, 0, 0, 0, 0, 0, 1})
	}
}

// Account is Wire.Account.
func (w *xskWire) Account(a *Account) {
	w.home.account(a)
	for i := range w.port {
		p := &w.port[i]
		rx, done := 0, 0
		if p.rx.slots != nil { // mapped: not closed
			rx, done = int(p.rx.filled()), int(p.completion.filled())
		}
		a.RX += rx
		a.Fill += p.rxOut - rx
		a.Completion += done
		a.TX += p.txOut - done
	}
}

// Stats is Wire.Stats.
func (w *xskWire) Stats(s *Stats) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.port {
		p := &w.port[i]
		if !w.closed {
			p.last = w.kernel.statistics(p)
		}
		s.Port[i] = p.count.stats()
		s.Port[i].kernel(p.last)
	}
}

func (c *xskCounters) stats() PortStats {
	return PortStats{
		RX: c.rx.Load(), TX: c.tx.Load(), TXFull: c.txFull.Load(), TXDown: c.txDown.Load(), TXLost: c.txLost.Load(),
		RXBad: c.rxBad.Load(), TXBad: c.txBad.Load(), FillShort: c.fillShort.Load(),
		Kicks: c.kicks.Load(), Wakeups: c.wakeups.Load(),
	}
}

// kernel fills in the kernel's counters.
func (s *PortStats) kernel(k unix.XDPStatistics) {
	s.KernelRXDropped = k.Rx_dropped
	s.KernelRXInvalid = k.Rx_invalid_descs
	s.KernelTXInvalid = k.Tx_invalid_descs
	s.KernelRXFull = k.Rx_ring_full
	s.KernelFillEmpty = k.Rx_fill_ring_empty_descs
	s.KernelTXRingEmpty = k.Tx_ring_empty_descs
}

// Close is Wire.Close. The chunks that are with the kernel stay accounted for where they were.
func (w *xskWire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	var errs []error
	for i := range w.port {
		p := &w.port[i]
		if p.fd >= 0 {
			p.last = w.kernel.statistics(p)
		}
		errs = append(errs, p.close())
	}
	errs = append(errs, w.kernel.close(), unix.Close(w.event), w.home.pool.release())
	return errors.Join(errs...)
}

// linux is the real kernel. Its calls never block: they are bounded by the transmit budget, so the runtime need not be
// told about them (RawSyscall).
type linux struct {
	link int         // any IP socket, for ioctls about interfaces
	req  *unix.Ifreq // their argument
}

func (*linux) transmit(p *xskPort) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(p.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}

func (*linux) receive(p *xskPort) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(p.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}

// running asks by index, so that renaming the interface does no harm.
func (k *linux) running(p *xskPort) (bool, error) {
	r := k.req
	r.SetUint32(uint32(p.dev.Index))
	if err := unix.IoctlIfreq(k.link, unix.SIOCGIFNAME, r); err != nil {
		return false, os.NewSyscallError("ioctl SIOCGIFNAME", err)
	}
	if err := unix.IoctlIfreq(k.link, unix.SIOCGIFFLAGS, r); err != nil {
		return false, os.NewSyscallError("ioctl SIOCGIFFLAGS", err)
	}
	const up = unix.IFF_UP | unix.IFF_RUNNING
	return r.Uint16()&up == up, nil
}

func (*linux) statistics(p *xskPort) unix.XDPStatistics {
	s, err := xdpStatistics(p.fd)
	if err != nil {
		return p.last
	}
	return s
}

func (k *linux) close() error { return unix.Close(k.link) }

var _ socketWire = (*xskWire)(nil)
