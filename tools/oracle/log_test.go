package main

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/internal/packet"
	"corewire/internal/packetlog"
	"corewire/ring"
	"corewire/rules"
)

// logRules log everything before connection tracking, some of it behind, with everything that a line can have and with
// nothing beyond.
const logRules = `*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -j LOG --log-prefix "cw-raw "
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -j LOG --log-prefix "cw-all " --log-level 6 --log-tcp-sequence --log-tcp-options --log-ip-options --log-macdecode
-A FORWARD -m conntrack --ctstate NEW -j LOG --log-prefix "cw-new"
COMMIT
`

// kernelLog is the kernel's log from now on. The kernel writes for a namespace only if told to, machine-wide; the test puts
// that back.
type kernelLog struct{ fd int }

func openKernelLog(t *testing.T) *kernelLog {
	t.Helper()
	const everywhere = "/proc/sys/net/netfilter/nf_log_all_netns"
	before, err := os.ReadFile(everywhere)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(everywhere, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(everywhere, before, 0); err != nil {
			t.Error(err)
		}
	})
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		t.Fatal(err)
	}
	return &kernelLog{fd}
}

// lines returns what has been logged by now by the rules of this test, as the wire would: without the bridge.
func (k *kernelLog) lines(t *testing.T) (out []string) {
	t.Helper()
	room := make([]byte, 8192)
	for {
		n, err := unix.Read(k.fd, room)
		if errors.Is(err, unix.EAGAIN) {
			return out
		}
		if err != nil {
			t.Fatal(err) // EPIPE: the log was overrun, and lines are missing
		}
		_, line, _ := strings.Cut(string(room[:n]), ";")
		line, _, _ = strings.Cut(line, "\n")
		if !strings.HasPrefix(line, "cw-") {
			continue
		}
		for _, p := range [...]packet.Port{packet.Inside, packet.Outside} {
			// In PREROUTING no way out is known yet: a wire knows it.
			line = strings.Replace(line, "IN=br0 OUT= PHYSIN="+p.String()+" ", "IN="+p.String()+" OUT="+p.Other().String()+" ", 1)
			line = strings.Replace(line, "IN=br0 OUT=br0 PHYSIN="+p.String()+" PHYSOUT="+p.Other().String()+" ", "IN="+p.String()+" OUT="+p.Other().String()+" ", 1)
		}
		out = append(out, line)
	}
}

// TestLogLines sends random and damaged frames through both sides and compares what LOG rules write of them, to the byte.
func TestLogLines(t *testing.T) {
	need(t)
	f, err := rules.Parse("log", []byte(logRules), rules.Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rules.Compile([]*rules.File{f}, rules.Options{Logs: true})
	if err != nil {
		t.Fatal(err)
	}
	settings := conntrack.DefaultSettings()
	k, err := newKernel(save(f, rules.IPv4), save(f, rules.IPv6), settings)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	var ours []string
	c := new(corewire)
	c.engine, err = dataplane.New(dataplane.Config{
		Wires: []ring.Wire{&c.wire}, Ruleset: rs, Settings: settings, Max: 1 << 18, Burst: 1, Record: true, Tags: 1,
		Log: func(logged []dataplane.Logged) {
			for i := range logged {
				l := &logged[i]
				info, _ := l.Rules.Rule(l.Rule)
				target := info.Rule.Target.Log
				e := packetlog.Entry{Prefix: target.Prefix, In: l.In.String(), Out: l.In.Other().String(), Mark: l.Mark, Length: l.Length, L3: l.L3, End: l.End, Frame: l.Frame(),
					Sequence: target.Sequence, TCPOptions: target.TCP, IPOptions: target.IP, MACDecode: target.MAC}
				ours = append(ours, string(e.AppendLine(nil)))
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	klog := openKernelLog(t)
	lines, wrong := 0, 0
	now := conntrack.Tick(1)
	for _, stream := range [...]func(uint64, int) func(func(shot) bool){
		func(s uint64, n int) func(func(shot) bool) { return mixStream(s, n) },
		func(s uint64, n int) func(func(shot) bool) { return mutatedStream(s, n) },
		func(s uint64, n int) func(func(shot) bool) { return fragmentStream(s, n) },
	} {
		for s := range stream(*seed, amount()/50) {
			if len(s.frame) < packet.EthernetHeader || len(s.frame) > 1514 {
				continue
			}
			if _, err := k.send(s.in, s.frame); err != nil {
				t.Fatal(err)
			}
			ours = ours[:0]
			if _, err := c.send(s.in, s.frame, now); err != nil {
				t.Fatal(err)
			}
			theirs := klog.lines(t)
			lines += len(theirs)
			if !slices.Equal(ours, theirs) {
				if wrong++; wrong <= 3 {
					t.Errorf("frame %x:\nkernel   %s\ncorewire %s", s.frame, strings.Join(theirs, "\n         "), strings.Join(ours, "\n         "))
				}
			}
		}
	}
	t.Logf("%d lines compared, %d frames with different ones", lines, wrong)
	if lines < amount()/100 {
		t.Errorf("only %d lines", lines)
	}
}
