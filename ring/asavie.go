package ring

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"corewire/internal/packet"

	"github.com/asavie/xdp"
	"golang.org/x/sys/unix"
)

// asavieWire is a Wire over two sockets of github.com/asavie/xdp v0.3.3, for kernels that cannot share a UMEM across
// devices (before 5.10). Each socket has a UMEM of its own, so frames are copied between it and the pool, once on
// reception and once on transmission.
//
// What the library does wrong, and what is done about it:
//
//   - Its bind flags are a package variable: set under a lock around each open.
//   - Its own list of free descriptors counts received frames as free before they are sent, is scanned linearly and
//     reserves nothing: we keep our own, and hand in descriptors that we made. The UMEM's first half is for
//     reception, the second for transmission.
//   - Complete does not say what completed: the rings are mapped a second time, and read before it consumes them.
//   - Transmit kicks the kernel for each call and panics on errnos such as ENETDOWN, after it has queued the frames: it
//     is called once per Flush, with as many frames as fit, and a panic means that the kick failed, which is then
//     repeated here with the errno looked at. What it leaves in the ring on EAGAIN and EBUSY is kicked again.
//   - Close leaves the ring mappings behind, and with them the bound socket: they are looked up in /proc/self/maps and
//     unmapped.
//   - Ring indices are plain loads and stores: right on amd64 only, whose memory order is strong enough.
//   - Errors hide their errno in text: it is read from there.
//
// Program and its Attach are not used: the Link puts the sockets into its own XSKMAP.
type asavieWire struct {
	xskWire // sockets, rings (mapped a second time), Wait, Wake, Stats; the pool's part
	socket  [packet.Ports]asavieSocket
}

// asavieSocket is the library's part of a port.
type asavieSocket struct {
	xsk     *xdp.Socket
	rings   []mapping  // the library's ring mappings
	free    []uint64   // UMEM addresses for transmission that nobody uses
	pending []xdp.Desc // filled and waiting for Flush
}

// asavieFlags guards xdp.DefaultSocketFlags, the library's package variable, while a socket is opened.
var asavieFlags sync.Mutex

