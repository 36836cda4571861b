package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"corewire/internal/packet"
	"corewire/internal/packet/packettest"
	"corewire/rules"
)

// namespaced runs a command in a network namespace of its own.
func namespaced(in, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	cmd.Stdin = strings.NewReader(in)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// memoryMatch writes a match with memory at random, seldom one that is refused. name is for its table.
func memoryMatch(g *rand.Rand, name string, fam rules.Family) string {
	pick := func(s ...string) string { return s[g.IntN(len(s))] }
	some := func(s string) string {
		if g.IntN(3) == 0 {
			return " " + s
		}
		return ""
	}
	plen := pick("0", "8", "24", "31", "32")
	mask := pick("255.255.255.0", "255.0.255.0", "255.255.255.255", "0.0.0.0")
	if fam == rules.IPv6 {
		plen = pick("0", "32", "33", "64", "100", "127", "128")
		mask = pick("ffff:ffff::", "ffff:ffff:ffff:ffff::", "ffff:0:ffff::1", "::")
	}
	switch g.IntN(3) {
	case 0:
		s := "-m hashlimit " + some("!")
		rate := fmt.Sprintf("%d/%s", 1+g.IntN(40), pick("sec", "second", "min", "minute", "hour", "day", "s"))
		burst := fmt.Sprint(1 + g.IntN(60))
		switch g.IntN(6) {
		case 0:
			rate = fmt.Sprint(1 + g.IntN(2000))
		case 1, 2:
			rate = fmt.Sprintf("%d%sb/s", 16+g.IntN(1<<(4+g.IntN(8))), pick("", "k", "m"))
			burst = fmt.Sprintf("%d%s", 1+g.IntN(9000), pick("mb", "m", "kb"))
		}
		s += pick("--hashlimit-upto ", "--hashlimit-above ", "--hashlimit ") + rate
		s += some("--hashlimit-burst " + burst)
		s += some("--hashlimit-mode " + pick("srcip", "dstip", "srcip,dstport", "dstport,dstip,srcport,srcip", "srcport|dstip"))
		s += some("--hashlimit-srcmask "+plen) + some("--hashlimit-dstmask "+plen) + some(fmt.Sprintf("--hashlimit-htable-size %d", 16+g.IntN(100)))
		s += some(fmt.Sprintf("--hashlimit-htable-max %d", 16+g.IntN(100))) + some("--hashlimit-htable-gcinterval "+pick("1000", "500")) + some("--hashlimit-htable-expire "+pick("1000", "15000", "60000", "77"))
		if g.IntN(4) == 0 {
			s += " --hashlimit-rate-match" + some("--hashlimit-rate-interval "+pick("1", "2", "60"))
		}
		return s + " --hashlimit-name " + name
	case 1:
		s := "-m recent " + some("!") + " " + pick("--set", "--remove", "--rcheck", "--update", "--rcheck", "--update")
		s += some(fmt.Sprintf("--seconds %d", 1+g.IntN(90))) + some("--reap") + some(fmt.Sprintf("--hitcount %d", g.IntN(30))) + some("--rttl")
		if g.IntN(4) > 0 {
			s += " --name " + name
		}
		return s + some("--mask "+mask) + some(pick("--rsource", "--rdest"))
	}
	return "-m connlimit " + some("!") + " " + pick("--connlimit-upto", "--connlimit-above") + fmt.Sprintf(" %d", g.IntN(9)) +
		some("--connlimit-mask "+plen) + some(pick("--connlimit-saddr", "--connlimit-daddr"))
}

// Matches with memory are accepted where iptables accepts them, and print as iptables-save prints them.
func TestMemorySaves(t *testing.T) {
	need(t)
	for _, tool := range []struct {
		restore, save string
		fam           rules.Family
	}{{"iptables-legacy-restore", "iptables-legacy-save", rules.IPv4}, {"ip6tables-legacy-restore", "ip6tables-legacy-save", rules.IPv6}} {
		g := rand.New(rand.NewPCG(*seed, uint64(tool.fam)))
		var accepted strings.Builder
		var want []string
		refused, rounded := 0, 0
		for i := range 400 {
			line := "-A FORWARD " + memoryMatch(g, fmt.Sprintf("n%d", i), tool.fam)
			text := "*filter\n" + line + "\nCOMMIT\n"
			f, err := rules.Parse("x", []byte(text), tool.fam)
			if err == nil {
				_, err = rules.Compile([]*rules.File{f}, rules.Options{Clock: true})
			}
			if err != nil {
				if refused++; refused < 40 {
					if _, there := namespaced(text, tool.restore); there == nil {
						t.Errorf("%s\niptables accepts it; here: %v", line, err)
					}
				}
				continue
			}
			accepted.WriteString(line + "\n")
			want = append(want, string(f.Tables[0].Chains[0].Rules[0].AppendSave(nil, "FORWARD")))
		}
		text := "*filter\n" + accepted.String() + "COMMIT\n"
		out, err := namespaced(text, "sh", "-c", tool.restore+" && "+tool.save+" -t filter")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, "-A") {
				got = append(got, strings.TrimSpace(line))
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d rules, want %d", len(got), len(want))
		}
		burst := regexp.MustCompile(`--hashlimit-burst [0-9]+[km]?b`)
		for i := range got {
			if got[i] != want[i] && strings.Contains(got[i], "b/s") {
				// iptables-save rounds a burst of bytes down to its unit, here only where that is read as the same burst.
				got[i], want[i] = burst.ReplaceAllString(got[i], "burst"), burst.ReplaceAllString(want[i], "burst")
				rounded++
			}
			if got[i] != want[i] {
				t.Errorf("%s saves\n%s, here\n%s", tool.save, got[i], want[i])
			}
		}
		t.Logf("%s: %d rules alike, %d of them but for a burst that iptables-save rounds, %d refused by both", tool.save, len(got), rounded, refused)
	}
}

