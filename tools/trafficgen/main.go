// Command trafficgen sends test traffic from an interface at a chosen rate, up to millions of frames a second, without
// a socket or a driver of its own: see package traffic for how.
//
//	trafficgen --lab                                       how fast this machine can send: veth into a counting sink
//	trafficgen --port eth1 --client 192.0.2.1 --server 192.0.2.2 --server-mac 02:00:00:00:00:02
//	trafficgen --port eth1 --sink eth2 …                   count what comes back through another interface
//
// The frames go to whatever is behind the interface; they carry the addresses given here, which must be your own to use.
// It prints the frames made and their rate, what the sink counted, and the processor time of the whole machine per frame.
//
// Exit status: 0 after the run, 1 on an error, 2 for a wrong command line.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"corewire/tools/lab"
	"corewire/tools/traffic"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line.
type options struct {
	lab, json  bool
	sinkPort   string
	clientMAC  string
	serverMAC  string
	client     string
	server     string
	proto      string
	random     bool
	replies    bool
	flows      uint32
	serverPort uint16
	config     traffic.Config
	limit      traffic.Limit
}

// run is the whole command; it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	f := pflag.NewFlagSet("trafficgen", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&o.lab, "lab", false, "make a pair of interfaces with a sink, and send through them")
	f.StringVar(&o.config.Port, "port", "", "interface that the frames leave through")
	f.StringVar(&o.sinkPort, "sink", "", "interface to count and drop frames at; its host receives nothing meanwhile")
	f.StringVar(&o.client, "client", "", "first client address, of IPv4 or IPv6; flows count it up")
	f.StringVar(&o.server, "server", "", "server address")
	f.StringVar(&o.clientMAC, "client-mac", "", "Ethernet address of the client; default: the port's")
	f.StringVar(&o.serverMAC, "server-mac", "", "Ethernet address of the server")
	f.Uint16Var(&o.serverPort, "server-port", 9000, "server port")
	f.StringVar(&o.proto, "proto", "udp", "udp or tcp")
	f.Uint32Var(&o.flows, "flows", 1, "number of flows")
	f.BoolVar(&o.random, "random", false, "go through the flows in pseudo-random order")
	f.BoolVar(&o.replies, "replies", false, "send the servers' side of the flows")
	f.IntVar(&o.config.Size, "size", 0, "frame size in bytes without FCS; 0 means 60, or the headers where they are longer")
	f.IntVar(&o.config.Batch, "batch", 0, "frames transmitted at once; 0 means 64")
	f.Float64Var(&o.limit.Rate, "rate", 0, "frames a second; 0 means as many as possible")
	f.Uint64Var(&o.limit.Frames, "frames", 0, "number of frames; 0 means no bound")
	f.DurationVar(&o.limit.Duration, "duration", 2*time.Second, "length of the run; 0 means until interrupted")
	f.BoolVar(&o.json, "json", false, "print one JSON object")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return 0
		}
		fmt.Fprintln(stderr, "trafficgen:", err)
		return 2
	}
	if f.NArg() > 0 || o.lab == (o.config.Port != "") {
		fmt.Fprintln(stderr, "trafficgen: give either --lab or --port, and no arguments (see --help)")
		return 2
	}
	if err := o.flowsAndOrder(); err != nil {
		fmt.Fprintln(stderr, "trafficgen:", err)
		return 2
	}
	r, err := o.send(ctx)
	if err != nil {
		fmt.Fprintln(stderr, "trafficgen:", err)
		return 1
	}
	r.print(stdout, o.json)
	return 0
}

