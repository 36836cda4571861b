package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"corewire/internal/packet"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// lab is two veth pairs in a network namespace of the test's own. One end of each is a port of the wire; at the other
// end, the far side, packet sockets play the network.
type lab struct {
	port [packet.Ports]socketDev
	far  [packet.Ports]*farSide
}

// farSide is what is connected to a port.
type farSide struct {
	fd   int
	link netlink.Link
	room []byte
}

// needRoot skips the test without privileges, and fails it where CI=true says that they should be there.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		unprivileged(t)
	}
}

func unprivileged(t testing.TB) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root for network namespaces and AF_XDP, and CI=true says it must run")
	}
	t.Skip("needs root for network namespaces and AF_XDP")
}

// newLab makes the namespace and moves the test's goroutine, locked to its thread, into it until the test ends.
func newLab(t testing.TB, queues int) *lab {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread()
	old, err := netns.Get()
	if err != nil {
		t.Fatalf("get network namespace: %v", err)
	}
	ns, err := netns.New()          // unnamed: it ends with the last thread and descriptor in it
	if errors.Is(err, unix.EPERM) { // root of a container
		runtime.UnlockOSThread()
		old.Close()
		unprivileged(t)
	}
	if err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := netns.Set(old); err != nil {
			t.Errorf("leave network namespace: %v", err) // and leave the thread locked, so that it ends here
		} else {
			runtime.UnlockOSThread()
		}
		ns.Close()
		old.Close()
	})
	// No neighbour discovery or the like among the test's frames.
	for _, which := range []string{"all", "default"} {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/disable_ipv6", []byte("1"), 0)
	}
	l := &lab{}
	for p := range l.port {
		name, peer := fmt.Sprintf("port%d", p), fmt.Sprintf("far%d", p)
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.NumTxQueues, attrs.NumRxQueues = name, queues, queues
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNumTxQueues: uint32(queues), PeerNumRxQueues: uint32(queues)}
		if err := netlink.LinkAdd(veth); err != nil {
			t.Fatalf("make veth pair: %v", err)
		}
		for _, n := range []string{name, peer} {
			dev, err := netlink.LinkByName(n)
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.LinkSetUp(dev); err != nil {
				t.Fatal(err)
			}
			if n == name {
				l.port[p] = socketDev{Name: n, Index: dev.Attrs().Index}
			} else {
				l.far[p] = newFarSide(t, dev)
			}
		}
	}
	return l
}

const protoAll = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order

func newFarSide(t testing.TB, dev netlink.Link) *farSide {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protoAll)
	if err != nil {
		t.Fatalf("open packet socket: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	for _, o := range [][3]int{
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
		{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32 << 20},
		{unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 32 << 20},
	} {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			t.Fatalf("set option of packet socket: %v", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protoAll, Ifindex: dev.Attrs().Index}); err != nil {
		t.Fatalf("bind packet socket: %v", err)
	}
	return &farSide{fd: fd, link: dev, room: make([]byte, 1<<16)}
}

// send transmits one frame towards the port.
func (f *farSide) send(frame []byte) error {
	for {
		err := unix.Send(f.fd, frame, 0)
		if err != unix.EAGAIN && err != unix.ENOBUFS {
			return err
		}
		runtime.Gosched()
	}
}

// receive returns the next frame that came out of the port, nil if there is none. It is valid until the next call.
func (f *farSide) receive() []byte {
	n, _, err := unix.Recvfrom(f.fd, f.room, unix.MSG_DONTWAIT)
	if err != nil {
		return nil
	}
	return f.room[:n]
}

// attach puts an XDP program on both ports that redirects every frame to the wires' sockets by queue, or drops it.
// The returned function empties the maps' slots, as the Link does before it closes the sockets.
func (l *lab) attach(t testing.TB, ws []socketWire, mode link.XDPAttachFlags) (detach func()) {
	t.Helper()
	var maps [packet.Ports]*ebpf.Map
	for p := range l.port {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: uint32(len(ws))})
		if err != nil {
			t.Fatalf("make XSKMAP: %v", err)
		}
		t.Cleanup(func() { m.Close() })
		maps[p] = m
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type:    ebpf.XDP,
			License: "Apache-2.0",
			Instructions: asm.Instructions{
				asm.LoadMem(asm.R2, asm.R1, 16, asm.Word), // xdp_md.rx_queue_index
				asm.LoadMapPtr(asm.R1, m.FD()),
				asm.Mov.Imm(asm.R3, 1), // XDP_DROP where the slot is empty
				asm.FnRedirectMap.Call(),
				asm.Return(),
			},
		})
		if err != nil {
			t.Fatalf("load XDP program: %v", err)
		}
		at, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: l.port[p].Index, Flags: mode})
		if err != nil {
			t.Fatalf("attach XDP program: %v", err)
		}
		t.Cleanup(func() {
			at.Close()
			prog.Close()
		})
		for _, w := range ws {
			if err := m.Put(w.Queue(), uint32(w.FD(packet.Port(p)))); err != nil {
				t.Fatalf("put socket into XSKMAP: %v", err)
			}
		}
	}
	return func() {
		for _, m := range maps {
			for _, w := range ws {
				_ = m.Delete(w.Queue())
			}
		}
	}
}

// udp returns a frame of n bytes (at least 60) of flow src port → dst port with the sequence number in the payload.
// Checksums are left out; nobody but the receiving test looks at it.
func udp(n int, flow uint16, seq uint32) []byte {
	b := make([]byte, max(n, 60))
	copy(b, net.HardwareAddr{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1})
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip := b[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum&0xffff+sum>>16))
	binary.BigEndian.PutUint16(ip[20:], flow)
	binary.BigEndian.PutUint16(ip[22:], 7)
	binary.BigEndian.PutUint16(ip[24:], uint16(len(ip)-20))
	binary.BigEndian.PutUint32(ip[28:], seq)
	for i := 32; i < len(ip); i++ {
		ip[i] = byte(uint32(i)*7 + seq*13 + uint32(flow))
	}
	return b
}

// flowSeq returns what udp was called with.
func flowSeq(b []byte) (flow uint16, seq uint32) {
	return binary.BigEndian.Uint16(b[34:]), binary.BigEndian.Uint32(b[42:])
}

// eventually calls step until it reports true; the test fails after a long time without.
func eventually(t testing.TB, what string, step func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		if step() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

// flood makes the far side of port p send n frames of flow, as fast as the kernel can: an XDP program runs on live frames
// and transmits them. It returns when they have been sent.
func (l *lab) flood(t testing.TB, p packet.Port, flow uint16, n int) {
	t.Helper()
	const live = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.XDP,
		License:      "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 3), asm.Return()}, // XDP_TX
	})
	if err != nil {
		t.Fatalf("load XDP program: %v", err)
	}
	defer prog.Close()
	// struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
	frame := udp(64, flow, 0)
	ctx := struct{ Data, End, Meta, Ingress, Queue, Egress uint32 }{End: uint32(len(frame)), Ingress: uint32(l.far[p].link.Attrs().Index)}
	if _, err := prog.Run(&ebpf.RunOptions{Data: frame, Repeat: uint32(n), Flags: live, Context: ctx}); err != nil {
		t.Fatalf("send live frames: %v", err)
	}
}
