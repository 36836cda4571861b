package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/packet"
	"corewire/ring"
	"corewire/rules"
)

// corewire is the firewall: one worker over a wire that holds one frame at a time. One goroutine uses it.
type corewire struct {
	wire   oneFrame
	engine *dataplane.Engine
}

// newCorewire makes corewire with what makes it the same as Linux where by default it is stricter. change changes more; nil
// for nothing.
func newCorewire(rs *rules.Ruleset, settings *conntrack.Settings, change func(*dataplane.Config)) (*corewire, error) {
	c := new(corewire)
	most, err := maximum()
	if err != nil {
		return nil, err
	}
	setup := dataplane.Config{
		Wires: []ring.Wire{&c.wire}, Ruleset: rs, Settings: settings, Max: most, Burst: 1, Record: true,
		Tags:      1,    // as br_netfilter with bridge-nf-filter-vlan-tagged=1
		AnyOrigin: true, // as reassembly on a bridge
	}
	if change != nil {
		change(&setup)
	}
	c.engine, err = dataplane.New(setup)
	return c, err
}

// headroom is what a frame may grow by, as in a ring's chunk.
const headroom = 64

// decision is what corewire made of one frame.
type decision struct {
	dataplane.Result
	out  [][]byte // the frames that left through the other port
	back [][]byte // the frames that left through the port it came from: answers
}

// send puts a frame on a port at the time now.
func (c *corewire) send(in packet.Port, frame []byte, now conntrack.Tick) (decision, error) {
	c.wire.frame, c.wire.in, c.wire.out = append(make([]byte, 0, len(frame)+headroom), frame...), in, [packet.Ports][][]byte{}
	if _, err := c.engine.Step(now); err != nil {
		return decision{}, err
	}
	r := c.engine.Results()
	if len(r) != 1 {
		return decision{}, fmt.Errorf("corewire has %d results for one frame", len(r))
	}
	return decision{Result: r[0], out: c.wire.out[in.Other()], back: c.wire.out[in]}, nil
}

// pass lets time pass without a frame, so that what expires does.
func (c *corewire) pass(now conntrack.Tick) error {
	c.wire.frame = nil
	_, err := c.engine.Step(now)
	return err
}

// table returns the connections as /proc/net/nf_conntrack would list them.
func (c *corewire) table() (lines []string, err error) {
	err = c.engine.Connections(context.Background(), func(infos []conntrack.Info) error {
		for i := range infos {
			lines = append(lines, string(infos[i].AppendLine(nil, conntrack.FormatProc)))
		}
		return nil
	})
	return lines, err
}

// nearly is how close to a connection's end a pause must not come: the kernel's deadlines may be a second off (kernel.age).
const nearly = 1500 * time.Millisecond

// clear returns a pause, shortened so that no connection's time ends with it.
func (c *corewire) clear(gap time.Duration) (time.Duration, error) {
	var ends []time.Duration
	err := c.engine.Connections(context.Background(), func(infos []conntrack.Info) error {
		for i := range infos {
			ends = append(ends, time.Duration(infos[i].Left)*time.Millisecond)
		}
		return nil
	})
	near := func(end time.Duration) bool { return (end - gap).Abs() < nearly }
	for gap > 0 && slices.ContainsFunc(ends, near) {
		gap -= time.Second
	}
	return gap, err
}

// held returns the number of fragments that wait.
func (c *corewire) held() (int, error) {
	s, err := c.engine.Stats(context.Background())
	if err != nil {
		return 0, err
	}
	return s.Workers[0].Held, nil
}

func (c *corewire) close() error { return c.engine.Close() }

// oneFrame is a ring.Wire whose frames are ordinary memory: one goes in, those that leave are kept.
type oneFrame struct {
	frame []byte // the next to be received
	in    packet.Port
	out   [packet.Ports][][]byte
}

func (w *oneFrame) Receive(p packet.Port, f []packet.Frame) int {
	if w.frame == nil || p != w.in {
		return 0
	}
	f[0] = packet.Frame{Data: w.frame}
	w.frame = nil
	return 1
}

func (w *oneFrame) Send(p packet.Port, f []packet.Frame) int {
	for _, f := range f {
		w.out[p] = append(w.out[p], f.Data)
	}
	return len(f)
}

func (w *oneFrame) Release([]packet.Frame) {}

// Alloc makes frames for answers.
func (w *oneFrame) Alloc(f []packet.Frame) int {
	for i := range f {
		f[i] = packet.Frame{Data: make([]byte, 2048)}
	}
	return len(f)
}

func (w *oneFrame) Flush() error             { return nil }
func (w *oneFrame) Wait(time.Duration) error { return nil }
func (w *oneFrame) Wake()                    {}

// Account says that there are enough frames for the largest fragment store.
func (w *oneFrame) Account(a *ring.Account) { *a = ring.Account{Total: 8192, Free: 8192} }
func (w *oneFrame) Stats(s *ring.Stats)     { *s = ring.Stats{} }
func (w *oneFrame) Close() error            { return errors.ErrUnsupported }
