package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"corewire/conntrack"
	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

const (
	// bridgeName is the bridge between the two taps, which have the names of the wire's ports, so that rules can ask
	// for them.
	bridgeName = "br0"
	// tapMTU is the largest that the kernel allows a tap: no frame of a capture is too long for it, and a datagram put
	// together from fragments leaves in one piece (br_nf_dev_queue_xmit, net/bridge/br_netfilter_hooks.c).
	tapMTU = 65535 - 14
	// groupForward makes the bridge pass frames to all link-local groups (01:80:c2:00:00:0x), as a wire does, but for
	// MAC pause frames, which no bridge passes (BR_GROUPFWD_MACPAUSE, net/bridge/br_private.h).
	groupForward = 0xffff &^ (1 << 1)
	// carrierTimeout is how long the bridge may take to come up; it takes some milliseconds.
	carrierTimeout = 5 * time.Second
)

// kernel is Linux as a transparent firewall: a network namespace with a bridge between two taps, br_netfilter, iptables
// and the witness. One goroutine uses it.
type kernel struct {
	work  chan func() // runs on the namespace's thread
	ended chan struct{}
	taps  [packet.Ports]int
	see   *observer
	room  [1 << 17]byte   // a frame that left
	hertz uint32          // jiffies a second
	aged  map[string]aged // by the original tuple and id; namespace's thread
}

// newKernel makes the namespace. rules are what iptables-restore and ip6tables-restore get.
func newKernel(rules4, rules6 []byte, settings *conntrack.Settings) (*kernel, error) {
	k := &kernel{work: make(chan func()), ended: make(chan struct{}), taps: [2]int{-1, -1}}
	made := make(chan error)
	go k.keep(made)
	if err := <-made; err != nil {
		<-k.ended
		return nil, err
	}
	err := k.do(func() error { return k.build(rules4, rules6, settings) })
	if err == nil {
		err = k.waitForwarding()
	}
	if err == nil {
		err = k.calibrate(settings)
	}
	if err != nil {
		return nil, errors.Join(err, k.close())
	}
	return k, nil
}

// keep is the thread that lives in the namespace and keeps it alive.
func (k *kernel) keep(made chan<- error) {
	defer close(k.ended)
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and with it the namespace
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		made <- fmt.Errorf("make a network namespace: %w (root is needed)", err)
		return
	}
	made <- nil
	for f := range k.work {
		f()
	}
}

// do runs f in the namespace.
func (k *kernel) do(f func() error) error {
	done := make(chan error)
	k.work <- func() { done <- f() }
	return <-done
}

func (k *kernel) build(rules4, rules6 []byte, settings *conntrack.Settings) error {
	for name, value := range map[string]string{
		"net/bridge/bridge-nf-call-iptables":      "1",
		"net/bridge/bridge-nf-call-ip6tables":     "1",
		"net/bridge/bridge-nf-filter-vlan-tagged": "1",
		"net/bridge/bridge-nf-call-arptables":     "0",
		"net/ipv6/conf/default/disable_ipv6":      "1", // the namespace's own interfaces send nothing
	} {
		if err := setSysctl(name, value); err != nil {
			return err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = bridgeName, tapMTU
	off := false
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make bridge: %w", err)
	}
	for p := range k.taps {
		if err := k.tap(packet.Port(p), bridge); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("set the bridge up: %w", err)
	}
	if err := applySettings(settings); err != nil {
		return err
	}
	if err := defineTimeouts(settings); err != nil { // what they do not say is as set a moment ago
		return err
	}
	for _, s := range []struct {
		command string
		rules   []byte
	}{{"iptables-legacy-restore", rules4}, {"ip6tables-legacy-restore", rules6}} {
		if err := restore(s.command, s.rules); err != nil {
			return err
		}
	}
	var err error
	k.see, err = newObserver()
	return err
}

// calibrate finds out how many jiffies make a second: the witness sees a new connection's timeout in jiffies.
func (k *kernel) calibrate(settings *conntrack.Settings) error {
	seconds, err := settings.Get("nf_conntrack_udp_timeout")
	if err != nil {
		return err
	}
	r, err := k.send(packet.Inside, packettest.NewUDP(packettest.AP("192.0.2.1:9"), packettest.AP("192.0.2.2:9")))
	if err != nil {
		return err
	}
	if len(r.sights) != 1 || seconds == 0 || r.sights[0].Timeout < seconds {
		return fmt.Errorf("the witness did not see a new connection: %+v (is br_netfilter loaded?)", r.sights)
	}
	k.hertz = r.sights[0].Timeout / seconds
	return k.flush()
}

// tap makes one port: a tap in the bridge that learns no addresses, so that every frame goes to the other port.
func (k *kernel) tap(p packet.Port, bridge netlink.Link) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w (the kernel needs CONFIG_TUN)", err)
	}
	k.taps[p] = fd
	req, err := unix.NewIfreq(p.String())
	if err != nil {
		return fmt.Errorf("make tap %v: %w", p, err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("make tap %v: %w", p, err)
	}
	l, err := netlink.LinkByName(p.String())
	if err != nil {
		return fmt.Errorf("find tap %v: %w", p, err)
	}
	for _, step := range []error{
		netlink.LinkSetMTU(l, tapMTU),
		netlink.LinkSetMaster(l, bridge),
		netlink.LinkSetLearning(l, false),
		netlink.LinkSetBRSlaveGroupFwdMask(l, groupForward),
		netlink.LinkSetUp(l),
	} {
		if step != nil {
			return fmt.Errorf("set tap %v up: %w", p, step)
		}
	}
	return nil
}