// flowsAndOrder reads what the flags say about flows.
func (o *options) flowsAndOrder() error {
	flows := &o.config.Flows
	flows.Count, flows.ServerPort = o.flows, o.serverPort
	switch o.proto {
	case "udp":
		flows.Proto = traffic.UDP
	case "tcp":
		flows.Proto = traffic.TCP
	default:
		return fmt.Errorf("--proto %s: must be udp or tcp", o.proto)
	}
	if o.random {
		o.config.Order = traffic.Random
	}
	if o.replies {
		o.config.Side = traffic.Replies
	}
	if o.lab {
		return nil // addresses come from the lab
	}
	var err error
	if flows.Client, err = netip.ParseAddr(o.client); err != nil {
		return fmt.Errorf("--client: %w", err)
	}
	if flows.Server, err = netip.ParseAddr(o.server); err != nil {
		return fmt.Errorf("--server: %w", err)
	}
	if flows.ServerMAC, err = net.ParseMAC(o.serverMAC); err != nil {
		return fmt.Errorf("--server-mac: %w", err)
	}
	if o.clientMAC == "" {
		port, err := net.InterfaceByName(o.config.Port)
		if err != nil {
			return fmt.Errorf("--port %s: %w", o.config.Port, err)
		}
		o.clientMAC = port.HardwareAddr.String()
	}
	if flows.ClientMAC, err = net.ParseMAC(o.clientMAC); err != nil {
		return fmt.Errorf("--client-mac: %w", err)
	}
	return nil
}

// send makes generator and sink where the flags say, and runs.
func (o *options) send(ctx context.Context) (*result, error) {
	here := func(f func() error) error { return f() }
	source, drain := here, here
	if o.lab {
		l, err := lab.New(lab.Config{Quiet: true})
		if err != nil {
			return nil, err
		}
		defer l.Close()
		flows := &o.config.Flows
		flows.Client, flows.Server, flows.ClientMAC, flows.ServerMAC = l.Addr(lab.Client, 4), l.Addr(lab.Server, 4), l.MAC(lab.Client), l.MAC(lab.Server)
		o.config.Port, o.sinkPort = lab.ClientPort, lab.InsidePort
		source = func(f func() error) error { return l.Do(lab.Client, f) }
		drain = func(f func() error) error { return l.Do(lab.Wire, f) }
	}
	var sink *traffic.Sink
	if o.sinkPort != "" {
		to := o.config.Flows.ServerMAC
		if o.replies {
			to = o.config.Flows.ClientMAC
		}
		err := drain(func() (err error) { sink, err = traffic.NewSink(o.sinkPort, to); return err })
		if err != nil {
			return nil, err
		}
		defer sink.Close()
	}
	r := &result{Flows: o.flows}
	err := source(func() error {
		g, err := traffic.NewGenerator(o.config)
		if err != nil {
			return err
		}
		defer g.Close()
		before, err := traffic.Busy()
		if err != nil {
			return err
		}
		made, took, err := g.Run(ctx, o.limit)
		if err != nil {
			return err
		}
		after, err := traffic.Busy()
		r.Made, r.Seconds, r.Busy = made, took.Seconds(), (after - before).Seconds()
		return err
	})
	if err != nil || sink == nil {
		return r, err
	}
	time.Sleep(settle)
	count, err := sink.Count()
	r.Counted = &count.Frames
	return r, err
}

// settle is how long frames may be on their way after the last one was made.
const settle = 50 * time.Millisecond

// result is what a run gave.
type result struct {
	Flows   uint32  `json:"flows"`
	Made    uint64  `json:"made"`              // frames
	Counted *uint64 `json:"counted,omitempty"` // frames at the sink
	Seconds float64 `json:"seconds"`
	Busy    float64 `json:"busy_seconds"` // processor time of the whole machine
}

func (r *result) print(out io.Writer, asJSON bool) {
	if asJSON {
		json.NewEncoder(out).Encode(r)
		return
	}
	fmt.Fprintf(out, "made     %d frames of %d flows in %.2f s: %.3f Mpps\n", r.Made, r.Flows, r.Seconds, float64(r.Made)/r.Seconds/1e6)
	if r.Counted != nil {
		fmt.Fprintf(out, "counted  %d frames: %.3f Mpps, %.2f %% lost\n", *r.Counted, float64(*r.Counted)/r.Seconds/1e6,
			100*(1-float64(*r.Counted)/float64(max(1, r.Made))))
	}
	fmt.Fprintf(out, "busy     %.2f s of all processors, %.0f ns per frame made\n", r.Busy, r.Busy*1e9/float64(max(1, r.Made)))
}
