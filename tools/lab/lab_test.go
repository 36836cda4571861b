package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A bridge in the middle connects the ends over both families, with frames of the full MTU, TCP and UDP.
func TestEndsTalkThroughBridge(t *testing.T) {
	for _, filter := range []Filter{Plain, Netfilter} {
		t.Run(fmt.Sprintf("filter %d", filter), func(t *testing.T) {
			l := Need(t, Config{Queues: 2})
			if err := l.Bridge(filter); err != nil {
				t.Fatal(err)
			}
			for _, family := range []int{4, 6} {
				talk(t, l, family)
			}
		})
	}
}

// talk sends a megabyte over TCP from client to server, and a datagram larger than the MTU over UDP.
func talk(t *testing.T, l *Lab, family int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	address := netip.AddrPortFrom(l.Addr(Server, family), 8080).String()

	listener, err := l.Listen(ctx, Server, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			conn.Write(sent)
			conn.Close()
		}
	}()
	conn, err := l.Dial(ctx, Client, "tcp", address)
	if err != nil {
		t.Fatalf("IPv%d: %v", family, err)
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("IPv%d: read %d bytes, %v; sent %d", family, len(got), err, len(sent))
	}

	receiver, err := l.ListenPacket(ctx, Server, "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	sender, err := l.Dial(ctx, Client, "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	if _, err := sender.Write(sent[:4000]); err != nil {
		t.Fatal(err)
	}
	receiver.SetReadDeadline(time.Now().Add(10 * time.Second))
	buffer := make([]byte, 8192)
	n, _, err := receiver.ReadFrom(buffer)
	if err != nil || !bytes.Equal(buffer[:n], sent[:4000]) {
		t.Errorf("IPv%d: datagram of %d bytes, %v; sent 4000", family, n, err)
	}
}