// ports of the rules that memoryRules writes, one each from firstPort on.
const firstPort = 1000

// memoryRules writes n rules, each for UDP to a port of its own, that accept what a random match with memory agrees with;
// what none agrees with is dropped. Rates are so low, and windows so long or so short, that it does not matter on which
// side of a tick a frame comes: but for windows of one second and the pauses between phases nothing expires.
func memoryRules(g *rand.Rand, n int) string {
	pick := func(s ...string) string { return s[g.IntN(len(s))] }
	not := func() string { return pick("", "", "", "! ") }
	var b strings.Builder
	b.WriteString("*filter\n:FORWARD DROP [0:0]\n")
	for i := range n {
		fmt.Fprintf(&b, "-A FORWARD -p udp -m udp --dport %d ", firstPort+i)
		switch g.IntN(3) {
		case 0:
			mode := pick("srcip", "dstip", "srcip,dstip", "srcip,dstport", "srcport", "srcip,srcport,dstip,dstport")
			fmt.Fprintf(&b, "-m hashlimit %s --hashlimit-mode %s --hashlimit-srcmask %s --hashlimit-name h%d --hashlimit-htable-expire 600000",
				pick("--hashlimit-upto ", "--hashlimit-above ")+pick("1/min --hashlimit-burst 3", "2/hour --hashlimit-burst 9", "1/day --hashlimit-burst 1", "10/hour",
					"16b/s", "16b/s --hashlimit-burst 64b", "30b/s --hashlimit-burst 200b", "20/min --hashlimit-burst 4 --hashlimit-rate-match",
					"4/hour --hashlimit-rate-match", "16b/s --hashlimit-burst 48b --hashlimit-rate-match --hashlimit-rate-interval 600"),
				mode, pick("32", "32", "31"), i)
		case 1, 2:
			b.WriteString("-m recent " + not())
			switch g.IntN(5) {
			case 0, 1:
				b.WriteString("--set")
			case 2:
				b.WriteString("--remove")
			default:
				b.WriteString(pick("--rcheck", "--update") + pick("", " --seconds 1", " --seconds 600", " --seconds 1 --reap") + pick("", " --hitcount 2", " --hitcount 5", " --hitcount 20") + pick("", "", " --rttl"))
			}
			fmt.Fprintf(&b, " --name r%d %s", g.IntN(3), pick("--rsource", "--rsource", "--rdest"))
		}
		b.WriteString(" -j ACCEPT\n")
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// memoryFrames are datagrams between few addresses to the ports of the rules, in phases with pauses between them in which a
// window of one second ends; many, if lists are to overflow.
func memoryFrames(g *rand.Rand, ports, phases, n, hosts int, v6 bool) func(yield func(shot) bool) {
	addr := func(net, k int) netip.Addr {
		if v6 {
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(net), 14: byte(k >> 8), 15: byte(k)})
		}
		return netip.AddrFrom4([4]byte{10, byte(net), byte(k >> 8), byte(k)})
	}
	return func(yield func(shot) bool) {
		for phase := range phases {
			for i := range n {
				src := netip.AddrPortFrom(addr(1, g.IntN(hosts)), uint16(2000+g.IntN(2)))
				dst := netip.AddrPortFrom(addr(2, g.IntN(3)), uint16(firstPort+g.IntN(ports)))
				s := shot{in: packet.Port(g.IntN(2)), frame: packettest.NewUDP(src, dst, packettest.PayloadLen(g.IntN(60)), packettest.TTL(uint8(63+g.IntN(2))))}
				if i == 0 && phase > 0 {
					s.sleep = 1400 * time.Millisecond
				}
				if !yield(s) {
					return
				}
			}
		}
	}
}

