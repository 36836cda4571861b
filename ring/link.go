package ring

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"corewire/internal/packet"

	"golang.org/x/sys/unix"
)

// Driver chooses how frames come from the sockets.
type Driver uint8

const (
	DriverAuto   Driver = iota // DriverXSK, and where the kernel cannot do it, DriverAsavie
	DriverXSK                  // own sockets over one UMEM, no copy in user space (Linux 5.10)
	DriverAsavie               // github.com/asavie/xdp, one UMEM per socket, one copy in user space
)

// String returns the driver's spelling in flags and reports.
func (d Driver) String() string {
	switch d {
	case DriverXSK:
		return "xsk"
	case DriverAsavie:
		return "asavie"
	}
	return "auto"
}

// Config describes a link: two interfaces and how to take the frames off them. Zero values mean defaults.
type Config struct {
	Inside  string // interface of the protected side; alternative names are fine
	Outside string // interface of the other side

	// Workers is the number of wires, and so of queues of each interface. 0: as many as the interfaces have queues.
	// Another number than they have is set with ethtool's channels, and refused where that is impossible.
	Workers int

	XDPMode          XDPMode
	CopyMode         CopyMode
	FailMode         FailMode
	Driver           Driver
	ChunkSize        int           // bytes: 2048 or 4096; 0: the smallest that holds the MTU
	Chunks           int           // per worker; default DefaultChunks
	RingSize         int           // slots of each ring, a power of two; default DefaultRingSize
	TXBudget         int           // frames per transmitting system call in copy mode; default 256
	HeartbeatTimeout time.Duration // 50 ms to 1 min; default DefaultHeartbeatTimeout
	PinPath          string        // directory on a bpffs; default /sys/fs/bpf/corewire, or a bpffs of our own in /run/corewire
	StatePath        string        // file; default /run/corewire/<inside>-<outside>.json
}

// Link is two interfaces with the XDP program on them, and the wires behind it.
//
// Life: Open, then the workers use Wires and call Beat at least once in half a HeartbeatTimeout each, then the workers
// end, then Close. Report, Counters and Up are for any goroutine until Close; Beat of a worker is for its goroutine.
//
// If the process dies, the kernel closes the sockets, the pinned program stays on both interfaces and holds to the fail
// mode, and the interfaces keep the wire's settings. Another Open of the same interfaces takes over, replacing the
// program in place; Release gives the interfaces back instead.
type Link struct {
	wires   []Wire
	sockets []socketWire
	prog    *program
	host    *host
	device  [packet.Ports]*device
	file    *recordFile
	record  *record
	base    string
	pins    *pins
	carrier *carrier
	report  Report
}