// Without anybody in the middle nothing passes.
func TestNothingPassesAlone(t *testing.T) {
	l := Need(t, Config{Quiet: true})
	ctx := context.Background()
	address := netip.AddrPortFrom(l.Addr(Server, 4), 8080).String()
	receiver, err := l.ListenPacket(ctx, Server, "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	sender, err := l.Dial(ctx, Client, "udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	sender.Write([]byte("nobody forwards this"))
	receiver.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, from, err := receiver.ReadFrom(make([]byte, 64)); err == nil {
		t.Errorf("received %d bytes from %v", n, from)
	}
}

// What was asked for is what the interfaces have.
func TestInterfaces(t *testing.T) {
	l := Need(t, Config{Queues: 3, MTU: 2000, Quiet: true})
	ports := map[Where][]string{Client: {ClientPort}, Wire: {InsidePort, OutPort}, Server: {ServerPort}}
	for where, names := range ports {
		for _, name := range names {
			err := l.Do(where, func() error {
				link, err := netlink.LinkByName(name)
				if err != nil {
					return err
				}
				a := link.Attrs()
				if a.MTU != 2000 || a.NumRxQueues != 3 || a.NumTxQueues != 3 {
					t.Errorf("%s: MTU %d, %d receive and %d transmit queues", name, a.MTU, a.NumRxQueues, a.NumTxQueues)
				}
				if a.RawFlags&unix.IFF_LOWER_UP == 0 || a.RawFlags&unix.IFF_UP == 0 {
					t.Errorf("%s: flags %#x: no carrier", name, a.RawFlags)
				}
				if mac := l.MAC(where); mac != nil && mac.String() != a.HardwareAddr.String() {
					t.Errorf("%s: address %v, want %v", name, a.HardwareAddr, mac)
				}
				if _, err := os.Stat("/sys/class/net/" + name); err != nil {
					t.Errorf("sysfs does not show the namespace: %v", err)
				}
				addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
				if err != nil {
					return err
				}
				for _, addr := range addrs {
					if addr.Flags&unix.IFA_F_TENTATIVE != 0 {
						t.Errorf("%s: %v is tentative", name, addr)
					}
				}
				if want := map[Where]int{Client: 3, Server: 3}[where]; len(addrs) != want {
					t.Errorf("%s: addresses %v, want %d", name, addrs, want)
				}
				if where == Wire {
					return nil
				}
				e, err := ethtool.NewEthtool()
				if err != nil {
					return err
				}
				defer e.Close()
				features, err := e.Features(name)
				if err != nil {
					return err
				}
				for feature, on := range hostFeatures {
					if got, ok := features[feature]; ok && got != on {
						t.Errorf("%s: %s is %v", name, feature, got)
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
}

// Commands run inside the namespace, see its sysfs and bpf file system, and are killed with the lab.
func TestStart(t *testing.T) {
	l := Need(t, Config{})
	for where, want := range map[Where]string{Client: ClientPort, Wire: InsidePort, Server: ServerPort} {
		var out bytes.Buffer
		cmd := exec.Command("/bin/sh", "-c", "ls /sys/class/net; : > /dev/null; mkdir /sys/fs/bpf/made")
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := l.Run(where, cmd); err != nil {
			t.Errorf("%v: %v: %s", where, err, out.String())
		}
		if !strings.Contains(out.String(), want) {
			t.Errorf("%v: interfaces %q, want %s", where, out.String(), want)
		}
		if err := l.Do(where, func() error { return os.Remove("/sys/fs/bpf/made") }); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat("/sys/class/net/" + InsidePort); err == nil {
		t.Errorf("%s exists outside the lab", InsidePort)
	}
	sleeper := exec.Command("/bin/sleep", "1000")
	if err := l.Start(Wire, sleeper); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := sleeper.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("command outlived the lab: %v", err)
	}
}

// Do returns errors with the namespace's name and passes a Goexit on.
func TestDo(t *testing.T) {
	l := Need(t, Config{})
	err := l.Do(Wire, func() error { return l.Do(Client, func() error { return io.EOF }) })
	if got, want := fmt.Sprint(err), "wire namespace: client namespace: EOF"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	reached := make(chan bool, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Do(Server, func() error { runtime.Goexit(); return nil })
		reached <- true
	}()
	<-done
	if len(reached) != 0 {
		t.Error("Do returned after a Goexit")
	}
	// The threads of the test itself never moved.
	if interfaces, err := net.Interfaces(); err == nil {
		for _, i := range interfaces {
			if i.Name == InsidePort || i.Name == ClientPort {
				t.Errorf("the test's own namespace has %s", i.Name)
			}
		}
	}
}

// A lab leaves no descriptor, goroutine or thread in a namespace behind.
func TestCloseLeavesNothing(t *testing.T) {
	Need(t, Config{}).Close() // the first one warms up the runtime's threads and the netlink library
	files, spaces, goroutines := countFiles(t), countNamespaces(t), runtime.NumGoroutine()
	for range 3 {
		l, err := New(Config{Queues: 2})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Bridge(Plain); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
	}
	// A thread needs a moment to end after its goroutine did.
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if countFiles(t) <= files && countNamespaces(t) <= spaces && runtime.NumGoroutine() <= goroutines {
			return
		}
	}
	t.Errorf("descriptors %d → %d, namespaces %d → %d, goroutines %d → %d",
		files, countFiles(t), spaces, countNamespaces(t), goroutines, runtime.NumGoroutine())
}

// countFiles returns the number of open descriptors of the process.
func countFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// countNamespaces returns the number of different network namespaces that threads of the process are in.
func countNamespaces(t *testing.T) int {
	links, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil {
			seen[name] = true
		}
	}
	return len(seen)
}

// What cannot be built is refused with a reason.
func TestConfigErrors(t *testing.T) {
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{Queues: -1}, "lab with -1 queues: must be 1 to 4096"},
		{Config{MTU: 576}, "lab with an MTU of 576: must be 1280 to 65535"},
	} {
		if _, err := New(c.config); err == nil || err.Error() != c.want {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}