// memoryConfig makes a comparison of rules as they are.
func memoryConfig(t *testing.T, text string) config {
	t.Helper()
	r, err := newRuleFile("memory", []byte(text))
	if err != nil {
		t.Fatal(err, "\n", text)
	}
	c := newConfig(t, "")
	c.rules, c.stop = r, 1
	return c
}

// Rates and lists of recent addresses, frame by frame.
func TestMemory(t *testing.T) {
	need(t)
	sets := 3
	if testing.Short() {
		sets = 1
	}
	for set := range sets {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d v6=%v", set, v6), func(t *testing.T) {
				t.Parallel()
				g := rand.New(rand.NewPCG(*seed, uint64(set)))
				text := memoryRules(g, 24)
				if v6 {
					text = strings.NewReplacer("srcmask 31", "srcmask 127", "srcmask 32", "srcmask 128").Replace(text)
				}
				hosts := 4
				if set%3 == 2 {
					hosts = 300 // more than a list holds
				}
				both := newComparison(t, memoryConfig(t, text))
				s, err := both.run("memory", memoryFrames(g, 24, 4, 600, hosts, v6))
				if err == nil && len(s.Differences) > 0 {
					t.Log(text)
				}
				report(t, s, err)
				compareLists(t, both)
			})
		}
	}
}

