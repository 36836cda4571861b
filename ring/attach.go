package ring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"corewire/internal/packet"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// XDPMode is where the program runs.
type XDPMode uint8

const (
	Native  XDPMode = iota // in the driver, before the kernel makes a packet of the frame
	Generic                // in the kernel's stack: any interface, several times slower
)

// String returns the mode's spelling in flags and reports.
func (m XDPMode) String() string {
	if m == Generic {
		return "generic"
	}
	return "native"
}

func (m XDPMode) flags() link.XDPAttachFlags {
	if m == Generic {
		return link.XDPGenericMode
	}
	return link.XDPDriverMode
}

// attachedGeneric is XDP_ATTACHED_SKB, the value of IFLA_XDP_ATTACHED in generic mode (include/uapi/linux/if_link.h).
const attachedGeneric = 2

// pinVersion is the version of what is pinned: program context, link type, form of the counters. Pins of another version
// cannot be taken over, only removed.
const pinVersion = "v1"

// Where BPF objects are pinned.
const (
	systemBPF = "/sys/fs/bpf"
	ownBPF    = runDir + "/bpf" // mounted by us if the system has none there
)

// isBPF reports whether path is on a bpffs.
func isBPF(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && uint32(s.Type) == unix.BPF_FS_MAGIC
}

// pinName makes a pin directory's name of a pair's: bpffs takes no dots (bpf_lookup in kernel/bpf/inode.c), interface
// names contain no colons.
func pinName(pair string) string { return strings.ReplaceAll(pair, ".", ":") }

// needsMount reports whether opening a wire must mount a bpffs first.
func needsMount(pinPath string) bool { return pinPath == "" && !isBPF(systemBPF) && !isBPF(ownBPF) }

// pinBase returns the directory for the pins of all wires: pinPath if given, which must be on a bpffs, else one in the
// system's bpffs, else our own bpffs. It makes what is missing. A machine's pins must outlive the process, hence bpffs.
func pinBase(pinPath string) (string, error) {
	switch {
	case pinPath != "":
		if err := os.MkdirAll(pinPath, 0o700); err != nil {
			return "", fmt.Errorf("make pin directory: %w", err)
		}
		if !isBPF(pinPath) {
			return "", fmt.Errorf("pin directory %s is not on a bpffs (mount -t bpf bpf DIRECTORY)", pinPath)
		}
		return pinPath, nil
	case isBPF(systemBPF):
		base := systemBPF + "/corewire"
		if err := os.MkdirAll(base, 0o700); err != nil {
			return "", fmt.Errorf("make pin directory: %w", err)
		}
		return base, nil
	}
	if err := os.MkdirAll(ownBPF, 0o700); err != nil {
		return "", fmt.Errorf("make pin directory: %w", err)
	}
	if !isBPF(ownBPF) {
		if err := unix.Mount("bpf", ownBPF, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return "", fmt.Errorf("mount bpffs at %s: %w", ownBPF, err)
		}
	}
	return ownBPF, nil
}

// dropBase removes what pinBase made, as far as no other wire uses it. base must be locked (lockDir).
func dropBase(base string) error {
	left, err := pinned(base)
	switch {
	case err != nil || len(left) > 0:
		return err
	case base == systemBPF+"/corewire":
		err = os.Remove(base)
	case base == ownBPF:
		if err = unix.Unmount(base, 0); err == nil {
			err = os.Remove(base)
		}
	}
	if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pin directory %s: %w", base, err)
	}
	return nil
}

// pinned returns the pin directories in base. A bpffs of its own also has files that the kernel put there (maps.debug,
// progs.debug).
func pinned(base string) (dirs []string, err error) {
	entries, err := os.ReadDir(base)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read pin directory: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, e.Name())
		}
	}
	return dirs, nil
}

// lockDir holds an exclusive lock on the directory of all wires while f runs, so that one process does not remove the
// bpffs that another one is about to use.
func lockDir(f func() error) error {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	d, err := os.Open(runDir)
	if err != nil {
		return fmt.Errorf("open run directory: %w", err)
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock run directory: %w", err)
	}
	return f()
}