// Open checks the interfaces, changes and records their settings, opens the sockets and attaches the program. On error
// the interfaces are as they were, including what a killed process left on them for the fail mode.
//
// It must be called on a thread in the interfaces' network namespace; the link's methods may then be called on any
// thread. Needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF, and CAP_SYS_ADMIN if no bpffs is mounted. Linux 5.9 at least:
// XDP links.
func Open(c Config) (_ *Link, err error) {
	runtime.LockOSThread() // the network namespace is the thread's
	defer runtime.UnlockOSThread()

	l := &Link{}
	var undo []func() error
	defer func() {
		if err == nil {
			return
		}
		errs := []error{fmt.Errorf("open link: %w", err)}
		for i := len(undo) - 1; i >= 0; i-- {
			errs = append(errs, undo[i]())
		}
		err = errors.Join(errs...)
	}()

	if err := c.check(); err != nil {
		return nil, err
	}
	if err := missingCapabilities(needsMount(c.PinPath)); err != nil {
		return nil, err
	}
	if l.host, err = openHost(); err != nil {
		return nil, err
	}
	undo = append(undo, l.host.close)
	if err := l.look(&c); err != nil {
		return nil, err
	}

	// Whose are the interfaces? From here on ours, if nobody else's.
	in, out := l.device[packet.Inside], l.device[packet.Outside]
	pair := pairName(in.name, out.name)
	if l.file, err = lockRecord(c.statePath(pair)); err != nil {
		return nil, err
	}
	undo = append(undo, l.file.unlock)
	former, err := l.file.read()
	if err != nil {
		return nil, err
	}
	err = lockDir(func() (err error) {
		if l.base, err = pinBase(c.PinPath); err != nil {
			return err
		}
		l.pins, err = loadPins(filepath.Join(l.base, pinName(pair)))
		return err
	})
	if l.base != "" {
		undo = append(undo, func() error { return lockDir(func() error { return dropBase(l.base) }) })
	}
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() error {
		err := l.pins.close()
		l.pins.tidy()
		return err
	})
	for _, d := range l.device {
		if err := l.pins.checkXDP(d); err != nil {
			return nil, err
		}
	}

	// Settings, recorded before they are changed.
	undoSettings, err := l.settings(&c, former)
	undo = append(undo, undoSettings)
	if err != nil {
		return nil, err
	}

	// Sockets, and the program that knows them. Nothing gets frames yet.
	queues := l.device[packet.Inside].rx
	if err := l.open(&c, queues, openXSK, openAsavie); err != nil {
		return nil, err
	}
	undo = append(undo, l.closeWires)
	l.prog, err = newProgram(programConfig{
		Queues: queues, Fail: c.FailMode, Timeout: c.HeartbeatTimeout, Index: [packet.Ports]int{in.index, out.index}, Counts: l.pins.counts,
	})
	if err != nil {
		return nil, err
	}
	undo = append(undo, l.prog.close)
	now, err := now()
	if err != nil {
		return nil, err
	}
	for _, w := range l.sockets {
		l.prog.setBeat(int(w.Queue()), now) // until the workers run, the sockets' rings hold the frames
		for port := range l.device {
			if err := l.prog.setSocket(packet.Port(port), w.Queue(), w.FD(packet.Port(port))); err != nil {
				return nil, err
			}
		}
	}
	if l.carrier, err = watchCarrier(l.host, &l.device); err != nil {
		return nil, err
	}
	undo = append(undo, func() error { l.carrier.close(); return nil })

	// Now the frames come.
	undo = append(undo, func() error { return errors.Join(l.prog.clearSockets(), quiesce(), l.pins.rollback()) })
	for port, d := range l.device {
		taken, err := l.pins.attach(d, l.prog.port[port].prog, c.XDPMode)
		if err != nil {
			return nil, err
		}
		l.report.Port[port].TakenOver = taken
	}
	if err := l.pins.pinCounters(l.prog.counts); err != nil {
		return nil, err
	}
	if err := l.fillReport(&c); err != nil {
		return nil, err
	}
	if err := l.pins.commit(); err != nil {
		return nil, err
	}
	return l, nil
}

// check replaces zero values by defaults where the packages below do not do it, and refuses what is out of range.
func (c *Config) check() error {
	if c.HeartbeatTimeout == 0 {
		c.HeartbeatTimeout = DefaultHeartbeatTimeout
	}
	switch {
	case c.HeartbeatTimeout < MinHeartbeatTimeout || c.HeartbeatTimeout > MaxHeartbeatTimeout:
		return fmt.Errorf("heartbeat timeout %v (%v to %v are possible)", c.HeartbeatTimeout, MinHeartbeatTimeout, MaxHeartbeatTimeout)
	case c.Workers < 0 || c.Workers > maxWorkers:
		return fmt.Errorf("%d workers (0 for as many as queues, or 1 to %d)", c.Workers, maxWorkers)
	case c.XDPMode > Generic:
		return fmt.Errorf("xdp mode %d is unknown", c.XDPMode)
	case c.CopyMode > ZeroCopy:
		return fmt.Errorf("copy mode %d is unknown", c.CopyMode)
	case c.FailMode > FailOpen:
		return fmt.Errorf("fail mode %d is unknown", c.FailMode)
	case c.Driver > DriverAsavie:
		return fmt.Errorf("driver %d is unknown", c.Driver)
	case c.XDPMode == Generic && c.CopyMode == ZeroCopy:
		return errors.New("zero copy needs xdp mode native: in generic mode the kernel always copies")
	}
	return nil
}

func (c *Config) statePath(pair string) string {
	if c.StatePath != "" {
		return c.StatePath
	}
	return filepath.Join(runDir, pair+".json")
}

// look finds both interfaces and refuses what cannot work. It changes nothing.
func (l *Link) look(c *Config) error {
	for port, name := range [packet.Ports]string{c.Inside, c.Outside} {
		d, err := l.host.device(packet.Port(port), name)
		if err != nil {
			return err
		}
		l.device[port] = d
	}
	in, out := l.device[packet.Inside], l.device[packet.Outside]
	for _, d := range l.device {
		if err := l.host.checkDevice(d); err != nil {
			return err
		}
	}
	if err := checkPair(in, out); err != nil {
		return err
	}
	if in.rx != out.rx && c.Workers == 0 {
		return fmt.Errorf("inside interface %s has %d queues, outside interface %s has %d (a worker serves the same queue of both: "+
			"ethtool -L makes them equal, or give the number of workers)", in.name, in.rx, out.name, out.rx)
	}
	size, err := chunkFor(in.mtu, c.ChunkSize)
	if err != nil {
		return err
	}
	c.ChunkSize = size
	return nil
}

