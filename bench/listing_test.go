package bench

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/packet"
	"corewire/ring"
)

// endless is a feeder that begins again with its frames, and tells from time to time how many it has given and how long
// its worker's thread has run.
type endless struct {
	feeder
	tb    testing.TB
	given int
	calls int
	mark  atomic.Pointer[mark]
}

// mark is a moment of a worker's life.
type mark struct {
	frames int
	ran    time.Duration
}

// markEvery is how many turns pass between two marks: some thousand frames, so that reading the clock costs little.
const markEvery = 64

func (e *endless) Receive(port packet.Port, out []packet.Frame) int {
	if port == e.port {
		if e.calls++; e.calls%markEvery == 0 {
			e.mark.Store(&mark{e.given, cpuTime(e.tb)})
		}
		if e.next == len(e.frames)/e.size {
			e.next = 0
		}
	}
	n := e.feeder.Receive(port, out)
	e.given += n
	return n
}

// perFrame waits until f has returned, and at least n frames were given meanwhile, and returns the worker's time for each
// of them in ns.
func (e *endless) perFrame(n int, f func()) float64 {
	from := e.mark.Load()
	f()
	for {
		if to := e.mark.Load(); to.frames-from.frames >= n {
			return float64((to.ran - from.ran).Nanoseconds()) / float64(to.frames-from.frames)
		}
		time.Sleep(time.Millisecond)
	}
}

// BenchmarkListing is what a listing of a million connections costs a worker that forwards all the while: the time of its
// thread for a frame while a listing runs, as ratio to the time just before, when the reader does the same with entries
// that it has already: two processors often share a core, and what the reader does there is not the listing's. There are
// three readers: one that does nothing with the entries; one that formats them as `conntrack -L` does; and one that sends
// the lines over a unix socket, as the control socket's server does. The worker always has frames, so that all its time
// but the listing's goes into them.
func BenchmarkListing(b *testing.B) {
	const flows = 1 << 20
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	t := udpTraffic(flows, 4, frameSize)
	e := &endless{feeder: *newFeeder(), tb: b}
	engine, err := dataplane.New(dataplane.Config{Wires: []ring.Wire{e}, Ruleset: compile(b, ruleFile(0)), Max: 2 * flows})
	if err != nil {
		b.Fatal(err)
	}
	defer engine.Close()
	// Open the connections in this goroutine, then let the worker run.
	for i, frames := range t.open[:2] {
		e.frames, e.next, e.port, e.size = frames, 0, packet.Port(i), t.size
		for e.given = 0; e.given < flows; {
			if _, err := engine.Step(1); err != nil {
				b.Fatal(err)
			}
		}
	}
	e.frames, e.next, e.port = t.steady, 0, packet.Inside
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	for e.mark.Load() == nil {
		time.Sleep(time.Millisecond)
	}

	client, server := socket(b)
	defer client.Close()
	defer server.Close()
	go io.Copy(io.Discard, client)
	var buf []byte
	readers := []struct {
		name string
		read func([]conntrack.Info) error
	}{
		{"only-read", func([]conntrack.Info) error { return nil }},
		{"formatted", func(infos []conntrack.Info) error {
			buf = lines(buf[:0], infos)
			return nil
		}},
		{"sent", func(infos []conntrack.Info) error {
			buf = lines(buf[:0], infos)
			_, err := server.Write(buf)
			return err
		}},
	}
	var sample []conntrack.Info
	stop := errors.New("enough")
	err = engine.Connections(ctx, func(infos []conntrack.Info) error {
		sample = append(sample, infos...)
		return stop
	})
	if !errors.Is(err, stop) {
		b.Fatal(err)
	}
	quiet, listing := make([]figures, len(readers)), make([]figures, len(readers))
	var took figures
	for range rounds {
		for k, reader := range readers {
			quiet[k] = append(quiet[k], e.perFrame(flows, func() {
				for range flows / len(sample) {
					if err := reader.read(sample); err != nil {
						b.Fatal(err)
					}
				}
			}))
			n := 0
			start := time.Now()
			listing[k] = append(listing[k], e.perFrame(0, func() {
				err := engine.Connections(ctx, func(infos []conntrack.Info) error {
					n += len(infos)
					return reader.read(infos)
				})
				if err != nil {
					b.Fatal(err)
				}
			}))
			took = append(took, time.Since(start).Seconds())
			if n != flows {
				b.Fatalf("%d connections listed, want %d", n, flows)
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	for k, reader := range readers {
		listing[k].over(quiet[k]).report(b, reader.name+"-ratio")
	}
	b.ReportMetric(took.median(), "s/listing")
	once(b)
}

// lines appends the lines of a listing.
func lines(b []byte, infos []conntrack.Info) []byte {
	for i := range infos {
		b = append(infos[i].AppendLine(b, conntrack.FormatConntrack), '\n')
	}
	return b
}

// socket returns the two ends of a unix socket.
func socket(b *testing.B) (client, server net.Conn) {
	b.Helper()
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "socket"))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("unix", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	return client, server
}