// pins are the pinned objects of a wire: <base>/<pair>/v1/{inside,outside,counters}.
type pins struct {
	dir    string // <base>/<pair>
	link   [packet.Ports]link.Link
	info   [packet.Ports]linkInfo
	counts *ebpf.Map                   // the counters of a former process
	old    [packet.Ports]*ebpf.Program // what attach replaced, for undo
	undo   []func() error              // takes back what attach did, the last one first
}

// linkInfo is what the kernel says of a link.
type linkInfo struct {
	index int // interface; 0: it is gone
	prog  ebpf.ProgramID
}

func (p *pins) path(name string) string { return filepath.Join(p.dir, pinVersion, name) }

// loadPins opens what a former process pinned in dir, if anything. A pin that cannot be read is an error: it may hold
// the fail mode of a running wire.
func loadPins(dir string) (_ *pins, err error) {
	p := &pins{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	for port := range p.link {
		l, err := link.LoadPinnedLink(p.path(packet.Port(port).String()), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open pinned link of %s port: %w (remove %s if nothing uses it)", packet.Port(port), err, dir)
		}
		p.link[port] = l
		info, err := l.Info()
		if err != nil || info.XDP() == nil {
			return nil, fmt.Errorf("read pinned link of %s port: %w (remove %s if nothing uses it)", packet.Port(port), errors.Join(err, errNotXDP), dir)
		}
		p.info[port] = linkInfo{index: int(info.XDP().Ifindex), prog: info.Program}
	}
	m, err := ebpf.LoadPinnedMap(p.path("counters"), nil)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("open pinned counters: %w", err)
	default:
		p.counts = m
	}
	return p, nil
}

var errNotXDP = errors.New("not an xdp link")

// holds reports whether the program on d is the one of our pinned link.
func (p *pins) holds(d *device) bool {
	return p.link[d.port] != nil && p.info[d.port].index == d.index && d.attrs.Xdp != nil && uint32(p.info[d.port].prog) == d.attrs.Xdp.ProgId
}

// checkXDP refuses an interface that has another XDP program.
func (p *pins) checkXDP(d *device) error {
	x := d.attrs.Xdp
	if x == nil || !x.Attached || p.holds(d) {
		return nil
	}
	what := "several xdp programs"
	if x.ProgId != 0 {
		name, pid := "unknown", ebpf.ProgramID(x.ProgId)
		if prog, err := ebpf.NewProgramFromID(pid); err == nil {
			if info, err := prog.Info(); err == nil {
				name = info.Name
			}
			prog.Close()
		}
		what = fmt.Sprintf("the xdp program %s, id %d", name, x.ProgId)
		if name == programProgCorewire {
			return fmt.Errorf("%s interface %s already has %s (another wire's: corewire release, with the interfaces as that one had them)", d.port, d.name, what)
		}
	}
	return fmt.Errorf("%s interface %s already has %s (detach it first: ip link set %s xdp off, or bpftool link detach)", d.port, d.name, what, d.name)
}

// attach puts prog onto the interface d and pins the link. If a former process's link is there in the same mode, the
// program is replaced in it: at no moment is the interface without one. Otherwise taken reports false.
func (p *pins) attach(d *device, prog *ebpf.Program, mode XDPMode) (taken bool, err error) {
	port, former := d.port, p.link[d.port]
	if former != nil && p.holds(d) {
		old, err := ebpf.NewProgramFromID(p.info[port].prog)
		if err != nil {
			return false, fmt.Errorf("open former xdp program of %s interface %s: %w", port, d.name, err)
		}
		p.old[port] = old
		was := Native
		if d.attrs.Xdp.AttachMode == attachedGeneric {
			was = Generic
		}
		if was == mode && former.Update(prog) == nil {
			p.undo = append(p.undo, func() error { return former.Update(old) })
			return true, nil
		}
		// Another mode, or a link that does not consent: there is no way without a gap.
		p.undo = append(p.undo, func() error { return p.put(d, old, was) })
	}
	if err := p.detach(port); err != nil {
		return false, err
	}
	if err := p.put(d, prog, mode); err != nil {
		return false, err
	}
	p.undo = append(p.undo, func() error { return p.detach(port) })
	return false, nil
}