// settings records and changes the interfaces' settings. undo, never nil, takes back what this call did: with former,
// the record and settings of the former process stay.
func (l *Link) settings(c *Config, former *record) (undo func() error, err error) {
	undo = func() error { return nil }
	netns, err := netnsCookie()
	if err != nil {
		return undo, err
	}
	r := &record{Version: recordVersion, PID: unix.Getpid(), Netns: netns, Pins: l.pins.dir}
	var before [packet.Ports][]Setting // the former process's
	for port, d := range l.device {
		before[port] = former.settings(d.port, netns, d.index)
		channels := 0
		if c.Workers != 0 && c.Workers != d.rx {
			channels = c.Workers
		}
		plan, notes, err := l.host.plan(d, channels, before[port])
		if err != nil {
			return undo, err
		}
		r.Port[port] = recordPort{Name: d.name, Index: d.index, Settings: plan}
		l.report.Port[port].Notes = notes
	}
	if err := l.file.write(r); err != nil {
		return undo, err
	}
	l.record = r
	var done [packet.Ports][]Setting
	undo = func() error {
		var errs []error
		for port := len(l.device) - 1; port >= 0; port-- {
			errs = append(errs, l.host.restore(l.device[port], without(done[port], before[port])))
		}
		if former != nil {
			errs = append(errs, l.file.write(former))
		} else {
			errs = append(errs, l.file.remove())
		}
		return errors.Join(errs...)
	}
	for port, d := range l.device {
		var notes []string
		done[port], notes, err = l.host.apply(d, r.Port[port].Settings)
		l.report.Port[port].Notes = append(l.report.Port[port].Notes, notes...)
		if err != nil {
			return undo, err
		}
		r.Port[port].Settings = done[port]
	}
	if in, out := l.device[packet.Inside], l.device[packet.Outside]; in.rx != out.rx {
		return undo, fmt.Errorf("inside interface %s has %d queues, outside interface %s has %d", in.name, in.rx, out.name, out.rx)
	}
	return undo, l.file.write(r)
}

// without returns the settings of a that b has not.
func without(a, b []Setting) []Setting {
	var s []Setting
	for i := range a {
		found := false
		for j := range b {
			found = found || a[i].Name == b[j].Name
		}
		if !found {
			s = append(s, a[i])
		}
	}
	return s
}

// open makes the wires with the driver asked for: xsk is openXSK, asavie openAsavie.
func (l *Link) open(c *Config, queues int, xsk, asavie func(socketConfig) ([]socketWire, error)) error {
	s := socketConfig{
		Pool:     PoolConfig{Workers: queues, Chunks: c.Chunks, ChunkSize: c.ChunkSize},
		RingSize: c.RingSize,
		Copy:     c.CopyMode,
		TXBudget: c.TXBudget,
	}
	for port, d := range l.device {
		s.Port[port] = socketDev{Name: d.name, Index: d.index}
	}
	var err error
	if c.Driver != DriverAsavie {
		l.report.Driver = DriverXSK
		l.sockets, err = xsk(s)
	}
	if c.Driver == DriverAsavie || c.Driver == DriverAuto && errors.Is(err, errNoSharedUMEM) {
		l.report.Driver = DriverAsavie
		if err != nil {
			l.report.Fallback = err.Error()
		}
		l.sockets, err = asavie(s)
	}
	if err != nil {
		return err
	}
	for _, w := range l.sockets {
		l.wires = append(l.wires, w)
	}
	return nil
}

func (l *Link) closeWires() error {
	var errs []error
	for _, w := range l.wires {
		errs = append(errs, w.Close())
	}
	return errors.Join(errs...)
}

// now reads the clock that heartbeats are written in.
func now() (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("read monotonic clock: %w", err)
	}
	return ts.Nano(), nil
}

// quiesce waits until no CPU runs the program with a socket that was taken out of the maps before the call.
// MEMBARRIER_CMD_GLOBAL is an RCU grace period (kernel/sched/membarrier.c), and XDP runs in an RCU read section up to the
// flush of its redirects. Where the command is refused (nohz_full), a time replaces it that no driver's poll takes.
func quiesce() error {
	const global = 1 // MEMBARRIER_CMD_GLOBAL
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}

// Wires returns the wires, one per worker, by worker. The link owns them: Close closes them.
func (l *Link) Wires() []Wire { return l.wires }

