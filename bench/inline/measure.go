package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"corewire/tools/lab"
	"corewire/tools/traffic"
)

const (
	primeRate = 150_000 // frames a second while connections are opened: what every subject takes without loss
	primeTry  = 5       // times that opening is tried
	primeLoss = 0.1     // share of frames that the last of them may lose
	settle    = 30 * time.Millisecond
	warm      = 150 * time.Millisecond
	// lossFree is the largest share of lost frames that counts as none: bursts of other programs on the machine
	// lose a few.
	lossFree = 1.0 / 2000
	// searchSteps halvings of an interval between a fiftieth of and all of the forwarded rate: 3 % of the rate.
	searchSteps = 5
	serverPort  = 9000
)

// load is what the generator sends.
type load struct {
	proto    traffic.Proto
	flows    uint32
	size     int
	rules    int           // that match no frame, in front of those that do
	fresh    bool          // every frame begins a connection
	duration time.Duration // of a measurement
	rate     float64       // frames a second at which processor time is measured
}

// point is one run of the generator.
type point struct {
	Made      uint64  `json:"made"`      // frames offered
	Forwarded uint64  `json:"forwarded"` // frames at the sink
	Seconds   float64 `json:"seconds"`
	Busy      float64 `json:"busy_seconds"` // processor time of the machine, less what it used before
	Tasks     float64 `json:"task_seconds"` // processor time of generator, subject and softirq threads
}

func (p point) rate() float64 { return float64(p.Forwarded) / p.Seconds }
func (p point) loss() float64 { return 1 - float64(p.Forwarded)/float64(max(1, p.Made)) }

// bench is one lab with generator and sinks.
type bench struct {
	lab      *lab.Lab
	load     load
	requests *traffic.Generator
	replies  *traffic.Generator
	near     *traffic.Sink // at the client: replies arrive here
	far      *traffic.Sink // at the server
	tasks    []int         // what works for the subject, beside the generator
	idle     float64       // processor seconds a second that the machine used before
}

// newBench makes a lab for one measurement; drainAt completes it.
func newBench(d load) (b *bench, err error) {
	l, err := lab.New(lab.Config{Quiet: true})
	if err != nil {
		return nil, err
	}
	b = &bench{lab: l, load: d}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
			b = nil
		}
	}()
	if b.tasks, err = traffic.Kernel("ksoftirqd/"); err != nil {
		return b, err
	}
	flows := b.flows()
	err = l.Do(lab.Client, func() (err error) {
		b.requests, err = traffic.NewGenerator(traffic.Config{Port: lab.ClientPort, Flows: flows, Size: d.size, Order: order(d)})
		return err
	})
	if err != nil {
		return b, err
	}
	if !d.fresh {
		err = l.Do(lab.Server, func() (err error) {
			b.replies, err = traffic.NewGenerator(traffic.Config{Port: lab.ServerPort, Flows: flows, Size: d.size, Side: traffic.Replies})
			return err
		})
		if err != nil {
			return b, err
		}
		if err = l.Do(lab.Client, func() (err error) { b.near, err = traffic.NewSink(lab.ClientPort, l.MAC(lab.Client)); return err }); err != nil {
			return b, err
		}
	}
	return b, nil
}

// flows are the load's flows between the lab's hosts.
func (b *bench) flows() traffic.Flows {
	return traffic.Flows{Proto: b.load.proto, Count: b.load.flows, Client: b.lab.Addr(lab.Client, 4), Server: b.lab.Addr(lab.Server, 4),
		ServerPort: serverPort, ClientMAC: b.lab.MAC(lab.Client), ServerMAC: b.lab.MAC(lab.Server)}
}

// order: established flows come in random order, new ones one after the other.
func order(d load) traffic.Order {
	if d.fresh {
		return traffic.Sequential
	}
	return traffic.Random
}

func (b *bench) close() error {
	var errs []error
	for _, g := range []*traffic.Generator{b.requests, b.replies} {
		if g != nil {
			errs = append(errs, g.Close())
		}
	}
	for _, s := range []*traffic.Sink{b.near, b.far} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(append(errs, b.lab.Close())...)
}

