package control

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"corewire/internal/config"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
	"corewire/ring"
)

const ruleText = `*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:web - [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i inside -s 10.0.0.0/8 -p udp -m udp --dport 53 -j ACCEPT
-A FORWARD ! -i outside -p tcp -g web
-A web -p tcp -m multiport --dports 80,443 -j ACCEPT
COMMIT
`

// rig is a firewall over in-memory wires that runs, and a client of its API.
type rig struct {
	t        *testing.T
	firewall *Firewall
	server   *Server
	client   *Client
	wires    []*ring.Memory
	rules    string            // path
	settings map[string]string // read by a reload
	ctx      context.Context
}

// newRig starts a firewall; changes are settings.
func newRig(t *testing.T, workers int, changes map[string]string) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t}
	r.file()
	r.settings = map[string]string{"rules": r.rules, "control-socket": filepath.Join(dir, "corewire.sock"), "metrics-addr": "127.0.0.1:0", "cpus": "none", "nf_conntrack_max": "1000"}
	maps.Copy(r.settings, changes)
	base, _, err := config.Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	load := func() (*config.Config, error) { return base.With(r.settings) }
	c, err := load()
	if err != nil {
		t.Fatal(err)
	}
	rs, err := c.LoadRules()
	if err != nil {
		t.Fatal(err)
	}
	if r.wires, err = ring.NewMemory(ring.MemoryConfig{Pool: ring.PoolConfig{Workers: workers, Chunks: 1024}}); err != nil {
		t.Fatal(err)
	}
	var wires []ring.Wire
	for _, w := range r.wires {
		wires = append(wires, w)
	}
	if r.server, err = Listen(c); err != nil {
		t.Fatal(err)
	}
	if r.firewall, err = newFirewall(c, rs, wires, nil, Options{Version: "test", Load: load}); err != nil {
		t.Fatal(err)
	}
	r.client = NewClient(c.ControlSocket)
	ctx, cancel := context.WithCancel(context.Background())
	r.ctx = ctx
	done := make(chan error, 2)
	go func() { done <- r.firewall.Run(ctx) }()
	go func() { done <- r.server.Serve(ctx, r.firewall) }()
	t.Cleanup(func() {
		r.client.Close()
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if err := r.firewall.Close(); err != nil {
			t.Error(err)
		}
		for _, w := range r.wires {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Lstat(c.ControlSocket); err == nil {
			t.Error("the socket is still there")
		}
	})
	return r
}

// file writes the rules to a file of their own and returns its path.
func (r *rig) file() string {
	r.rules = filepath.Join(r.t.TempDir(), "rules")
	r.write(ruleText)
	return r.rules
}

func (r *rig) write(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.rules, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// send puts frames into the wire of worker 0 and waits until they have been judged.
func (r *rig) send(port packet.Port, frames ...[]byte) {
	r.t.Helper()
	before := r.judged()
	for _, f := range frames {
		r.eventually("a free chunk", func() bool { return r.wires[0].Inject(port, f) })
	}
	r.eventually("all frames judged", func() bool { return r.judged() >= before+uint64(len(frames)) })
}

func (r *rig) judged() uint64 {
	s, err := r.firewall.Stats(r.ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, w := range r.wires {
		for p := range packet.Port(packet.Ports) {
			w.Collect(p, nil)
		}
	}
	return s.Total.Verdicts["accept"] + s.Total.Verdicts["drop"] + s.Total.Verdicts["hold"]
}

// eventually waits for a condition, at most some seconds.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for range 5000 {
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	r.t.Fatal("not reached: " + what)
}

// dns is the n-th query of the inside.
func dns(n int) []byte {
	return pt.NewUDP(pt.AP(fmt.Sprintf("10.0.0.%d:%d", n%200+1, 1024+n/200)), pt.AP("192.0.2.53:53"))
}