// Beat says that a worker is alive: its loop came by at now, in ns of CLOCK_MONOTONIC. When the last beat of a worker is
// older than the heartbeat timeout, its frames get the fail mode, until it beats again. 0 says that it has ended.
// The worker's loop itself must call it, nobody on its behalf. It is one store, and must not be called after Close began.
func (l *Link) Beat(worker int, now int64) { l.prog.setBeat(int(l.sockets[worker].Queue()), now) }

// Counters overwrites c with what the XDP program counted, by port.
func (l *Link) Counters(c *[packet.Ports]Counters) error { return l.prog.counters(c) }

// Up reports whether the port's interface is up and has carrier.
func (l *Link) Up(port packet.Port) bool { return l.carrier.up[port].Load() }

// Close ends the link: every frame gets the fail mode, then the sockets are closed, the program is detached and unpinned,
// and the interfaces get their settings back. The workers must have ended. It does all it can and joins the errors.
func (l *Link) Close() error {
	errs := []error{l.fail()}
	errs = append(errs, l.pins.remove(), l.pins.close(), l.prog.close())
	for port := len(l.device) - 1; port >= 0; port-- {
		errs = append(errs, l.host.restore(l.device[port], l.record.Port[port].Settings))
	}
	errs = append(errs, lockDir(func() error { return dropBase(l.base) }), l.file.remove(), l.file.unlock(), l.host.close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close link: %w", err)
	}
	return nil
}

// Abandon ends the link and leaves the interfaces to the fail mode: as if the process had been killed, but at once, not
// when the heartbeat has grown too old. For a process that can no longer vouch for its decisions. The programs stay
// attached and the settings changed, until the next Open takes over or Release gives the interfaces back. The workers
// must have ended.
func (l *Link) Abandon() error {
	if err := errors.Join(l.fail(), l.pins.close(), l.prog.close(), l.file.unlock(), l.host.close()); err != nil {
		return fmt.Errorf("abandon link: %w", err)
	}
	return nil
}

// fail gives every frame to the fail mode, and then closes the sockets and ends the goroutine.
func (l *Link) fail() error {
	for _, w := range l.sockets {
		l.prog.setBeat(int(w.Queue()), 0)
	}
	err := errors.Join(l.prog.clearSockets(), quiesce(), l.closeWires())
	l.carrier.close()
	return err
}

// ErrNothingHeld says that there was nothing to release.
var ErrNothingHeld = errors.New("nothing to release")

// Release gives back the interfaces that a killed process held: detaches the program, removes the pins, restores the
// settings. Of c it reads Inside, Outside (as Open's, the interfaces may be gone), PinPath and StatePath. It fails if a
// process is alive that holds them, and returns ErrNothingHeld (wrapped) if nobody has left anything. Like Open, it must
// be called in the interfaces' network namespace.
func Release(c Config) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	wrap := func(err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("release %s and %s: %w", c.Inside, c.Outside, err)
	}
	if err := missingCapabilities(false); err != nil {
		return wrap(err)
	}
	h, err := openHost()
	if err != nil {
		return wrap(err)
	}
	names := [packet.Ports]string{c.Inside, c.Outside}
	for port, name := range names {
		if l, err := h.nl.LinkByName(name); err == nil {
			names[port] = l.Attrs().Name
		}
	}
	pair := pairName(names[packet.Inside], names[packet.Outside])
	f, err := lockRecord(c.statePath(pair))
	if err != nil {
		return wrap(errors.Join(err, h.close()))
	}
	err = h.release(f, c.PinPath, pair)
	return wrap(errors.Join(err, f.unlock(), h.close()))
}

// release undoes the record in f.
func (h *host) release(f *recordFile, pinPath, pair string) error {
	r, err := f.read()
	if err != nil {
		return err
	}
	netns, err := netnsCookie()
	if err != nil {
		return err
	}
	base, dir := filepath.Join(systemBPF, "corewire"), ""
	switch {
	case r != nil:
		base, dir = filepath.Dir(r.Pins), r.Pins
	case pinPath != "":
		base = pinPath
	case isBPF(ownBPF):
		base = ownBPF
	}
	if dir == "" {
		dir = filepath.Join(base, pinName(pair))
	}
	p, err := loadPins(dir)
	if err != nil {
		return err
	}
	if r == nil && p.link[packet.Inside] == nil && p.link[packet.Outside] == nil && p.counts == nil {
		return errors.Join(ErrNothingHeld, p.close())
	}
	errs := []error{p.remove(), p.close(), lockDir(func() error { return dropBase(base) })}
	if r != nil {
		for port := len(r.Port) - 1; port >= 0; port-- {
			d := r.Port[port].device(packet.Port(port))
			errs = append(errs, h.restore(d, r.settings(d.port, netns, d.index)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err // the record stays, for another try
	}
	return f.remove()
}