// openAsavie makes one wire per worker over sockets of github.com/asavie/xdp. It takes and returns the same as openXSK.
func openAsavie(c socketConfig) (out []socketWire, err error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("open asavie driver: not on %s (its ring accesses need amd64's memory order)", runtime.GOARCH)
	}
	if err := c.fill(); err != nil {
		return nil, err
	}
	pool, err := NewPool(c.Pool)
	if err != nil {
		return nil, err
	}
	pool.retain()
	defer func() {
		if err != nil {
			for _, w := range out {
				err = errors.Join(err, w.Close())
			}
			out = nil
		}
		err = errors.Join(err, pool.release())
	}()
	for i := range c.Pool.Workers {
		x, err := newXSKWire(pool, i)
		if err != nil {
			return out, err
		}
		w := &asavieWire{}
		w.adopt(x)
		out = append(out, w)
		for port := range w.port {
			if err := w.open(packet.Port(port), &c); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// adopt takes over what newXSKWire opened.
func (w *asavieWire) adopt(x *xskWire) {
	w.home, w.kernel, w.queue, w.event, w.polls = x.home, x.kernel, x.queue, x.event, x.polls
	w.taker = w
	for i := range w.port {
		w.port[i].fd, w.port[i].queue = -1, w.queue
	}
}

// open makes the port's socket and fills its fill ring.
func (w *asavieWire) open(port packet.Port, c *socketConfig) error {
	p, s := &w.port[port], &w.socket[port]
	p.dev = c.Port[port]
	n, size := c.RingSize, c.Pool.ChunkSize
	x, err := newAsavieSocket(p.dev.Index, int(p.queue), c.Copy, &xdp.SocketOptions{
		NumFrames: 2 * n, FrameSize: size,
		FillRingNumDescs: n, CompletionRingNumDescs: n, RxRingNumDescs: n, TxRingNumDescs: n,
	})
	if err != nil {
		hint := socketHint(err)
		if hint != "" {
			hint = " (" + hint + ")"
		}
		return fmt.Errorf("open asavie socket %s queue %d: %w%s", p.dev.Name, p.queue, err, hint)
	}
	s.xsk, p.fd = x, x.FD()
	if s.rings, err = socketMappings(p.fd); err == nil {
		err = p.mapRings(uint32(n))
	}
	if err != nil {
		return fmt.Errorf("map rings of asavie socket %s queue %d: %w", p.dev.Name, p.queue, err)
	}
	p.mode.TXBudget = kernelTXBudget
	if unix.SetsockoptInt(p.fd, unix.SOL_XDP, xdpMaxTXBudget, c.TXBudget) == nil {
		p.mode.TXBudget = c.TXBudget
	}
	if o, err := xdpOptions(p.fd); err == nil {
		p.mode.ZeroCopy = o&unix.XDP_OPTIONS_ZEROCOPY != 0
	}
	s.free = make([]uint64, 0, n)
	s.pending = make([]xdp.Desc, 0, n)
	fill := make([]xdp.Desc, 0, n)
	for i := range n {
		fill = append(fill, xdp.Desc{Addr: uint64(i * size)})
		s.free = append(s.free, uint64((2*n-1-i)*size))
	}
	s.xsk.Fill(fill)
	w.polls[port] = unix.PollFd{Fd: int32(p.fd), Events: unix.POLLIN}
	return nil
}

// newAsavieSocket opens a socket, again for a second while its queue is taken, as bindRetry does.
func newAsavieSocket(dev, queue int, mode CopyMode, o *xdp.SocketOptions) (*xdp.Socket, error) {
	asavieFlags.Lock()
	defer asavieFlags.Unlock()
	const tries, pause = 50, 20 * time.Millisecond
	for i := 0; ; i++ {
		before, err := orphanMappings(nil)
		if err != nil {
			return nil, err
		}
		old := xdp.DefaultSocketFlags
		xdp.DefaultSocketFlags = mode.flags() &^ unix.XDP_USE_NEED_WAKEUP // the library never looks whether to wake
		x, err := xdp.NewSocket(dev, queue, o)
		xdp.DefaultSocketFlags = old
		if err == nil {
			return x, nil
		}
		err = withErrno(err)
		// A failed open leaves its mappings behind as well, and the descriptor that would name them is closed.
		left, e := orphanMappings(before)
		if e == nil {
			e = unmap(left)
		}
		if e != nil || !errors.Is(err, unix.EBUSY) || i == tries {
			return nil, errors.Join(err, e)
		}
		time.Sleep(pause)
	}
}

// withErrno makes the errno that the library put into the text of an error visible to errors.Is.
func withErrno(err error) error {
	for _, e := range [...]unix.Errno{unix.EBUSY, unix.EINVAL, unix.EOPNOTSUPP, unix.EPERM, unix.EACCES, unix.ENODEV, unix.ENETDOWN, unix.EAFNOSUPPORT, unix.ENOBUFS, unix.ENOMEM, unix.EMFILE} {
		if strings.HasSuffix(err.Error(), e.Error()) {
			return fmt.Errorf("%s%w", strings.TrimSuffix(err.Error(), e.Error()), e)
		}
	}
	return err
}

// mapping is a part of the address space.
type mapping struct {
	start, end uintptr
	socket     string // the socket that is mapped, as in /proc: "socket:[inode]"
}

// socketMappings returns the mappings of the socket fd.
func socketMappings(fd int) ([]mapping, error) {
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return nil, err
	}
	all, err := allSocketMappings()
	if err != nil {
		return nil, err
	}
	var ms []mapping
	for _, m := range all {
		if m.socket == name {
			ms = append(ms, m)
		}
	}
	return ms, nil
}

// orphanMappings returns the mappings of sockets that have no descriptor any more, without those in known.
func orphanMappings(known []mapping) ([]mapping, error) {
	all, err := allSocketMappings()
	if err != nil {
		return nil, err
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	skip := map[string]bool{}
	for _, fd := range fds {
		if name, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			skip[name] = true
		}
	}
	for _, m := range known {
		skip[m.socket] = true
	}
	var ms []mapping
	for _, m := range all {
		if !skip[m.socket] {
			ms = append(ms, m)
		}
	}
	return ms, nil
}

// allSocketMappings reads /proc/self/maps: "start-end perms offset dev inode name".
func allSocketMappings() ([]mapping, error) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var ms []mapping
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || !strings.HasPrefix(fields[5], "socket:[") {
			continue
		}
		start, end, _ := strings.Cut(fields[0], "-")
		s, err1 := strconv.ParseUint(start, 16, 64)
		e, err2 := strconv.ParseUint(end, 16, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("read /proc/self/maps: %w", err)
		}
		ms = append(ms, mapping{start: uintptr(s), end: uintptr(e), socket: fields[5]})
	}
	return ms, lines.Err()
}

// unmap unmaps mappings that another package made and forgot.
func unmap(ms []mapping) error {
	var errs []error
	for _, m := range ms {
		if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, m.start, m.end-m.start, 0); errno != 0 {
			errs = append(errs, os.NewSyscallError("munmap", errno))
		}
	}
	return errors.Join(errs...)
}

// Receive is Wire.Receive. It copies into chunks of the pool and gives the UMEM's frames back to the kernel at once.
func (w *asavieWire) Receive(port packet.Port, f []packet.Frame) int {
	p, s := &w.port[port], &w.socket[port]
	if p.gone {
		return 0
	}
	if len(w.home.free) < len(f) {
		w.home.settle()
	}
	want := min(len(f), len(p.rx.slots), len(w.home.free))
	n := int(p.rx.ready(uint32(want)))
	if n == 0 {
		return 0
	}
	pool := w.home.pool
	size, half := uint64(pool.ChunkSize()), uint64(len(p.rx.slots))<<pool.shift
	for i := range uint32(n) {
		if d := p.rx.get(i); d.addr >= half || uint64(d.len) > size-d.addr&(size-1) {
			p.count.rxBad.Add(1)
			n = int(i) // the library would panic on it: take what is before, then nothing more
			p.gone = n == 0
			break
		}
	}
	ds := s.xsk.Receive(n)
	p.rx.next += uint32(len(ds)) // the library consumed them
	k := 0
	for i := range ds {
		frame, ok := pool.frame(pool.base(w.home.free[len(w.home.free)-1])+Headroom, ds[i].Len)
		if ok {
			w.home.pop(ownerCaller)
			copy(frame.Data, s.xsk.GetFrame(ds[i]))
			f[k] = frame
			k++
		} else {
			p.count.rxBad.Add(1) // longer than a chunk of the pool has room for
		}
		ds[i] = xdp.Desc{Addr: ds[i].Addr &^ (size - 1)}
	}
	s.xsk.Fill(ds) // takes all: the ring has a slot for every frame of the UMEM's first half
	w.home.given += uint64(k)
	p.count.rx.Add(uint64(k))
	return k
}