// drainAt puts the far sink at an interface.
func (b *bench) drainAt(w lab.Where, port string) error {
	return b.lab.Do(w, func() (err error) { b.far, err = traffic.NewSink(port, b.lab.MAC(lab.Server)); return err })
}

// rest measures what the machine uses while nothing runs.
func (b *bench) rest() error {
	before, err := traffic.Busy()
	if err != nil {
		return err
	}
	const length = 200 * time.Millisecond
	time.Sleep(length)
	after, err := traffic.Busy()
	b.idle = (after - before).Seconds() / length.Seconds()
	return err
}

// send runs a generator into a sink.
func (b *bench) send(ctx context.Context, from lab.Where, g *traffic.Generator, to *traffic.Sink, limit traffic.Limit) (p point, err error) {
	before, err := to.Count()
	if err != nil {
		return p, err
	}
	var busyBefore, busyAfter, tasksBefore, tasksAfter time.Duration
	err = b.lab.Do(from, func() error {
		var cpu unix.CPUSet
		cpu.Set(runtime.NumCPU() - 1)
		if err := unix.SchedSetaffinity(0, &cpu); err != nil { // the thread ends with Do
			return fmt.Errorf("pin generator: %w", err)
		}
		var err error
		if busyBefore, tasksBefore, err = b.clocks(); err != nil {
			return err
		}
		made, took, err := g.Run(ctx, limit)
		if err != nil {
			return err
		}
		busyAfter, tasksAfter, err = b.clocks()
		p.Made, p.Seconds = made, took.Seconds()
		return err
	})
	if err != nil {
		return p, err
	}
	time.Sleep(settle)
	after, err := to.Count()
	p.Forwarded = after.Since(before).Frames
	p.Tasks = (tasksAfter - tasksBefore).Seconds()
	p.Busy = (busyAfter - busyBefore).Seconds() - b.idle*p.Seconds
	return p, errors.Join(err, ctx.Err())
}

// clocks returns the processor time of the machine, and that of the tasks that take part and of the calling thread.
func (b *bench) clocks() (busy, tasks time.Duration, err error) {
	if busy, err = traffic.Busy(); err != nil {
		return 0, 0, err
	}
	own, err := traffic.ThreadTime()
	if err != nil {
		return 0, 0, err
	}
	tasks, err = traffic.TaskTime(b.tasks...)
	return busy, own + tasks, err
}

// run measures at one offered rate; 0 is as fast as possible.
func (b *bench) run(ctx context.Context, rate float64, d time.Duration) (point, error) {
	return b.send(ctx, lab.Client, b.requests, b.far, traffic.Limit{Rate: rate, Duration: d})
}

// open sends every flow's first frame and its reply, until the subject knows all of them. Without loss once is enough. Where
// other programs disturb, several times are: a flow would have to lose the same frame each time.
func (b *bench) open(ctx context.Context, r running) error {
	flows := uint64(b.load.flows)
	sequential, err := b.sequential()
	if err != nil {
		return err
	}
	defer sequential.Close()
	var last error
	for try := range primeTry {
		there, err := b.send(ctx, lab.Client, sequential, b.far, traffic.Limit{Rate: primeRate, Frames: flows})
		if err != nil {
			return err
		}
		back, err := b.send(ctx, lab.Server, b.replies, b.near, traffic.Limit{Rate: primeRate, Frames: flows})
		if err != nil {
			return err
		}
		if last = nil; there.Forwarded < flows || back.Forwarded < flows {
			last = fmt.Errorf("open %d flows: %d frames got through, %d replies", flows, there.Forwarded, back.Forwarded)
			if try < primeTry-1 || there.loss() > primeLoss || back.loss() > primeLoss {
				continue
			}
		}
		if r.count == nil {
			return nil
		}
		n, err := r.count()
		if err != nil {
			return err
		}
		if uint64(n) == flows {
			return nil
		}
		last = fmt.Errorf("open %d flows: the subject counts %d connections", flows, n)
	}
	return last
}

