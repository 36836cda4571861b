package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"corewire/internal/packet"
	"corewire/ring"
)

// forwardVerb is the hidden first argument by which this program starts itself as the bare forwarder, so that it is a
// process of its own like corewire.
const forwardVerb = "forward-bare"

// readyLine is what the forwarder prints when frames pass.
const readyLine = "forwarding"

const (
	burst = 64 // as corewire's default
	// spin is how long an idle worker polls before it sleeps, and nap the longest sleep.
	spin = 50 * time.Microsecond
	nap  = time.Millisecond
)

// forward moves every frame from each port to the other, over package ring and nothing else, until ctx ends. It is what
// AF_XDP costs here without a firewall in it.
func forward(ctx context.Context, inside, outside, state string, out io.Writer) (err error) {
	link, err := ring.Open(ring.Config{Inside: inside, Outside: outside, Workers: 1, StatePath: state})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, link.Close()) }()
	fmt.Fprintln(out, readyLine)
	defer context.AfterFunc(ctx, link.Wires()[0].Wake)()
	ended := make(chan error)
	go func() { ended <- move(ctx, link) }()
	return <-ended
}

// move is the worker. Its thread is pinned and ends with it; threads made from it would be pinned as well.
func move(ctx context.Context, link *ring.Link) error {
	runtime.LockOSThread()
	var cpu unix.CPUSet
	cpu.Set(subjectCPU)
	if err := unix.SchedSetaffinity(0, &cpu); err != nil {
		return fmt.Errorf("pin forwarder to processor %d: %w", subjectCPU, err)
	}
	wire := link.Wires()[0]
	frames := make([]packet.Frame, burst)
	last := monotonic()
	for ctx.Err() == nil {
		moved := 0
		for port := range packet.Port(packet.Ports) {
			n := wire.Receive(port, frames)
			sent := wire.Send(port.Other(), frames[:n])
			wire.Release(frames[sent:n])
			moved += n
		}
		if err := wire.Flush(); err != nil {
			return err
		}
		now := monotonic()
		link.Beat(0, now)
		if moved > 0 {
			last = now
		} else if now-last > int64(spin) {
			if err := wire.Wait(nap); err != nil {
				return err
			}
		}
	}
	return nil
}

// monotonic reads CLOCK_MONOTONIC in nanoseconds, which cannot fail.
func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}

// runForward is the forwarder's process; it returns the exit status.
func runForward(ctx context.Context, args []string) int {
	if len(args) != 3 {
		fmt.Fprintln(os.Stderr, "inline: the bare forwarder takes two interfaces and a state file")
		return exitUsage
	}
	if err := forward(ctx, args[0], args[1], args[2], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "inline:", err)
		return exitFailed
	}
	return exitMeasured
}
