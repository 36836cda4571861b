package main

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
)

// The committed objects are those of clang 14 (Debian 12); another version gives other bytes. Paths do not show in them.
//
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -strip llvm-strip-14 -output-stem witness -target bpfel,bpfeb -type book -type sight -type side witness bpf/witness.c -- -Wall -Wextra -Werror

// sights is the number of packets that the witness remembers. A frame is one packet at the hook, or none.
const sights = 16

// witnessPriority is where in the FORWARD hook the witness stands: before NF_IP_PRI_FILTER (0), behind everything that
// could change a connection there.
const witnessPriority = -10

// observer is the witness of one network namespace: the program in its two hooks, and its notes.
type observer struct {
	objects witnessObjects
	links   []link.Link
	notes   *ebpf.Memory
	seen    uint64
}

// newObserver loads the program and puts it into the hooks of the calling thread's network namespace.
func newObserver() (_ *observer, err error) {
	o := new(observer)
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close())
		}
	}()
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	if err := loadWitnessObjects(&o.objects, nil); err != nil {
		return nil, fmt.Errorf("load the witness: %w (Linux 6.4 with CONFIG_NETFILTER_BPF_LINK and CONFIG_DEBUG_INFO_BTF is needed)", err)
	}
	for _, family := range []link.NetfilterProtocolFamily{link.NetfilterProtoIPv4, link.NetfilterProtoIPv6} {
		l, err := link.AttachNetfilter(link.NetfilterOptions{Program: o.objects.Witness, ProtocolFamily: family, Hook: link.NetfilterInetForward, Priority: witnessPriority})
		if err != nil {
			return nil, fmt.Errorf("attach the witness: %w", err)
		}
		o.links = append(o.links, l)
	}
	if o.notes, err = o.objects.Notes.Memory(); err != nil {
		return nil, fmt.Errorf("map the witness's notes: %w", err)
	}
	return o, nil
}

// look appends what the witness has seen since the last look.
func (o *observer) look(out []witnessSight) ([]witnessSight, error) {
	var count [8]byte
	if _, err := o.notes.ReadAt(count[:], 0); err != nil {
		return out, fmt.Errorf("read the witness's notes: %w", err)
	}
	n := nativeUint64(count)
	if n-o.seen > sights {
		return out, fmt.Errorf("read the witness's notes: one frame was seen %d times, more often than it remembers", n-o.seen)
	}
	for ; o.seen < n; o.seen++ {
		var s witnessSight
		if _, err := o.notes.ReadAt(sightBytes(&s), sightOffset(o.seen%sights)); err != nil {
			return out, fmt.Errorf("read the witness's notes: %w", err)
		}
		out = append(out, s)
	}
	return out, nil
}

func (o *observer) close() error {
	var errs []error
	for _, l := range o.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(append(errs, o.objects.Close())...)
}