// compareLists compares the lists of recent addresses at the end: the addresses, their TTLs, how many times each has and which is
// the oldest. Which file of /proc belongs to which list its name says.
func compareLists(t *testing.T, c *comparison) {
	t.Helper()
	shape := regexp.MustCompile(`^src=(\S+) ttl: (\d+) last_seen: \d+ oldest_pkt: (\d+)(.*)$`)
	read := func(line string) string {
		m := shape.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("not a line of a list: %q", line)
		}
		return fmt.Sprintf("%s ttl %s place %s of %d times", m[1], m[2], m[3], strings.Count(m[4], ",")+1)
	}
	total := 0
	err := c.corewire.engine.Recall(context.Background(), func(rs *rules.Ruleset, _ int64) error {
		for _, name := range rs.RecentLists() {
			var got, want []string
			rs.RecentEntries(name, func(e rules.RecentEntry) { got = append(got, read(string(e.AppendLine(nil)))) })
			err := c.kernel.do(func() error {
				b, err := os.ReadFile("/proc/thread-self/net/xt_recent/" + name)
				for line := range strings.Lines(string(b)) {
					want = append(want, read(strings.TrimSpace(line)))
				}
				return err
			})
			if err != nil {
				return err
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("list %s has\n%s\nthe kernel's\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			total += len(got)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d addresses in lists alike", total)
}

// connlimitFrames are TCP connections from few addresses to few ports, opened, used, closed and reset, interleaved; each frame
// some jiffies behind the one before, since Linux looks for closed connections at most once a jiffy. Pauses let those
// expire that have not come up.
func connlimitFrames(g *rand.Rand, phases, n, ports int, pause time.Duration) func(yield func(shot) bool) {
	type flow struct {
		c, s     netip.AddrPort
		cs, ss   uint32 // next sequence numbers
		step     int
		in       packet.Port
		reset    int // at that step
		fromPeer bool
	}
	next := uint16(30000)
	fresh := func() *flow {
		next++
		return &flow{
			c:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(g.IntN(3))}), next),
			s:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, 0, byte(g.IntN(2))}), uint16(firstPort+g.IntN(ports))),
			cs: 1, ss: 1000, in: packet.Port(g.IntN(2)), reset: 1 + g.IntN(14), fromPeer: g.IntN(2) == 0,
		}
	}
	return func(yield func(shot) bool) {
		for phase := range phases {
			var flows []*flow
			for i := range n {
				if len(flows) < 12 || g.IntN(4) == 0 {
					flows = append(flows, fresh())
				}
				at := g.IntN(min(len(flows), 14))
				f := flows[at]
				from, to, seq, ack, in := f.c, f.s, &f.cs, f.ss, f.in
				peer := func() { from, to, seq, ack, in = f.s, f.c, &f.ss, f.cs, f.in.Other() }
				flags := uint8(packet.ACK)
				switch f.step {
				case 0:
					flags, ack = packet.SYN, 0
				case 1:
					peer()
					flags = packet.SYN | packet.ACK
				case 2, 3, 4:
				case 5:
					flags |= packet.FIN
				case 6:
					peer()
				case 7:
					peer()
					flags |= packet.FIN
				}
				if f.step == f.reset {
					if f.fromPeer && f.step > 0 {
						from, to, seq, ack, in = f.s, f.c, &f.ss, f.cs, f.in.Other()
					} else {
						from, to, seq, ack, in = f.c, f.s, &f.cs, f.ss, f.in
					}
					flags = packet.RST | packet.ACK
					f.step = 9
				}
				s := shot{in: in, sleep: 9 * time.Millisecond, frame: packettest.NewTCP(from, to, flags, packettest.Seq(*seq), packettest.Ack(ack))}
				if i == 0 && phase > 0 {
					s.sleep = pause
					s.frame = packettest.NewUDP(netip.AddrPortFrom(f.c.Addr(), 1), netip.AddrPortFrom(f.s.Addr(), 1))
					f.step--
				} else if flags&(packet.SYN|packet.FIN) != 0 {
					*seq++
				}
				f.step++
				if f.step > 9 && g.IntN(2) == 0 || f.step > 12 {
					flows = append(flows[:at], flows[at+1:]...)
				}
				if !yield(s) {
					return
				}
			}
		}
	}
}

// connlimitRules writes n rules, each for TCP to a port of its own, with a condition before the count.
func connlimitRules(g *rand.Rand, first string, n int) string {
	pick := func(s ...string) string { return s[g.IntN(len(s))] }
	var b strings.Builder
	b.WriteString("*filter\n:FORWARD ACCEPT [0:0]\n")
	for i := range n {
		fmt.Fprintf(&b, "-A FORWARD -p tcp -m tcp --dport %d %s-m connlimit %s %d --connlimit-mask %s %s -j DROP\n", firstPort+i, first,
			pick("--connlimit-above", "--connlimit-above", "! --connlimit-upto"), 1+g.IntN(6), pick("32", "32", "31", "0"), pick("--connlimit-saddr", "--connlimit-saddr", "--connlimit-daddr"))
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// Counts of connections, through their openings, closings, resets and expiry.
func TestConnlimit(t *testing.T) {
	need(t)
	sets := 3
	if testing.Short() {
		sets = 1
	}
	for set := range sets {
		t.Run(fmt.Sprint(set), func(t *testing.T) {
			t.Parallel()
			g := rand.New(rand.NewPCG(*seed, uint64(100+set)))
			first := "--syn "
			if set%3 == 2 {
				first = ""
			}
			text := connlimitRules(g, first, 2)
			c := memoryConfig(t, text)
			c.counted = first == ""
			// Linux counts addresses and ports: one whose first packet was dropped counts if a later one begins a connection.
			for name, value := range map[string]string{"nf_conntrack_tcp_timeout_syn_sent": "2", "nf_conntrack_tcp_timeout_syn_recv": "2", "nf_conntrack_tcp_loose": "0"} {
				var err error
				if c.settings, err = c.settings.WithText(name, value); err != nil {
					t.Fatal(err)
				}
			}
			s, err := newComparison(t, c).run("connlimit", connlimitFrames(g, 3, 180, 2, 4*time.Second))
			if err == nil && len(s.Differences) > 0 {
				t.Log(text)
			}
			report(t, s, err)
		})
	}
}
