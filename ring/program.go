package ring

import (
	"errors"
	"fmt"
	"time"

	"corewire/internal/packet"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// The committed objects are those of clang 14 (Debian 12); another version gives other bytes. Paths do not show in them.
//
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -strip llvm-strip-14 -output-stem wire -target bpfel,bpfeb -type beat -type counters program bpf/wire.c -- -Wall -Wextra -Werror

// FailMode says what becomes of frames that no worker can decide about: the process is dead, its worker hangs, or its
// socket is gone. The XDP program holds to it without any process.
type FailMode uint8

const (
	FailClosed FailMode = iota // drop them: nothing passes undecided
	FailOpen                   // pass them to the other port: the wire stays up and filters nothing
)

// String returns the mode's spelling in flags and reports.
func (m FailMode) String() string {
	if m == FailOpen {
		return "open"
	}
	return "closed"
}

// Limits and default of the heartbeat's timeout.
const (
	// DefaultHeartbeatTimeout is how long a worker may be silent before its frames get the fail mode. A shorter one
	// takes a stall of the machine for a death, and lets frames pass unfiltered or drops them for nothing; a longer
	// one lets a hanging worker swallow traffic for as long. A worker that died needs no timeout: its sockets are gone.
	DefaultHeartbeatTimeout = time.Second
	// MinHeartbeatTimeout is well above a worker's longest sleep and the 10 ms of the coarse clock at HZ=100.
	MinHeartbeatTimeout = 50 * time.Millisecond
	MaxHeartbeatTimeout = time.Minute
)

// Counters are one port's frames as the XDP program counted them, since the interfaces were first attached: a process
// that takes over from a killed one goes on with them, so they also tell what happened while no process ran.
// ToSocket + FailOpen + FailClosed is every frame; Stale + NoSocket == FailOpen + FailClosed.
type Counters struct {
	ToSocket   uint64 // redirected to a worker's socket
	Stale      uint64 // the worker's heartbeat was too old, or it has none yet
	NoSocket   uint64 // the heartbeat was in time, but the queue has no socket
	FailOpen   uint64 // passed to the other port unfiltered
	FailClosed uint64 // dropped
}

// programConfig describes the two instances of the XDP program.
type programConfig struct {
	Queues  int               // of each port
	Fail    FailMode          //
	Timeout time.Duration     // of the heartbeat
	Index   [packet.Ports]int // interface of each port; read only with FailOpen
	Counts  *ebpf.Map         // the counters to go on with, nil for new ones. The caller keeps his handle
}

// program is the XDP program, loaded: one instance per port (bpf/wire.c has the drawing), their maps, and the heartbeat
// array mapped into this process.
type program struct {
	port   [packet.Ports]instance
	beats  *ebpf.Map
	counts *ebpf.Map
	beat   []byte // the mapping of beats: one programBeat per queue
}

type instance struct {
	prog *ebpf.Program
	xsks *ebpf.Map // by queue: the socket
}

// newProgram loads both instances into the kernel. Nothing is attached. No socket is in the maps and no heartbeat has
// been written, so every frame would get the fail mode. Needs CAP_BPF and CAP_NET_ADMIN; with FailOpen, the network
// namespace of the interfaces.
func newProgram(c programConfig) (_ *program, err error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise memlock limit: %w", err)
	}
	p := &program{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	coarse := features.HaveProgramHelper(ebpf.XDP, asm.FnKtimeGetCoarseNs) == nil
	for port := range p.port {
		if err := p.load(packet.Port(port), &c, coarse); err != nil {
			return nil, fmt.Errorf("load xdp program for %s port: %w", packet.Port(port), err)
		}
	}
	if err := p.mapBeats(c.Queues); err != nil {
		return nil, err
	}
	return p, nil
}

// load makes the instance of one port. The first one also makes the maps that both share.
func (p *program) load(port packet.Port, c *programConfig, coarse bool) error {
	spec, err := loadProgram()
	if err != nil {
		return err
	}
	spec.Maps[programMapXsks].MaxEntries = uint32(c.Queues)
	spec.Maps[programMapBeats].MaxEntries = uint32(c.Queues)
	var vars programVariableSpecs
	if err := spec.Assign(&vars); err != nil {
		return err
	}
	err = errors.Join(
		vars.Port.Set(uint32(port)),
		vars.FailOpen.Set(flag(c.Fail == FailOpen)),
		vars.Coarse.Set(flag(coarse)),
		vars.Timeout.Set(uint64(c.Timeout)),
	)
	if err != nil {
		return err
	}
	replace := map[string]*ebpf.Map{}
	if p.beats != nil {
		replace[programMapBeats], replace[programMapCounts] = p.beats, p.counts
	} else if c.Counts != nil {
		replace[programMapCounts] = c.Counts
	}
	var o programObjects
	err = spec.LoadAndAssign(&o, &ebpf.CollectionOptions{MapReplacements: replace})
	if errors.Is(err, unix.EINVAL) {
		// Before Linux 5.18 there is no flag for programs that bear frames in several buffers; such frames did not
		// exist then, so that the flag is not missed.
		spec.Programs[programProgCorewire].Flags &^= unix.BPF_F_XDP_HAS_FRAGS
		if spec.LoadAndAssign(&o, &ebpf.CollectionOptions{MapReplacements: replace}) == nil {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	p.port[port] = instance{prog: o.Corewire, xsks: o.Xsks}
	if p.beats == nil {
		p.beats, p.counts = o.Beats, o.Counts
	} else {
		err = errors.Join(o.Beats.Close(), o.Counts.Close()) // duplicates of the handles in p
	}
	if c.Fail == FailOpen {
		if e := o.Other.Put(uint32(0), uint32(c.Index[port.Other()])); e != nil {
			err = errors.Join(err, fmt.Errorf("enter other port into devmap: %w", e))
		}
	}
	return errors.Join(err, o.Other.Close()) // the program holds the map
}

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// setSocket gives the frames of (port, queue) to the AF_XDP socket fd.
func (p *program) setSocket(port packet.Port, queue uint32, fd int) error {
	if err := p.port[port].xsks.Put(queue, uint32(fd)); err != nil {
		return fmt.Errorf("enter socket into xskmap of %s port queue %d: %w", port, queue, err)
	}
	return nil
}

// clearSockets takes all sockets out, so that every frame gets the fail mode from now on.
func (p *program) clearSockets() error {
	var errs []error
	for port := range p.port {
		m := p.port[port].xsks
		if m == nil {
			continue
		}
		for q := range m.MaxEntries() {
			if err := m.Delete(q); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				errs = append(errs, fmt.Errorf("empty xskmap of %s port queue %d: %w", packet.Port(port), q, err))
			}
		}
	}
	return errors.Join(errs...)
}

// counters overwrites c with the counters of both ports.
func (p *program) counters(c *[packet.Ports]Counters) error {
	for port := range c {
		var cpus []programCounters
		if err := p.counts.Lookup(uint32(port), &cpus); err != nil {
			return fmt.Errorf("read xdp counters of %s port: %w", packet.Port(port), err)
		}
		s := &c[port]
		*s = Counters{}
		for i := range cpus {
			s.ToSocket += cpus[i].ToSocket
			s.Stale += cpus[i].Stale
			s.NoSocket += cpus[i].NoSocket
			s.FailOpen += cpus[i].FailOpen
			s.FailClosed += cpus[i].FailClosed
		}
	}
	return nil
}

// close releases this process's handles. An attached instance lives on with its maps.
func (p *program) close() error {
	err := p.unmapBeats()
	for i := range p.port {
		err = errors.Join(err, p.port[i].prog.Close(), p.port[i].xsks.Close())
	}
	return errors.Join(err, p.beats.Close(), p.counts.Close())
}
