package dataplane_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"corewire/dataplane"
	"corewire/ring"
	"corewire/rules"
	"corewire/tools/lab"
)

const vethRules = `*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -p ipv6-icmp -m conntrack --ctstate UNTRACKED -j ACCEPT
-A FORWARD -i inside -p tcp --dport 7000 -m conntrack --ctstate NEW -j ACCEPT
-A FORWARD -i inside -p udp --dport 7000 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
`

// TestVeth is the whole wire on real interfaces, with one queue and with four. On veth the local stack chooses the
// queue per socket, so both directions of a connection arrive at different workers all the time: every frame must
// find its owner, TCP streams and fragmented datagrams of both families must arrive whole, and when all is quiet every
// chunk must have one owner. The second rule lets neighbour discovery through, as it must in ip6tables on a bridge.
func TestVeth(t *testing.T) {
	for _, driver := range []ring.Driver{ring.DriverXSK, ring.DriverAsavie} {
		for _, queues := range []int{1, 4} {
			t.Run(fmt.Sprintf("%v/queues=%d", driver, queues), func(t *testing.T) { testVeth(t, driver, queues) })
		}
	}
}

func testVeth(t *testing.T, driver ring.Driver, queues int) {
	l := lab.Need(t, lab.Config{Queues: queues})
	dir := t.TempDir()
	var link *ring.Link
	err := l.Do(lab.Wire, func() (err error) {
		// Room for all that twelve streams may have in flight: the hosts share the worker's processors, a turn may take some
		// milliseconds, and with shorter rings the kernel drops what arrives meanwhile, and counts it.
		link, err = ring.Open(ring.Config{Inside: "in0", Outside: "out0", Driver: driver, Chunks: 1 << 15, RingSize: 1 << 13, StatePath: dir + "/state.json"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := rules.Parse("veth.rules", []byte(vethRules), rules.Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rules.Compile([]*rules.File{f}, rules.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := dataplane.New(dataplane.Config{Wires: link.Wires(), Ruleset: rs, Max: 1 << 14, Beat: link.Beat})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := l.Do(lab.Wire, link.Close); err != nil {
			t.Error(err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()

	var wg sync.WaitGroup
	var lost atomic.Int64
	for _, family := range []int{4, 6} {
		server := netip.AddrPortFrom(l.Addr(lab.Server, family), 7000).String()
		ln, err := l.Listen(ctx, lab.Server, "tcp", server)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go echoStreams(ln)
		pc, err := l.ListenPacket(ctx, lab.Server, "udp", server)
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		go echoDatagrams(pc)
		for i := range 6 {
			wg.Go(func() {
				if err := stream(ctx, l, server, uint64(i)); err != nil {
					t.Errorf("stream %d to %s: %v", i, server, err)
				}
			})
			wg.Go(func() {
				if err := datagrams(ctx, l, server, uint64(i), &lost); err != nil {
					t.Errorf("datagrams %d to %s: %v", i, server, err)
				}
			})
		}
	}
	wg.Wait()

	refused := netip.AddrPortFrom(l.Addr(lab.Server, 4), 7001).String()
	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	if c, err := l.Dial(short, lab.Client, "tcp", refused); err == nil {
		c.Close()
		t.Errorf("connected to %s, which the rules block", refused)
	}

	// TCP may still send; the sum must hold within some seconds.
	var s dataplane.Stats
	for range 100 {
		if s, err = e.Stats(ctx); err != nil {
			t.Fatal(err)
		}
		ledger := s.Ledger()
		if ledger.Balanced() && ledger.RX == 0 && ledger.TX == 0 && ledger.HandedOff == 0 && (ledger.Held == 0 || lost.Load() > 0) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	ledger := s.Ledger()
	// A datagram of which the network lost a fragment leaves the others waiting, for 30 s.
	if !ledger.Balanced() || ledger.Held != 0 && lost.Load() == 0 || ledger.HandedOff != 0 {
		t.Errorf("chunks do not add up: %+v", ledger)
	}
	total := s.Total()
	if queues > 1 && (total.Handed == 0 || total.Handed != total.Taken) {
		t.Errorf("%d frames handed over, %d taken", total.Handed, total.Taken)
	}
	if total.Verdict[dataplane.Hold] == 0 {
		t.Error("no fragment was held")
	}
	for r := range dataplane.DropReasons {
		if n := total.Drop[r]; n != 0 && r != dataplane.DropRule {
			t.Errorf("%d frames dropped: %v", n, r)
		}
	}
	t.Logf("%d datagrams sent again", lost.Load())
	// 12 streams, 12 datagram flows; the blocked one left nothing. The hosts' own multicast was not accepted.
	if n := e.Count(); n != 24 {
		t.Errorf("%d connections, want 24", n)
	}
}

func echoStreams(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c) // an error shows at the other end, as missing bytes
		}()
	}
}

func echoDatagrams(pc net.PacketConn) {
	b := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			return
		}
		pc.WriteTo(b[:n], from) // a loss shows at the other end
	}
}

// random returns n reproducible bytes.
func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(b)
	return b
}

// stream sends half a megabyte through an echo server and compares what comes back.
func stream(ctx context.Context, l *lab.Lab, server string, seed uint64) error {
	c, err := l.Dial(ctx, lab.Client, "tcp", server)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	data := random(512<<10, seed)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	h := sha256.New()
	if _, err := io.Copy(h, c); err != nil {
		return err
	}
	if err := <-sent; err != nil {
		return err
	}
	if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
		return errors.New("other bytes came back")
	}
	return nil
}

// datagrams sends datagrams of three fragments each and waits for every answer.
func datagrams(ctx context.Context, l *lab.Lab, server string, seed uint64, lost *atomic.Int64) error {
	c, err := l.Dial(ctx, lab.Client, "udp", server)
	if err != nil {
		return err
	}
	defer c.Close()
	back := make([]byte, 1<<16)
	for i := range 20 {
		data := random(4000, seed+uint64(i))
		// A fragment may still be lost where the machine is so busy that veth's own queue of 256 overflows. Three in a row are
		// no accident.
		for try := 1; ; try++ {
			if _, err := c.Write(data); err != nil {
				return err
			}
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			n, err := c.Read(back)
			if err != nil {
				if try == 3 {
					return fmt.Errorf("datagram %d, sent %d times: %w", i, try, err)
				}
				lost.Add(1)
				continue
			}
			if !bytes.Equal(back[:n], data) {
				return fmt.Errorf("datagram %d: other bytes came back", i)
			}
			break
		}
	}
	return nil
}