// put attaches prog to the interface d by a new link and pins that.
func (p *pins) put(d *device, prog *ebpf.Program, mode XDPMode) error {
	l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: d.index, Flags: mode.flags()})
	if err != nil {
		return fmt.Errorf("attach %s xdp program to %s interface %s: %w%s", mode, d.port, d.name, err, attachHint(err, d, mode))
	}
	p.link[d.port] = l
	if err = os.MkdirAll(p.path(""), 0o700); err == nil {
		err = l.Pin(p.path(d.port.String()))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("pin link of %s port: %w", d.port, err), p.detach(d.port))
	}
	return nil
}

// attachHint says what an error of BPF_LINK_CREATE means for XDP (dev_xdp_attach in net/core/dev.c, veth_xdp_set).
func attachHint(err error, d *device, mode XDPMode) string {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP) && mode == Native:
		return fmt.Sprintf(" (driver %s has no native xdp: take xdp mode generic)", d.driver)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return " (another xdp program was attached just now)"
	case errors.Is(err, unix.EPERM):
		return " (needs CAP_NET_ADMIN and CAP_BPF in the first user namespace)"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EINVAL):
		if d.driver == "veth" {
			return fmt.Sprintf(" (the other end of the veth pair must not have more than %d transmit queues, and no larger mtu)", d.rx)
		}
		return " (the driver's log, dmesg, says why: often the mtu, or too few queues for one per CPU)"
	case errors.Is(err, unix.ENOMEM):
		return " (the driver has too few queues left, or memory)"
	}
	return ""
}

// pinCounters makes the counters outlive the process.
func (p *pins) pinCounters(m *ebpf.Map) error {
	if p.counts != nil {
		return nil
	}
	c, err := m.Clone() // pinning binds the name to the handle that it is removed with
	if err != nil {
		return fmt.Errorf("pin counters: %w", err)
	}
	if err := c.Pin(p.path("counters")); err != nil {
		return errors.Join(fmt.Errorf("pin counters: %w", err), c.Close())
	}
	p.counts = c
	p.undo = append(p.undo, p.unpinCounters)
	return nil
}

func (p *pins) unpinCounters() error {
	if p.counts == nil {
		return nil
	}
	m := p.counts
	p.counts = nil
	err := errors.Join(m.Unpin(), m.Close())
	if err != nil {
		return fmt.Errorf("unpin counters: %w", err)
	}
	return nil
}

// detach takes the port's program off its interface, if it is on one, and removes the pin.
func (p *pins) detach(port packet.Port) error {
	l := p.link[port]
	if l == nil {
		return nil
	}
	p.link[port] = nil
	var errs []error
	if err := l.Detach(); err != nil {
		errs = append(errs, err)
	}
	if err := os.Remove(p.path(port.String())); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	errs = append(errs, l.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach xdp program from %s port: %w", port, err)
	}
	return nil
}

// rollback takes back what attach and pinCounters did since loadPins.
func (p *pins) rollback() error {
	var errs []error
	for i := len(p.undo) - 1; i >= 0; i-- {
		errs = append(errs, p.undo[i]())
	}
	p.undo = nil
	return errors.Join(errs...)
}

// commit makes what attach and pinCounters did final, and lets the former programs go.
func (p *pins) commit() error {
	p.undo = nil
	var errs []error
	for port, prog := range p.old {
		errs = append(errs, prog.Close())
		p.old[port] = nil
	}
	return errors.Join(errs...)
}

// remove takes the programs off both interfaces and removes all pins, those of other versions as well.
func (p *pins) remove() error {
	errs := []error{p.detach(packet.Inside), p.detach(packet.Outside), p.unpinCounters()}
	if err := os.RemoveAll(p.dir); err != nil {
		errs = append(errs, fmt.Errorf("remove pins: %w", err))
	}
	return errors.Join(errs...)
}

// tidy removes the pin directory if there is nothing in it.
func (p *pins) tidy() {
	_ = os.Remove(filepath.Join(p.dir, pinVersion)) // fails if there are pins in it, and that is right
	_ = os.Remove(p.dir)
}

// close gives the handles back. What is pinned stays.
func (p *pins) close() error {
	var errs []error
	for port, l := range p.link {
		if l != nil {
			errs = append(errs, l.Close())
			p.link[port] = nil
		}
	}
	errs = append(errs, p.commit(), p.counts.Close())
	p.counts = nil
	return errors.Join(errs...)
}
