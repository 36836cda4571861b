package traffic

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"corewire/tools/lab"
)

var (
	clientMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	serverMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

func flows(family int, proto Proto, count uint32) Flows {
	f := Flows{Proto: proto, Count: count, Client: netip.MustParseAddr("10.73.1.250"), Server: netip.MustParseAddr("10.73.0.2"),
		ServerPort: 9000, ClientMAC: clientMAC, ServerMAC: serverMAC}
	if family == 6 {
		f.Client, f.Server = netip.MustParseAddr("fd73::1:fa"), netip.MustParseAddr("fd73::2")
	}
	return f
}

// The program in the kernel and Frame make the same bytes, for every kind of flow.
func TestProgramMatchesFrame(t *testing.T) {
	for _, family := range []int{4, 6} {
		for _, proto := range []Proto{UDP, TCP} {
			for _, side := range []Side{Requests, Replies} {
				t.Run(fmt.Sprintf("IPv%d %v side %d", family, proto, side), func(t *testing.T) {
					f := flows(family, proto, 100_003) // no power of two, four addresses, past a byte's end
					g := needGenerator(t, Config{Port: "lo", Flows: f, Side: side, Size: 90})
					seen := 0
					for _, flow := range []uint32{0, 1, 2, 32767, 32768, 65535, 65536, 99_999, 100_002, 100_003} {
						setState(t, g, uint64(flow), 0)
						got := runOnce(t, g)
						want, err := f.Frame(side, flow%f.Count, 90)
						if err != nil {
							t.Fatal(err)
						}
						if !bytes.Equal(got, want) {
							t.Errorf("flow %d:\n got %x\nwant %x", flow, got, want)
						}
						seen++
					}
					if made, err := g.Made(); err != nil || made != 100_004 {
						t.Errorf("made %d, %v after flow 100003", made, err)
					}
				})
			}
		}
	}
}

// A UDP checksum that comes out as zero is sent as all ones.
func TestChecksumZero(t *testing.T) {
	f := flows(4, UDP, 1)
	for f.ServerPort = 1; f.ServerPort != 0; f.ServerPort++ {
		frame, err := f.Frame(Requests, 0, 60)
		if err != nil {
			t.Fatal(err)
		}
		if frame[40] == 0xff && frame[41] == 0xff {
			if got := runOnce(t, needGenerator(t, Config{Port: "lo", Flows: f})); !bytes.Equal(got, frame) {
				t.Errorf("port %d:\n got %x\nwant %x", f.ServerPort, got, frame)
			}
			return
		}
	}
	t.Error("no port gives such a checksum: the test shows nothing")
}

// Random order stays within the flows and reaches most of them.
func TestRandomOrder(t *testing.T) {
	f := flows(4, UDP, 50)
	g := needGenerator(t, Config{Port: "lo", Flows: f, Order: Random})
	index := make(map[string]uint32)
	for flow := range f.Count {
		frame, err := f.Frame(Requests, flow, 60)
		if err != nil {
			t.Fatal(err)
		}
		index[string(frame)] = flow
	}
	seen := make(map[uint32]bool)
	for range 500 {
		flow, ok := index[string(runOnce(t, g))]
		if !ok {
			t.Fatal("a frame of no flow")
		}
		seen[flow] = true
	}
	if len(seen) != 50 { // 500 draws miss one of 50 with a probability of 1 in 500, but the sequence is fixed
		t.Errorf("500 frames of %d flows, want 50", len(seen))
	}
}

// needGenerator returns a generator, or skips where the kernel refuses programs.
func needGenerator(t *testing.T, c Config) *Generator {
	t.Helper()
	g, err := NewGenerator(c)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// setState makes the next frame that of flow number sent.
func setState(t *testing.T, g *Generator, sent, random uint64) {
	t.Helper()
	if err := g.state.Put(uint32(0), []uint64{sent, random}); err != nil {
		t.Fatal(err)
	}
}

// runOnce runs the program without live frames on a template full of rubbish where it must write, and returns the frame.
func runOnce(t *testing.T, g *Generator) []byte {
	t.Helper()
	out := make([]byte, len(g.template)+64)
	options := ebpf.RunOptions{Data: g.template, DataOut: out, Repeat: 1}
	verdict, err := g.program.Run(&options)
	if err != nil {
		t.Fatal(err)
	}
	if verdict != xdpTX {
		t.Fatalf("program returned %d, want %d", verdict, xdpTX)
	}
	return options.DataOut
}

// Through a bridge in the lab every frame arrives, at a modest rate; a sink counts them and nothing else.
func TestFramesArrive(t *testing.T) {
	l := lab.Need(t, lab.Config{Quiet: true})
	if err := l.Bridge(lab.Plain); err != nil {
		t.Fatal(err)
	}
	if err := l.Receive(); err != nil {
		t.Fatal(err)
	}
	f := Flows{Proto: UDP, Count: 1000, Client: l.Addr(lab.Client, 4), Server: l.Addr(lab.Server, 4), ServerPort: 9000,
		ClientMAC: l.MAC(lab.Client), ServerMAC: l.MAC(lab.Server)}
	var s *Sink
	err := l.Do(lab.Server, func() (err error) { s, err = NewSink(lab.ServerPort, l.MAC(lab.Server)); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const frames = 20_000
	err = l.Do(lab.Client, func() error {
		g, err := NewGenerator(Config{Port: lab.ClientPort, Flows: f})
		if err != nil {
			return err
		}
		defer g.Close()
		made, _, err := g.Run(context.Background(), Limit{Frames: frames, Rate: 200_000})
		if made != frames {
			t.Errorf("made %d frames, want %d", made, frames)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var c Count
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline) && c.Frames < frames; time.Sleep(time.Millisecond) {
		if c, err = s.Count(); err != nil {
			t.Fatal(err)
		}
	}
	if c.Frames != frames || c.Bytes != 60*frames {
		t.Errorf("sink counted %+v, want %d frames", c, frames)
	}
}

// An ended context and a duration end a run.
func TestRunEnds(t *testing.T) {
	g := needGenerator(t, Config{Port: "lo", Flows: flows(4, UDP, 1)})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if made, _, err := g.Run(ctx, Limit{}); made != 0 || err != nil {
		t.Errorf("made %d, %v", made, err)
	}
}

// What cannot be sent is refused with a reason.
func TestConfigErrors(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Flows.Count = 0 }, "generator: 0 flows: must be 1 to 2147483648"},
		{func(c *Config) { c.Flows.Proto = 1 }, "generator: flows of protocol 1: must be tcp or udp"},
		{func(c *Config) { c.Flows.Server = netip.MustParseAddr("::1") }, "generator: flows from 10.73.1.250 to ::1: need two addresses of one family"},
		{func(c *Config) { c.Flows.Count = MaxFlows }, "generator: 2147483648 flows from 10.73.1.250 on: 65536 addresses do not fit into its low 16 bits"},
		{func(c *Config) { c.Flows.ClientMAC = nil }, "generator: flows between  and 02:00:00:00:00:02: need two Ethernet addresses"},
		{func(c *Config) { c.Size = 41 }, "generator: frame of 41 bytes: must be 42 to 3000"},
		{func(c *Config) { c.Batch = 257 }, "generator with batches of 257: must be 1 to 256"},
	} {
		config := Config{Port: "lo", Flows: flows(4, UDP, 1)}
		c.change(&config)
		if _, err := NewGenerator(config); err == nil || err.Error() != c.want {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}
