package rules

import (
	"os/exec"
	"strings"
	"testing"
)

// TestListAsIptables: what stands behind a rule's addresses is what iptables -L -v -n prints there.
func TestListAsIptables(t *testing.T) {
	for _, tc := range []struct {
		tool   string
		family Family
		list   []string
	}{
		{"iptables", IPv4, []string{
			"-s 10.0.0.0/8 ! -d 1.2.3.4 -p tcp -m tcp --sport 1:20 --dport 80 --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT",
			"-p tcp -m tcp ! --sport 5 ! --tcp-option 5 ! --syn", "-p tcp -m tcp --tcp-flags ALL NONE", "-p udp -m udp ! --dport 53 -j DROP", "-p icmp -m icmp --icmp-type 8",
			"-p icmp -m icmp --icmp-type any", "-p icmp -m icmp ! --icmp-type 3/1", "-p tcp -m multiport --dports 80,443,100:200",
			"-p tcp -m multiport ! --sports 80,443 -m multiport ! --ports 1", "-m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment hello", "-m state ! --state NEW",
			"-m conntrack ! --ctstate INVALID --ctproto 6 --ctorigsrc 10.0.0.0/8 ! --ctorigdst 1.1.1.1 --ctorigdstport 80 --ctstatus ASSURED --ctexpire 1:10 --ctdir REPLY",
			"-m iprange --src-range 10.0.0.1-10.0.0.9 ! --dst-range 1.1.1.1-2.2.2.2", "-m length --length 1:100 -m length ! --length 7", "-m mark --mark 0x1/0xff -m mark ! --mark 5",
			"-m connmark --mark 0x7 -m connmark ! --mark 3/7", "-m mac --mac-source 00:11:22:33:44:55 -m mac ! --mac-source 00:11:22:33:44:5a",
			"-m ttl --ttl-eq 4 -m ttl --ttl-lt 5 -m ttl --ttl-gt 6 -m ttl ! --ttl-eq 7", "-m tos --tos 0x10/0x3f -m tos ! --tos 0x8/0xff", "-m dscp --dscp 0x0a -m dscp ! --dscp 0x2",
			"-p tcp -m ecn --ecn-tcp-cwr ! --ecn-tcp-ece --ecn-ip-ect 2", "-m ecn ! --ecn-ip-ect 1", "-m physdev --physdev-in eth0 --physdev-is-bridged", "-m physdev ! --physdev-is-in",
			"-m addrtype --src-type LOCAL,UNICAST ! --dst-type BROADCAST", "-m addrtype --src-type LOCAL --limit-iface-in", "-p sctp -m sctp --sport 1:2 ! --dport 3",
			"-m limit --limit 5/min --limit-burst 7 -m limit --limit 10/sec", "-m statistic --mode random --probability 0.25 -m statistic --mode random ! --probability 0.5",
			"-m statistic --mode nth --every 3 --packet 1 -m statistic --mode nth ! --every 4 --packet 0", "-m string --string abc --algo bm --from 1 --to 100 --icase", "-m string ! --string abc --algo kmp",
			"-p tcp -m tcpmss --mss 1:100 -m tcpmss ! --mss 5", "-m pkttype --pkt-type multicast -m pkttype ! --pkt-type unicast", "-j REJECT", "-p tcp -j REJECT --reject-with tcp-reset",
			"-j LOG --log-prefix abc: --log-level 7 --log-tcp-sequence --log-ip-options --log-uid", "-j LOG", "-j NFLOG --nflog-group 3 --nflog-prefix pre --nflog-size 64 --nflog-threshold 5", "! -p 77", "-g a",
			"-m ttl --ttl-eq 3 -g a",
		}},
		{"ip6tables", IPv6, []string{
			"-s 2001:db8::/32 -p tcp -m tcp --dport 80 -j ACCEPT", "-p ipv6-icmp -m icmp6 --icmpv6-type 128 -j REJECT", "-p ipv6-icmp -m icmp6 ! --icmpv6-type 1/3 -j REJECT --reject-with icmp6-adm-prohibited",
			"-m hl --hl-eq 5 -m hl --hl-lt 6 -m hl ! --hl-eq 7", "-m rt --rt-type 0 --rt-segsleft 1:2 ! --rt-len 4 -j DROP", "-m rt --rt-segsleft 3",
		}},
		{"iptables -t raw", IPv4, []string{"-p udp -j CT --notrack", "-p udp -j NOTRACK", "-p udp -j CT --zone 5"}},
		{"iptables -t mangle", IPv4, []string{
			"-j MARK --set-mark 1", "-j MARK --set-xmark 1/0xff", "-j MARK --and-mark 0xf", "-j MARK --or-mark 0xf", "-j MARK --xor-mark 0xf", "-j CONNMARK --save-mark", "-j CONNMARK --restore-mark --mask 0xff",
			"-j CONNMARK --set-mark 4", "-j CONNMARK --save-mark --nfmask 0xf --ctmask 0xff", "-j CONNMARK --and-mark 7", "-j CONNMARK --or-mark 7", "-j CONNMARK --xor-mark 7", "-j CONNMARK --set-xmark 1/3",
			"-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu", "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1400", "-j DSCP --set-dscp 10", "-j TOS --set-tos 0x10/0x3f",
			"-j TOS --set-tos 0x10", "-j TTL --ttl-set 5", "-j TTL --ttl-inc 5", "-j TTL --ttl-dec 1",
		}},
	} {
		t.Run(tc.tool, func(t *testing.T) {
			isolated(t)
			table, chain := "filter", "FORWARD"
			words := strings.Fields(tc.tool)
			if len(words) > 1 {
				table = words[2]
			}
			if table == "raw" {
				chain = "PREROUTING"
			}
			run := func(args ...string) (string, error) {
				out, err := exec.Command(words[0], append(append([]string{"-w"}, words[1:]...), args...)...).CombinedOutput()
				return string(out), err
			}
			if out, err := run("-N", "a"); err != nil {
				t.Fatal(out)
			}
			compared := 0
			for _, rule := range tc.list {
				if out, err := run(append([]string{"-A", chain}, strings.Fields(rule)...)...); err != nil {
					t.Logf("%s does not take %q: %s", tc.tool, rule, out) // an extension that the machine's kernel or tool does not have
					continue
				}
				out, err := run("-L", chain, "-v", "-n")
				if err != nil {
					t.Fatal(out)
				}
				lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
				at := strings.Index(lines[1], "destination") + len("destination         ")
				want := lines[len(lines)-1]
				if len(want) < at {
					want += strings.Repeat(" ", at-len(want))
				}
				rs := mustCompile(t, "*"+table+"\n:a - [0:0]\n-A "+chain+" "+rule+"\nCOMMIT\n")
				if got := string(rs.rules[0].Rule.AppendList(nil, tc.family)); strings.TrimRight(got, " ") != strings.TrimRight(want[at:], " ") {
					t.Errorf("%s: %q, want %q", rule, got, want[at:])
				}
				compared++
				if out, err := run("-F", chain); err != nil {
					t.Fatal(out)
				}
			}
			t.Logf("%d of %d rules compared", compared, len(tc.list))
			if compared < len(tc.list)*3/4 {
				t.Error("too few")
			}
		})
	}
}