// waitForwarding sends probes until one comes through: the bridge takes a moment to put its ports into forwarding state.
func (k *kernel) waitForwarding() error {
	probe := []byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5, 0, 0} // a type for experiments, IEEE 802
	for deadline := time.Now().Add(carrierTimeout); ; time.Sleep(time.Millisecond) {
		through := 0
		for p := range k.taps {
			s, err := k.send(packet.Port(p), probe)
			if err != nil && !errors.Is(err, unix.EIO) {
				return err
			}
			through += min(1, len(s.out))
		}
		if through == packet.Ports {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the bridge forwards nothing after %v", carrierTimeout)
		}
	}
}

// passage is what the kernel made of one frame.
type passage struct {
	out    [][]byte       // the frames that left through the other port
	back   [][]byte       // the frames that left through the port it came from, if none left through the other one
	sights []witnessSight // what the witness saw; none for a frame that did not reach the FORWARD hook as IP
}

// send puts a frame on a port and returns what became of it. Everything happens in the system call: tun_get_user
// (drivers/net/tun.c) calls netif_receive_skb, the bridge forwards to the other tap without a queue in between.
func (k *kernel) send(in packet.Port, frame []byte) (passage, error) {
	var r passage
	if _, err := unix.Write(k.taps[in], frame); err != nil {
		return r, fmt.Errorf("write a frame of %d bytes to tap %v: %w", len(frame), in, err)
	}
	for {
		n, err := unix.Read(k.taps[in.Other()], k.room[:])
		if err == unix.EAGAIN {
			break
		}
		if err != nil {
			return r, fmt.Errorf("read tap %v: %w", in.Other(), err)
		}
		r.out = append(r.out, bytes.Clone(k.room[:n]))
	}
	if len(r.out) == 0 {
		r.back = k.answers(in)
	}
	var err error
	if k.see != nil {
		r.sights, err = k.see.look(nil)
	}
	return r, err
}

// answers returns what has left through a port by now. What the kernel answers itself goes through a softirq, which a busy
// machine leaves to a thread: it may come after send has returned.
func (k *kernel) answers(out packet.Port) (frames [][]byte) {
	for {
		n, err := unix.Read(k.taps[out], k.room[:])
		if err != nil || n == 0 {
			return frames
		}
		frames = append(frames, bytes.Clone(k.room[:n]))
	}
}

// close removes the namespace and everything in it.
func (k *kernel) close() error {
	var errs []error
	if k.see != nil {
		errs = append(errs, k.see.close())
	}
	close(k.work)
	<-k.ended
	for _, fd := range k.taps {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// table returns the connections as /proc/net/nf_conntrack lists them.
func (k *kernel) table() (lines []string, err error) {
	err = k.do(func() error {
		if n, err := connections(); n == 0 {
			return err
		}
		b, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
		if err != nil {
			return fmt.Errorf("list the kernel's connections: %w", err)
		}
		lines = strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' })
		return nil
	})
	return lines, err
}

// connections returns how many connections the calling thread's namespace has. To list or to flush even none of them the
// kernel goes through the whole machine's table, which takes milliseconds.
func connections() (int, error) {
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	if err != nil {
		return 0, fmt.Errorf("count the kernel's connections: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// restore loads rules with one of the restore commands.
func restore(command string, rules []byte) error {
	cmd := exec.Command(command)
	cmd.Stdin = bytes.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, bytes.TrimSpace(out))
	}
	return nil
}

// applySettings writes every setting that has a name in Linux to the namespace.
func applySettings(s *conntrack.Settings) error {
	for _, row := range conntrack.AllSettings() {
		if row.Param != "" || row.Name == "nf_conntrack_expect_max" {
			continue // of the whole kernel, not of a namespace
		}
		dir := "net/netfilter/"
		if strings.HasPrefix(row.Name, "ipfrag_") {
			dir = "net/ipv4/"
		}
		if err := setSysctl(dir+row.Name, strconv.FormatUint(uint64(row.Get(s)), 10)); err != nil {
			return err
		}
	}
	return nil
}

func setSysctl(name, value string) error {
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	return nil
}
