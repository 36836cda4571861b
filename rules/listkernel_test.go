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
			"-m recent --name R --set", "-m recent --rcheck --seconds 5 --hitcount 3 --name R --rsource --mask 255.255.255.0", "-m recent ! --update --seconds 5 --reap --rttl --name R --rdest",
			"-m recent --remove --name R", "-m connlimit --connlimit-above 3", "-m connlimit --connlimit-upto 3 --connlimit-mask 24 --connlimit-daddr",
			"-m hashlimit --hashlimit-above 100/sec --hashlimit-mode srcip --hashlimit-name h1", "-m hashlimit --hashlimit-upto 5/min --hashlimit-burst 9 --hashlimit-mode srcip,dstport --hashlimit-name h2 -p tcp",
			"-m hashlimit --hashlimit-upto 5/min --hashlimit-name h3 --hashlimit-htable-size 64 --hashlimit-htable-max 100 --hashlimit-htable-expire 5000 --hashlimit-htable-gcinterval 500",
			"-m hashlimit --hashlimit-above 512kb/s --hashlimit-burst 1mb --hashlimit-mode dstip --hashlimit-dstmask 24 --hashlimit-name h4",
			"-m hashlimit --hashlimit-above 10/day --hashlimit-mode srcip --hashlimit-srcmask 16 --hashlimit-name h5",
			"-m hashlimit --hashlimit-above 512kb/s --hashlimit-mode dstip --hashlimit-name h6",
			"-m connbytes --connbytes 100:200 --connbytes-dir original --connbytes-mode packets", "-m connbytes ! --connbytes 100 --connbytes-dir both --connbytes-mode bytes",
			"-m connbytes --connbytes 7:8 --connbytes-dir reply --connbytes-mode avgpkt", "-m connlabel --label 5 --set", "-m connlabel ! --label 7",
			"-p sctp -m sctp --chunk-types any DATA,INIT", "-p sctp -m sctp ! --chunk-types all DATA:Be,ABORT:T", "-p sctp -m sctp --dport 5 --chunk-types only SACK", "-p sctp -m sctp --chunk-types all ALL",
			"-p dccp -m dccp --sport 1:5 ! --dport 7",
			"-p ah -m ah --ahspi 5", "-p ah -m ah ! --ahspi 5:9", "-p ah -m ah", "-p esp -m esp --espspi 5", "-p esp -m esp ! --espspi 5:9", "-p esp -m esp",
			"-m helper --helper ftp", "-m helper ! --helper ftp-21", "-m quota --quota 500", "-m quota ! --quota 500", "-m u32 --u32 6&0xFF=1", "-m u32 ! --u32 0>>22&0x3C@4=0x1:0x5,0x9&&8=7",
			"-m time --timestart 08:00 --timestop 17:30:05 --weekdays Mon,Tue", "-m time --datestart 2026-01-01T00:00:00 --datestop 2027-01-01", "-m time --monthdays 1,2,23 --kerneltz",
			"-m time ! --weekdays Sat,Sun ! --monthdays 13", "-m time --timestart 22:00 --timestop 02:00 --contiguous", "-p udplite",
			"-j LOG --log-macdecode", "-f", "! -f", "-p 132", "-p 50 -j RETURN", "-m addrtype ! --src-type LOCAL --limit-iface-out", "-m conntrack --ctstate SNAT,DNAT,UNTRACKED --ctreplsrc 1.2.3.4 --ctreplsrcport 5:7",
			"-m set --match-set s src", "-m set ! --match-set n src,dst --return-nomatch ! --update-counters --packets-gt 5 ! --bytes-eq 7", "-j AUDIT --type accept", "-j SET --add-set s src --exist --timeout 5", "-j SET --del-set n dst,src",
			"-p dccp -m dccp --dccp-types REQUEST,response,INVALID --dccp-option 5", "-p dccp -m dccp ! --dccp-types SYNC ! --dccp-option 5", "-p ipcomp -m ipcomp --ipcompspi 5",
			"-p ipcomp -m ipcomp ! --ipcompspi 5:9 --compres", "-p ipcomp -m ipcomp", "-m policy --dir in --pol none", "-m policy --dir in",
			"-m policy --dir out --pol ipsec --strict --reqid 5 ! --spi 7 --proto esp --mode tunnel --tunnel-src 1.2.3.0/24 --tunnel-dst 1.2.3.4 --next --proto ah --reqid 1",
			"-m policy --dir in --pol ipsec --mode transport --proto ipcomp", "-m cluster --cluster-total-nodes 3 --cluster-local-node 2 --cluster-hash-seed 0xdead",
			"-m cluster --cluster-total-nodes 3 ! --cluster-local-nodemask 5 --cluster-hash-seed 7", "-m realm --realm 5", "-m realm ! --realm 0x5/0xf",
		}},
		{"ip6tables", IPv6, []string{
			"-s 2001:db8::/32 -p tcp -m tcp --dport 80 -j ACCEPT", "-p ipv6-icmp -m icmp6 --icmpv6-type 128 -j REJECT", "-p ipv6-icmp -m icmp6 ! --icmpv6-type 1/3 -j REJECT --reject-with icmp6-adm-prohibited",
			"-m hl --hl-eq 5 -m hl --hl-lt 6 -m hl ! --hl-eq 7", "-m rt --rt-type 0 --rt-segsleft 1:2 ! --rt-len 4 -j DROP", "-m rt --rt-segsleft 3",
			"-m ah --ahspi 5 --ahlen 12 --ahres", "-m ah ! --ahspi 1:2 ! --ahlen 8", "-m frag --fragid 5 --fragmore", "-m frag ! --fragid 5:9 --fraglast --fragres", "-m frag --fragfirst", "-m frag --fraglen 5",
			"-m ipv6header --header hop,frag --soft", "-m ipv6header ! --header ah,esp", "-m hbh --hbh-len 8 --hbh-opts 1:2,5", "-m hbh ! --hbh-len 8", "-m dst --dst-len 5", "-m dst --dst-opts 3",
			"-p mh -m mh --mh-type 1:5", "-p mh -m mh ! --mh-type 3", "-m recent --set --name R6 --mask ffff:ffff::", "-m connlimit --connlimit-above 3 --connlimit-mask 64",
			"-m hashlimit --hashlimit-above 10/sec --hashlimit-mode srcip --hashlimit-srcmask 64 --hashlimit-name h7", "-m hashlimit --hashlimit-upto 10/sec --hashlimit-mode dstip,srcport --hashlimit-name h8 --hashlimit-burst 7 -p udp", "-m rt --rt-type 0 --rt-0-res",
			"-m rt --rt-type 0 --rt-0-addrs 2001:db8::1,::2", "-m rt --rt-type 0 --rt-segsleft 1 --rt-len 40 --rt-0-res --rt-0-addrs 2001:db8::1,::2 --rt-0-not-strict",
			"-m srh", "-m srh ! --srh-next-hdr 17 --srh-hdr-len-eq 8 --srh-hdr-len-gt 5 --srh-hdr-len-lt 6 ! --srh-segs-left-eq 4 --srh-segs-left-gt 5 --srh-tag 258",
			"-m srh --srh-last-entry-eq 4 --srh-last-entry-gt 5 ! --srh-last-entry-lt 6", "-m srh --srh-psid a::/64 ! --srh-nsid b::1 --srh-lsid c::/8",
			"-m policy --dir in --pol ipsec --strict --mode tunnel --tunnel-src a::/24 --tunnel-dst b::1",
		}},
		{"iptables -t raw", IPv4, []string{"-p udp -j CT --notrack", "-p udp -j NOTRACK", "-p udp -j CT --zone 5", "-p tcp --dport 21 -j CT --helper ftp", "-p udp -j CT --ctevents new,destroy"}},
		{"iptables -t mangle", IPv4, []string{
			"-j MARK --set-mark 1", "-j MARK --set-xmark 1/0xff", "-j MARK --and-mark 0xf", "-j MARK --or-mark 0xf", "-j MARK --xor-mark 0xf", "-j CONNMARK --save-mark", "-j CONNMARK --restore-mark --mask 0xff",
			"-j CONNMARK --set-mark 4", "-j CONNMARK --save-mark --nfmask 0xf --ctmask 0xff", "-j CONNMARK --and-mark 7", "-j CONNMARK --or-mark 7", "-j CONNMARK --xor-mark 7", "-j CONNMARK --set-xmark 1/3",
			"-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu", "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1400", "-j DSCP --set-dscp 10", "-j TOS --set-tos 0x10/0x3f",
			"-j TOS --set-tos 0x10", "-j TTL --ttl-set 5", "-j TTL --ttl-inc 5", "-j TTL --ttl-dec 1", "-p udp -j CHECKSUM --checksum-fill",
			"-p tcp -j ECN --ecn-tcp-remove", "-p tcp -j TCPOPTSTRIP --strip-options timestamp,5", "-j SET --map-set m src --map-mark", "-j SET --map-set m src --map-mark --map-prio --map-queue",
			"-j HMARK --hmark-tuple src,dst,sport,dport,proto --hmark-mod 10 --hmark-offset 100 --hmark-rnd 0xfeed", "-j HMARK --hmark-tuple ct,src,dst --hmark-mod 10 --hmark-rnd 1",
			"-j HMARK --hmark-src-prefix 255.0.0.0 --hmark-spi-mask 0xffff0000 --hmark-spi 5 --hmark-mod 7 --hmark-rnd 1", "-j IDLETIMER --timeout 5 --label a", "-j IDLETIMER --timeout 5 --label b --alarm",
			"-j RATEEST --rateest-name x --rateest-interval 250.0ms --rateest-ewmalog 500.0ms", "-j TEE --gateway 1.2.3.4 --oif eth0",
		}},
		{"iptables -t mangle POSTROUTING", IPv4, []string{"-m owner --uid-owner 0", "-m owner ! --uid-owner 5-9 --gid-owner 7 --socket-exists", "-m owner --uid-owner 7 ! --gid-owner 1:3 --suppl-groups ! --socket-exists",
			"-m cgroup --cgroup 5", "-m cgroup ! --cgroup 0x10"}},
		{"iptables -t mangle PREROUTING", IPv4, []string{"-m socket", "-m socket --transparent --nowildcard --restore-skmark"}},
		{"ip6tables -t mangle", IPv6, []string{"-j HMARK --hmark-tuple src,dst,sport,dport,proto --hmark-mod 10 --hmark-offset 100 --hmark-rnd 0xfeed",
			"-j HMARK --hmark-src-prefix 64 --hmark-dst-prefix ffff:: --hmark-sport-mask 0xff --hmark-mod 10 --hmark-rnd 0xfeed", "-j TEE --gateway a::1", "-j HL --hl-set 5", "-j HL --hl-inc 5", "-j HL --hl-dec 5", "-j DSCP --set-dscp 0x2", "-p tcp -j TCPMSS --set-mss 1220"}},
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
			if len(words) > 3 {
				chain, words = words[3], words[:3]
			}
			if out, err := exec.Command("sh", "-c", "ipset create s hash:ip counters timeout 0 && ipset create n hash:net,port counters && ipset create m hash:ip skbinfo").CombinedOutput(); err != nil {
				t.Logf("no sets: %s%v", out, err)
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
				out, err := exec.Command(words[0], append(append([]string{"-w"}, words[1:]...), "-L", chain, "-v", "-n")...).Output() // without warnings
				if err != nil {
					t.Fatal(err)
				}
				lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
				at := strings.Index(lines[1], "destination") + len("destination         ")
				want := lines[len(lines)-1]
				if len(want) < at {
					want += strings.Repeat(" ", at-len(want))
				}
				f, err := Parse("t", []byte("*"+table+"\n:a - [0:0]\n-A "+chain+" "+rule+"\nCOMMIT\n"), Both)
				if err != nil {
					t.Fatal(err)
				}
				var r *Rule
				for _, c := range f.Tables[0].Chains {
					if c.Name == chain {
						r = c.Rules[0]
					}
				}
				if got := string(r.AppendList(nil, tc.family)); strings.TrimRight(got, " ") != strings.TrimRight(want[at:], " ") {
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