// Send is Wire.Send. It copies into the UMEM; the chunks go home at once.
func (w *asavieWire) Send(port packet.Port, f []packet.Frame) int {
	p, s := &w.port[port], &w.socket[port]
	if p.down {
		w.home.put(f)
		p.count.txDown.Add(uint64(len(f)))
		return len(f)
	}
	n := min(len(f), len(s.free))
	size := w.home.pool.ChunkSize()
	sent := 0
	for i := range f[:n] {
		data := f[i].Data
		if len(data) == 0 || len(data) > size {
			p.count.txLost.Add(1)
			continue
		}
		last := len(s.free) - 1
		d := xdp.Desc{Addr: s.free[last], Len: uint32(len(data))}
		s.free = s.free[:last]
		copy(s.xsk.GetFrame(d), data)
		s.pending = append(s.pending, d)
		sent++
	}
	w.home.put(f[:n])
	p.txOut += sent
	p.count.tx.Add(uint64(sent))
	if n < len(f) {
		p.count.txFull.Add(uint64(len(f) - n))
	}
	return n
}

// Flush is Wire.Flush.
func (w *asavieWire) Flush() error {
	w.home.settle()
	var err error
	for i := range w.port {
		p := &w.port[i]
		w.reclaim(p)
		w.submit(packet.Port(i))
		if p.gone || p.down || p.tx.waiting() > 0 {
			if e := w.transmit(p); e != nil {
				err = e
			}
		}
	}
	return err
}

// submit puts the pending frames into the TX ring. The library kicks the kernel as it does so.
func (w *asavieWire) submit(port packet.Port) {
	p, s := &w.port[port], &w.socket[port]
	// The kernel publishes its index late, so the ring may look fuller than it is; the rest waits.
	n := min(len(s.pending), s.xsk.NumFreeTxSlots())
	if n == 0 || p.gone {
		return
	}
	p.count.kicks.Add(1)
	transmitAll(s.xsk, s.pending[:n])
	p.tx.next += uint32(n)
	s.pending = s.pending[:copy(s.pending, s.pending[n:])]
}

// transmitAll queues all of ds, which fit. A panic of the library comes after that, from an errno of the kick that it
// does not know; the caller kicks again and finds out.
func transmitAll(x *xdp.Socket, ds []xdp.Desc) {
	defer func() { _ = recover() }()
	x.Transmit(ds)
}

// reclaim takes transmitted frames of the UMEM back.
func (w *asavieWire) reclaim(p *xskPort) {
	s := &w.socket[packet.Inside]
	if p == &w.port[packet.Outside] {
		s = &w.socket[packet.Outside]
	}
	n := p.completion.ready(uint32(len(p.completion.slots)))
	if n == 0 || p.gone {
		return
	}
	size := uint64(w.home.pool.ChunkSize())
	half := uint64(len(p.completion.slots)) * size
	for i := range n {
		addr := p.completion.get(i) &^ (size - 1)
		if addr < half || addr >= 2*half {
			p.count.txBad.Add(1)
			if addr >= 2*half { // the library would panic
				p.gone = true
				return
			}
			continue
		}
		s.free = append(s.free, addr)
		p.txOut--
	}
	s.xsk.Complete(int(n))
	p.completion.next += n // the library consumed them
}

// Account is Wire.Account. Chunks of the pool are free or with the caller: sockets have memory of their own.
func (w *asavieWire) Account(a *Account) { w.home.account(a) }

// Close is Wire.Close.
func (w *asavieWire) Close() error {
	var errs []error
	w.mu.Lock()
	closed := w.closed
	if !closed {
		for i := range w.port {
			p, s := &w.port[i], &w.socket[i]
			if s.xsk == nil {
				continue
			}
			p.last = w.kernel.statistics(p)
			p.fd = -1 // the library closes it
			w.polls[i].Fd = -1
			if err := s.xsk.Close(); err != nil {
				errs = append(errs, fmt.Errorf("close asavie socket %s queue %d: %w", p.dev.Name, p.queue, err))
			}
			errs = append(errs, unmap(s.rings))
			s.rings = nil
		}
	}
	w.mu.Unlock()
	return errors.Join(append(errs, w.xskWire.Close())...)
}

var _ socketWire = (*asavieWire)(nil)