// sequential returns a generator of the same flows in order: each exactly once before any comes again.
func (b *bench) sequential() (g *traffic.Generator, err error) {
	err = b.lab.Do(lab.Client, func() (err error) {
		g, err = traffic.NewGenerator(traffic.Config{Port: lab.ClientPort, Flows: b.flows(), Size: b.load.size})
		return err
	})
	return g, err
}

// alone measures the generator into a sink at the wire's near port: what it costs itself.
func alone(ctx context.Context, d load) (full, paced point, err error) {
	b, err := newBench(d)
	if err != nil {
		return full, paced, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.drainAt(lab.Wire, lab.InsidePort); err != nil {
		return full, paced, err
	}
	if err := b.rest(); err != nil {
		return full, paced, err
	}
	if full, err = b.run(ctx, 0, d.duration); err != nil {
		return full, paced, err
	}
	paced, err = b.run(ctx, d.rate, d.duration)
	return full, paced, err
}

// measurement is one subject in one round.
type measurement struct {
	Idle     float64 `json:"idle"`      // processors that other programs used just before
	Full     point   `json:"full"`      // as fast as the generator can
	Paced    point   `json:"paced"`     // at the rate that all subjects forward
	LossFree float64 `json:"loss_free"` // frames a second; 0 if not searched
}

// measure measures one subject in a lab of its own.
func measure(ctx context.Context, s subject, d load, search bool) (m measurement, err error) {
	dir, err := os.MkdirTemp("", fmt.Sprintf("cw-inline-%d-", os.Getpid()))
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b, err := newBench(d)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.rest(); err != nil {
		return m, err
	}
	m.Idle = b.idle
	r, err := s.start(ctx, b.lab, dir, d.rules)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	b.tasks = append(b.tasks, r.tasks...)
	if err := b.drainAt(lab.Server, lab.ServerPort); err != nil {
		return m, err
	}
	if d.fresh {
		return m, b.fresh(ctx, r, &m)
	}
	if err := b.open(ctx, r); err != nil {
		return m, err
	}
	if _, err := b.run(ctx, d.rate, warm); err != nil {
		return m, err
	}
	if m.Paced, err = b.run(ctx, d.rate, d.duration); err != nil {
		return m, err
	}
	if m.Full, err = b.run(ctx, 0, d.duration); err != nil {
		return m, err
	}
	if !search {
		return m, nil
	}
	low, high := m.Full.rate()/50, m.Full.rate()
	for range searchSteps {
		rate := (low + high) / 2
		p, err := b.run(ctx, rate, d.duration/3)
		if err != nil {
			return m, err
		}
		if p.loss() <= lossFree {
			low = rate
		} else {
			high = rate
		}
	}
	m.LossFree = low
	return m, nil
}

const (
	// freshFlows bounds the connections of one stretch: below the default maximum of both connection tables.
	freshFlows = 200_000
	// freshStretches are measured one after the other, each with an empty table at the beginning.
	freshStretches = 5
	// freshRate is what is offered to find out how many connections a second can be opened: more than any
	// subject can take, but not so much that a stretch is over before the processor times have moved.
	freshRate = 1_500_000
)

// fresh measures with frames that each begin a connection.
func (b *bench) fresh(ctx context.Context, r running, m *measurement) error {
	for range freshStretches {
		for _, way := range []struct {
			rate float64
			sum  *point
		}{{b.load.rate, &m.Paced}, {freshRate, &m.Full}} {
			if r.flush != nil {
				if err := r.flush(); err != nil {
					return err
				}
				time.Sleep(settle)
			}
			p, err := b.send(ctx, lab.Client, b.requests, b.far,
				traffic.Limit{Rate: way.rate, Duration: b.load.duration / freshStretches, Frames: freshFlows})
			if err != nil {
				return err
			}
			way.sum.add(p)
		}
	}
	return nil
}

func (p *point) add(q point) {
	p.Made += q.Made
	p.Forwarded += q.Forwarded
	p.Seconds += q.Seconds
	p.Busy += q.Busy
	p.Tasks += q.Tasks
}
