package traffic

import (
	"errors"
	"fmt"
	"net"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// anchor keeps a program attached to an interface that never sees a frame, in a namespace of its own.
//
// The kernel calls XDP programs through a patched dispatcher (kernel/bpf/dispatcher.c). BPF_PROG_TEST_RUN enters the
// program there for the length of the call, and both entering and leaving wait for an RCU grace period: 10 ms each, in
// which no frame is sent. A program that is attached somewhere is in the dispatcher already, and a call only counts
// one user more, so a generator can send in short stretches.
type anchor struct {
	link  link.Link
	netns int // keeps the namespace and the interface in it
}

// newAnchor makes the namespace on a thread of its own, which ends with it.
func newAnchor(program *ebpf.Program) (*anchor, error) {
	a := &anchor{netns: -1}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in the wrong namespace for anything else
		made <- a.make(program)
	}()
	if err := <-made; err != nil {
		return nil, errors.Join(fmt.Errorf("anchor the generator's program: %w", err), a.close())
	}
	return a, nil
}

func (a *anchor) make(program *ebpf.Program) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare network namespace: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "anchor0"
	pair := netlink.NewVeth(attrs)
	pair.PeerName = "anchor1"
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("make veth pair: %w", err)
	}
	device, err := net.InterfaceByName(attrs.Name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", attrs.Name, err)
	}
	if a.link, err = link.AttachXDP(link.XDPOptions{Program: program, Interface: device.Index, Flags: link.XDPDriverMode}); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	if a.netns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	return nil
}

func (a *anchor) close() error {
	var errs []error
	if a.link != nil {
		errs = append(errs, a.link.Close())
	}
	if a.netns >= 0 {
		errs = append(errs, unix.Close(a.netns))
	}
	return errors.Join(errs...)
}
