package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Sink counts and drops every frame that an interface receives.
type Sink struct {
	program  *ebpf.Program
	counters *ebpf.Map
	link     link.Link
}

// Count is what a sink has seen.
type Count struct {
	Frames uint64 // to the sink's own address
	Bytes  uint64 // of these, without FCS
	Others uint64 // frames to other addresses, such as multicast
}

// NewSink attaches a sink to an interface of the calling thread's network namespace, in native mode. mac is the
// destination address of the frames that count. The interface's host receives nothing until Close.
func NewSink(port string, mac net.HardwareAddr) (_ *Sink, err error) {
	if len(mac) != 6 {
		return nil, fmt.Errorf("sink for %v: need an Ethernet address", mac)
	}
	device, err := net.InterfaceByName(port)
	if err != nil {
		return nil, fmt.Errorf("sink: find interface %s: %w", port, err)
	}
	s := &Sink{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	s.counters, err = ebpf.NewMap(&ebpf.MapSpec{Name: "traffic_sink", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: sinkSize, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("make the sink's map: %w", err)
	}
	s.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "traffic_sink", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: sink([6]byte(mac), s.counters.FD())})
	if err != nil {
		return nil, fmt.Errorf("load the sink's program: %w", err)
	}
	s.link, err = link.AttachXDP(link.XDPOptions{Program: s.program, Interface: device.Index, Flags: link.XDPDriverMode})
	if err != nil {
		return nil, fmt.Errorf("attach the sink to %s: %w", port, err)
	}
	return s, nil
}

// Count returns the sums over all processors.
func (s *Sink) Count() (c Count, err error) {
	var values [][sinkSize]byte
	if err := s.counters.Lookup(uint32(0), &values); err != nil {
		return c, fmt.Errorf("read the sink's counters: %w", err)
	}
	for _, v := range values {
		c.Frames += binary.NativeEndian.Uint64(v[sinkFrames:])
		c.Bytes += binary.NativeEndian.Uint64(v[sinkBytes:])
		c.Others += binary.NativeEndian.Uint64(v[sinkOthers:])
	}
	return c, nil
}

// Since returns the difference of two counts.
func (c Count) Since(before Count) Count {
	return Count{c.Frames - before.Frames, c.Bytes - before.Bytes, c.Others - before.Others}
}

// Close detaches the sink.
func (s *Sink) Close() error {
	var errs []error
	if s.link != nil {
		errs = append(errs, s.link.Close())
	}
	if s.program != nil {
		errs = append(errs, s.program.Close())
	}
	if s.counters != nil {
		errs = append(errs, s.counters.Close())
	}
	return errors.Join(errs...)
}

// native32 and native16 read bytes as a load of the running machine does.
func native32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func native16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }
