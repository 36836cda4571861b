package conntrack

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
)

// infoOf makes an Info as the table would.
func infoOf(frame []byte, state uint8, status uint32, mark uint32, left uint32) Info {
	p := packet.Packet{Frame: frame}
	packet.Parse(&p)
	return Info{Key: p.Key, Flipped: p.Flags&packet.Flipped != 0, State: state, Status: status, Mark: mark, Left: left}
}

// lineTests are lines that conntrack 1.4.7 and Linux 6.18 printed for the same entries.
var lineTests = []struct {
	name           string
	frame          func() []byte
	change         func(i *Info)
	conntrack, prc string
}{
	{
		"tcp", func() []byte {
			return packettest.NewTCP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:80"), packet.SYN)
		},
		func(i *Info) { i.State, i.Left = tcpSynSent, 116_999; i.HasCounters, i.HasAge = true, true },
		"tcp      6 116 SYN_SENT src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=80 packets=0 bytes=0 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1000 packets=0 bytes=0 mark=0 delta-time=0 use=1",
		"ipv4     2 tcp      6 116 SYN_SENT src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=80 packets=0 bytes=0 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1000 packets=0 bytes=0 mark=0 zone=0 delta-time=0 use=2",
	}, {
		"udp with mark", func() []byte {
			return packettest.NewUDP(packettest.AP("10.0.0.2:1000"), packettest.AP("10.0.0.1:53"))
		},
		func(i *Info) { i.Left, i.Mark, i.Status = 29_000, 5, StatusSeenReply|StatusAssured },
		"udp      17 29 src=10.0.0.2 dst=10.0.0.1 sport=1000 dport=53 src=10.0.0.1 dst=10.0.0.2 sport=53 dport=1000 [ASSURED] mark=5 use=1",
		"ipv4     2 udp      17 29 src=10.0.0.2 dst=10.0.0.1 sport=1000 dport=53 src=10.0.0.1 dst=10.0.0.2 sport=53 dport=1000 [ASSURED] mark=5 zone=0 use=2",
	}, {
		"udp in a zone", func() []byte {
			return packettest.NewUDP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:54"))
		},
		func(i *Info) { i.Left, i.Key.Zone, i.HasAge = 29_999, 7, true },
		"udp      17 29 src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=54 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=54 dport=1000 mark=0 zone=7 delta-time=0 use=1",
		"ipv4     2 udp      17 29 src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=54 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=54 dport=1000 mark=0 zone=7 delta-time=0 use=2",
	}, {
		"icmp", func() []byte {
			return packettest.NewICMP(packettest.IP("10.0.0.1"), packettest.IP("10.0.0.2"), 8, 0, 77, 1)
		},
		func(i *Info) { i.Left = 29_000 },
		"icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=77 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=77 mark=0 use=1",
		"ipv4     2 icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=77 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=77 mark=0 zone=0 use=2",
	}, {
		"icmpv6", func() []byte {
			return packettest.NewICMP(packettest.IP("2001:db8::1"), packettest.IP("2001:db8::2"), 128, 0, 77, 1)
		},
		func(i *Info) { i.Left, i.Status = 29_000, StatusSeenReply },
		"icmpv6   58 29 src=2001:db8::1 dst=2001:db8::2 type=128 code=0 id=77 src=2001:db8::2 dst=2001:db8::1 type=129 code=0 id=77 mark=0 use=1",
		"ipv6     10 icmpv6   58 29 src=2001:0db8:0000:0000:0000:0000:0000:0001 dst=2001:0db8:0000:0000:0000:0000:0000:0002 type=128 code=0 id=77 src=2001:0db8:0000:0000:0000:0000:0000:0002 dst=2001:0db8:0000:0000:0000:0000:0000:0001 type=129 code=0 id=77 mark=0 zone=0 use=2",
	}, {
		"sctp", func() []byte {
			return packettest.NewSCTP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:80"), 1, nil)
		},
		func(i *Info) { i.State, i.Left = sctpEstablished, 99_000 },
		"sctp     132 99 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=80 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1000 mark=0 use=1",
		"ipv4     2 sctp     132 99 ESTABLISHED src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=80 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1000 mark=0 zone=0 use=2",
	}, {
		"gre", func() []byte { return packettest.NewPPTP(packettest.IP("10.0.0.1"), packettest.IP("10.0.0.2"), 0x1f) },
		func(i *Info) { i.Left, i.Timeout, i.StreamTimeout = 99_000, 30_000, 180_000 },
		"gre      47 99 src=10.0.0.1 dst=10.0.0.2 srckey=0x0 dstkey=0x1f [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 srckey=0x1f dstkey=0x0 mark=0 use=1",
		"ipv4     2 gre      47 99 timeout=30, stream_timeout=180 src=10.0.0.1 dst=10.0.0.2 srckey=0x0 dstkey=0x1f [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 srckey=0x1f dstkey=0x0 mark=0 zone=0 use=2",
	}, {
		"udplite", func() []byte {
			return packettest.NewUDPLite(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:80"))
		},
		func(i *Info) { i.Left = 99_000 },
		"udplite  136 99 src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=80 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1000 mark=0 use=1",
		"ipv4     2 udplite  136 99 src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=80 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=80 dport=1000 mark=0 zone=0 use=2",
	}, {
		"generic", func() []byte { return packettest.NewIP(packettest.IP("10.0.0.1"), packettest.IP("10.0.0.2"), 89) },
		func(i *Info) { i.Left = 99_000 },
		"unknown  89 99 src=10.0.0.1 dst=10.0.0.2 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 mark=0 use=1",
		"ipv4     2 unknown  89 99 src=10.0.0.1 dst=10.0.0.2 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 mark=0 zone=0 use=2",
	}, {
		"dccp", func() []byte { return packettest.NewDCCP(packettest.AP("10.0.0.1:1"), packettest.AP("10.0.0.2:2"), 0) },
		func(i *Info) { i.Left = 99_000 },
		"dccp     33 99 src=10.0.0.1 dst=10.0.0.2 sport=0 dport=0 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 sport=0 dport=0 mark=0 use=1",
		"ipv4     2 unknown  33 99 src=10.0.0.1 dst=10.0.0.2 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 mark=0 zone=0 use=2",
	},
}

func TestAppendLine(t *testing.T) {
	for _, c := range lineTests {
		t.Run(c.name, func(t *testing.T) {
			i := infoOf(c.frame(), 0, 0, 0, 0)
			c.change(&i)
			if got := string(i.AppendLine(nil, FormatConntrack)); got != c.conntrack {
				t.Errorf("conntrack -L\n got %q\nwant %q", got, c.conntrack)
			}
			if got := string(i.AppendLine(nil, FormatProc)); got != c.prc {
				t.Errorf("/proc/net/nf_conntrack\n got %q\nwant %q", got, c.prc)
			}
			ext := string(i.AppendLine(nil, FormatExtended))
			if l3, rest, _ := strings.Cut(ext, c.conntrack); rest != "" || l3 != "ipv4     2 " && l3 != "ipv6     10 " {
				t.Errorf("conntrack -L -o extended: %q", ext)
			}
		})
	}
}

// TestAppendLineAsConntrack makes the entries in a network namespace of its own and compares what conntrack prints.
func TestAppendLineAsConntrack(t *testing.T) {
	tool := tool(t)
	run := func(args ...string) string {
		out, err := exec.Command("unshare", append([]string{"-n", "sh", "-c"}, args...)...).Output()
		if err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("unshare: %v", err)
			}
			t.Skipf("unshare: %v", err)
		}
		return string(out)
	}
	make := tool + " -I -t 100 "
	got := run(make + "-p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1000 --dport 80 --state SYN_SENT >&2;" +
		make + "-p udp -s 10.0.0.1 -d 10.0.0.2 --sport 1000 --dport 53 -u SEEN_REPLY,ASSURED >&2;" +
		make + "-p icmp -s 10.0.0.1 -d 10.0.0.2 --icmp-type 8 --icmp-code 0 --icmp-id 77 >&2;" +
		make + "-p 89 -s 10.0.0.1 -d 10.0.0.2 >&2;" +
		tool + " -L")
	want := []Info{
		infoOf(packettest.NewTCP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:80"), packet.SYN), tcpSynSent, 0, 0, 0),
		infoOf(packettest.NewUDP(packettest.AP("10.0.0.1:1000"), packettest.AP("10.0.0.2:53")), 0, StatusSeenReply|StatusAssured, 0, 0),
		infoOf(packettest.NewICMP(packettest.IP("10.0.0.1"), packettest.IP("10.0.0.2"), 8, 0, 77, 1), 0, 0, 0, 0),
		infoOf(packettest.NewIP(packettest.IP("10.0.0.1"), packettest.IP("10.0.0.2"), 89), 0, 0, 0, 0),
	}
	for _, i := range want {
		found := false
		for left := uint32(80); left <= 100; left++ {
			i.Left = left * 1000
			found = found || strings.Contains(got, string(i.AppendLine(nil, FormatConntrack))+"\n")
		}
		if !found {
			t.Errorf("conntrack does not print %q but\n%s", i.AppendLine(nil, FormatConntrack), got)
		}
	}
}

func TestFilter(t *testing.T) {
	i := infoOf(packettest.NewTCP(packettest.AP("10.0.0.2:1000"), packettest.AP("10.0.0.1:80"), packet.SYN), tcpEstablished, StatusSeenReply, 0x12, 1)
	for _, c := range []struct {
		name string
		f    Filter
		want bool
	}{
		{"all", Filter{}, true},
		{"family", Filter{Family: 6}, false},
		{"proto", Filter{MatchProto: Exactly, Proto: 6}, true},
		{"other proto", Filter{MatchProto: Exactly, Proto: 17}, false},
		{"src", Filter{Src: netip.MustParsePrefix("10.0.0.2/32")}, true},
		{"dst as src", Filter{Src: netip.MustParsePrefix("10.0.0.1/32")}, false},
		{"dst", Filter{Dst: netip.MustParsePrefix("10.0.0.0/31")}, true},
		{"reply", Filter{ReplySrc: netip.MustParsePrefix("10.0.0.1/32"), ReplyDst: netip.MustParsePrefix("10.0.0.2/32")}, true},
		{"ports", Filter{SrcPort: 1000, DstPort: 80}, true},
		{"other port", Filter{DstPort: 81}, false},
		{"state", Filter{State: "established"}, true},
		{"other state", Filter{State: "CLOSE"}, false},
		{"status", Filter{Status: StatusSeenReply}, true},
		{"unreplied", Filter{NoStatus: StatusSeenReply}, false},
		{"mark", Filter{Mark: 0x10, MarkMask: 0xf0}, true},
		{"other mark", Filter{Mark: 0x10, MarkMask: 0xff}, false},
		{"zone", Filter{MatchZone: Exactly}, true},
		{"other zone", Filter{MatchZone: Exactly, Zone: 1}, false},
	} {
		if got := c.f.Match(&i); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
