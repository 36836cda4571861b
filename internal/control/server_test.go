package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"corewire/internal/config"
	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

const syn = 0x02

func TestStats(t *testing.T) {
	r := newRig(t, 2, nil)
	r.send(packet.Inside, dns(0), dns(1), dns(2), pt.NewARP(), pt.NewTCP(pt.AP("10.0.0.1:1024"), pt.AP("192.0.2.1:22"), syn))
	r.send(packet.Outside, pt.NewUDP(pt.AP("192.0.2.53:53"), pt.AP("10.0.0.1:1024")))
	r.eventually("quiet", func() bool {
		s, err := r.client.Stats(r.ctx)
		return err == nil && s.Total.Chunks.Balanced && s.Entries == 3
	})
	s, err := r.client.Stats(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	n := &s.Total
	if n.Ports["inside"].RxFrames != 5 || n.Ports["outside"].TxFrames != 4 || n.Ports["inside"].TxFrames != 1 || n.Verdicts["accept"] != 5 || n.Drops["rule"] != 1 ||
		n.States["NEW"] != 4 || n.States["ESTABLISHED"] != 1 || n.Classes["arp"] != 1 || n.Conntrack["insert"] != 3 || s.Max != 1000 || len(s.Workers) != 2 {
		text, _ := json.MarshalIndent(s, "", " ")
		t.Errorf("%s", text)
	}
	count, err := r.client.Count(r.ctx)
	if err != nil || count != (Count{3, 1000}) {
		t.Errorf("%v, %v", count, err)
	}
	trackers, err := r.client.Trackers(r.ctx)
	if err != nil || len(trackers) != 2 || trackers[0].Counters["insert"]+trackers[1].Counters["insert"] != 3 {
		t.Errorf("%v, %v", trackers, err)
	}
	for _, name := range KernelCounters {
		if _, ok := trackers[0].Counters[name]; !ok {
			t.Errorf("no counter %s", name)
		}
	}
	status, err := r.client.Status(r.ctx)
	if err != nil || status.Version != "test" || status.Rules != 4 || status.Workers != 2 {
		t.Errorf("%+v, %v", status, err)
	}
}

// A listing of more entries than a slice, with every filter.
func TestConnections(t *testing.T) {
	r := newRig(t, 1, nil)
	const n = 500
	for i := range n {
		r.send(packet.Inside, dns(i))
	}
	r.send(packet.Outside, pt.NewUDP(pt.AP("192.0.2.53:53"), pt.AP("10.0.0.7:1024")))
	r.send(packet.Inside, pt.NewTCP(pt.AP("[2001:db8::1]:5000"), pt.AP("[2001:db8:1::1]:443"), syn))
	list := func(f Filter) []string {
		t.Helper()
		var out bytes.Buffer
		k, err := r.client.Connections(r.ctx, f, &out)
		if err != nil {
			t.Errorf("%+v: %v", f, err)
		}
		lines := slices.Collect(strings.Lines(out.String()))
		if len(lines) != k {
			t.Errorf("%+v: %d lines, %d counted", f, len(lines), k)
		}
		return lines
	}
	seen := map[string]bool{}
	for _, l := range list(Filter{}) {
		seen[l] = true
	}
	if len(seen) != n+1 {
		t.Errorf("%d different lines", len(seen))
	}
	for _, tc := range []struct {
		filter Filter
		want   int
		text   string
	}{
		{Filter{Proto: "tcp"}, 1, "tcp      6 "},
		{Filter{Proto: "17"}, n, "udp      17 "},
		{Filter{Family: 6}, 1, "SYN_SENT"},
		{Filter{Family: 4, Src: "10.0.0.7"}, 3, "src=10.0.0.7"},
		{Filter{Src: "2001:db8::/32", Dst: "2001:db8:1::/48"}, 1, ""},
		{Filter{Dst: "10.0.0.0/8"}, 0, ""},
		{Filter{SrcPort: 1024, DstPort: 53}, 200, ""},
		{Filter{DstPort: 80}, 0, ""},
		{Filter{State: "syn_sent"}, 1, ""},
		{Filter{Status: "seen_reply"}, 1, "src=10.0.0.7"},
		{Filter{Status: "UNREPLIED", Proto: "udp"}, n - 1, "[UNREPLIED]"},
		{Filter{Status: "ASSURED"}, 0, ""},
		{Filter{Mark: "0"}, n + 1, ""},
		{Filter{Mark: "1/1"}, 0, ""},
		{Filter{Format: FormatExtended, Proto: "tcp"}, 1, "ipv6     10 tcp"},
		{Filter{Format: FormatProc, Proto: "tcp"}, 1, "src=2001:0db8:0000:"},
	} {
		lines := list(tc.filter)
		if len(lines) != tc.want {
			t.Errorf("%+v: %d lines, want %d", tc.filter, len(lines), tc.want)
		}
		for _, l := range lines {
			if !strings.Contains(l, tc.text) {
				t.Errorf("%+v: %q", tc.filter, l)
				break
			}
		}
	}
	var c Connection
	if err := json.Unmarshal([]byte(list(Filter{Format: FormatJSON, Status: "SEEN_REPLY"})[0]), &c); err != nil {
		t.Fatal(err)
	}
	if c.Family != "ipv4" || c.Proto != "udp" || c.Original.Src != "10.0.0.7" || c.Original.DstPort != 53 || c.Reply.Dst != "10.0.0.7" || !c.Replied || c.Assured {
		t.Errorf("%+v", c)
	}
	for _, f := range []Filter{{Proto: "tpc"}, {Src: "10.0.0"}, {Status: "X"}, {Mark: "y"}, {Format: "yaml"}, {Zone: "x"}, {Labels: "no such label"}, {Show: []string{"all"}}} {
		_, err := r.client.Connections(r.ctx, f, io.Discard)
		if remote, ok := errors.AsType[*RemoteError](err); !ok || remote.Status != http.StatusBadRequest || !strings.Contains(err.Error(), "expected") {
			t.Errorf("%+v: %v", f, err)
		}
	}
	if k, err := r.client.Flush(r.ctx); err != nil || k != n+1 {
		t.Errorf("flushed %d, %v", k, err)
	}
	if lines := list(Filter{}); len(lines) != 0 {
		t.Errorf("left: %q", lines)
	}
}

func TestRules(t *testing.T) {
	r := newRig(t, 2, nil)
	r.send(packet.Inside, dns(1), dns(2))
	r.send(packet.Inside, pt.NewTCP(pt.AP("10.0.0.1:1024"), pt.AP("192.0.2.1:80"), syn), pt.NewTCP(pt.AP("10.0.0.1:1024"), pt.AP("192.0.2.1:22"), syn))
	chains, err := r.client.Rules(r.ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range chains {
		got = append(got, fmt.Sprintf("%s %s %d", c.Chain, c.Policy, c.Packets))
		for _, k := range c.Rules {
			got = append(got, fmt.Sprintf("%d: %d %s %s %s %s %s %s %s | %s", k.Number, k.Packets, k.Target, k.Proto, k.In, k.Out, k.Src, k.Dst, k.Options, k.Save))
		}
	}
	want := []string{
		"FORWARD DROP 1",
		"1: 0 ACCEPT all * * anywhere anywhere ctstate RELATED,ESTABLISHED | -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"2: 2 ACCEPT udp inside * 10.0.0.0/8 0.0.0.0/0 udp dpt:53 | -A FORWARD -s 10.0.0.0/8 -i inside -p udp -m udp --dport 53 -j ACCEPT",
		"3: 2 web tcp !outside * anywhere anywhere [goto]  | -A FORWARD ! -i outside -p tcp -g web",
		"web  0",
		"1: 1 ACCEPT tcp * * anywhere anywhere multiport dports 80,443 | -A web -p tcp -m multiport --dports 80,443 -j ACCEPT",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A reload takes everything or nothing.
func TestReload(t *testing.T) {
	r := newRig(t, 2, nil)
	refused := func(what, why string) {
		t.Helper()
		_, err := r.client.Reload(r.ctx, ReloadOptions{})
		if remote, ok := errors.AsType[*RemoteError](err); !ok || remote.Status != http.StatusConflict || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("%s: %v", what, err)
		}
		if s := r.firewall.Status(); s.Reloads != 0 || s.Rules != 4 {
			t.Errorf("%s: %+v", what, s)
		}
		if n, _ := r.firewall.Config().Tracking().Get("nf_conntrack_udp_timeout"); n != 30 {
			t.Errorf("%s: the timeout has changed to %d", what, n)
		}
	}
	r.settings["nf_conntrack_udp_timeout"] = "99"
	r.write("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tpc -j DROP\nCOMMIT\n")
	refused("a mistake in the rules", r.rules+":3:15")
	r.write(ruleText)
	r.settings["workers"] = "7"
	refused("a setting that needs a restart", "workers")
	delete(r.settings, "workers")
	r.settings["burst"] = "0"
	refused("a mistake in the settings", "burst")
	delete(r.settings, "burst")

	r.send(packet.Inside, dns(1))
	r.write("*nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m state --state NEW -j DROP\n-A FORWARD -j ACCEPT\nCOMMIT\n")
	r.settings["nf_conntrack_max"] = "2000"
	done, err := r.client.Reload(r.ctx, ReloadOptions{})
	if err != nil || done.Rules != 2 || len(done.Changes) != 2 || len(done.Warnings) != 1 {
		t.Errorf("%+v, %v", done, err)
	}
	// The connection lives on, judged by the new rules.
	r.send(packet.Outside, pt.NewUDP(pt.AP("192.0.2.53:53"), pt.AP("10.0.0.2:1024")))
	chains, err := r.client.Rules(r.ctx, 0)
	if err != nil || chains[0].Rules[1].Packets != 1 {
		t.Errorf("%+v, %v", chains, err)
	}
	if s, err := r.client.Stats(r.ctx); err != nil || s.Max != 2000 {
		t.Errorf("max %d, %v", s.Max, err)
	}
}

func TestChange(t *testing.T) {
	r := newRig(t, 1, nil)
	changes, err := r.client.Change(r.ctx, map[string]string{"nf_conntrack_udp_timeout": "2m", "nf_conntrack_max": "5"})
	want := []config.Change{{Name: "nf_conntrack_max", From: "1000", To: "5"}, {Name: "nf_conntrack_udp_timeout", From: "30", To: "120"}}
	if err != nil || !slices.Equal(changes, want) {
		t.Errorf("%v, %v", changes, err)
	}
	for i := range 8 {
		r.send(packet.Inside, dns(i))
	}
	if n, err := r.client.Count(r.ctx); err != nil || n.Count > 5 || n.Max != 5 {
		t.Errorf("%+v, %v", n, err)
	}
	for _, tc := range []struct {
		settings map[string]string
		status   int
		why      string
	}{
		{map[string]string{"nf_conntrack_udp_timeout": "60", "nf_conntrack_max": "x"}, 400, "nf_conntrack_max"},
		{map[string]string{"nf_conntrack_udp_timeuot": "60"}, 400, "did you mean nf_conntrack_udp_timeout?"},
		{map[string]string{"nf_conntrack_udp_timeout": "60", "workers": "2"}, 409, "restart"},
		{map[string]string{"nf_conntrack_udp_timeout": "60", "rules": "/nowhere"}, 409, "/nowhere"},
	} {
		_, err := r.client.Change(r.ctx, tc.settings)
		if remote, ok := errors.AsType[*RemoteError](err); !ok || remote.Status != tc.status || !strings.Contains(err.Error(), tc.why) {
			t.Errorf("%v: %v", tc.settings, err)
		}
	}
	values, err := r.client.Config(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		if v.Name == "nf_conntrack_udp_timeout" && (v.Value != "120" || v.Source != "request") {
			t.Errorf("%+v", v)
		}
	}
}

func TestMetrics(t *testing.T) {
	r := newRig(t, 2, map[string]string{"metrics-rules": "1"})
	r.send(packet.Inside, dns(1), dns(2), pt.NewARP(), pt.NewTCP(pt.AP("10.0.0.1:1024"), pt.AP("192.0.2.1:22"), syn))
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newCollector(r.firewall))
	want := `# HELP corewire_conntrack_max Maximum of tracked connections over all workers.
# TYPE corewire_conntrack_max gauge
corewire_conntrack_max 1000
# HELP corewire_frames_total Frames by port and direction.
# TYPE corewire_frames_total counter
corewire_frames_total{direction="rx",port="inside"} 4
corewire_frames_total{direction="rx",port="outside"} 0
corewire_frames_total{direction="tx",port="inside"} 0
corewire_frames_total{direction="tx",port="outside"} 3
# HELP corewire_rule_packets_total Packets by rule, with the setting metrics-rules.
# TYPE corewire_rule_packets_total counter
corewire_rule_packets_total{chain="FORWARD",family="IPv4 and IPv6",rule="1"} 0
corewire_rule_packets_total{chain="FORWARD",family="IPv4 and IPv6",rule="2"} 2
corewire_rule_packets_total{chain="FORWARD",family="IPv4 and IPv6",rule="3"} 1
corewire_rule_packets_total{chain="FORWARD",family="IPv4 and IPv6",rule="policy"} 1
corewire_rule_packets_total{chain="web",family="IPv4 and IPv6",rule="1"} 0
# HELP corewire_up 1 while every worker answers, 0 otherwise; the other metrics are then missing.
# TYPE corewire_up gauge
corewire_up 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "corewire_frames_total", "corewire_conntrack_max", "corewire_up", "corewire_rule_packets_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}

	base := "http://" + r.server.MetricsAddr().String()
	for path, want := range map[string]string{"/metrics": `corewire_drops_total{reason="rule"} 1`, "/healthz": "ok\n"} {
		response, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != 200 || !strings.Contains(string(text), want) {
			t.Errorf("%s: %d %v\n%s", path, response.StatusCode, err, text)
		}
	}
	// The metrics address has no way to change or list anything.
	for _, request := range []struct{ method, path string }{{"DELETE", pathConntrack}, {"GET", pathConntrack}, {"POST", pathReload}, {"PATCH", pathConfig}, {"POST", pathMetrics}} {
		q, _ := http.NewRequest(request.method, base+request.path, strings.NewReader("{}"))
		response, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode < 400 {
			t.Errorf("%s %s: %d", request.method, request.path, response.StatusCode)
		}
	}
}

// What a hostile or broken peer sends is answered with an error, and the firewall goes on.
func TestBadRequests(t *testing.T) {
	r := newRig(t, 1, nil)
	path := r.firewall.Config().ControlSocket
	talk := func(text string) string {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go io.WriteString(c, text) // the server may stop reading
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return err.Error()
		}
		return line
	}
	body := "[" + strings.Repeat(" ", maxRequest+1) + "]"
	for name, tc := range map[string]struct{ text, want string }{
		"no HTTP":      {"\x16\x03\x01 hello\r\n\r\n", "400"},
		"large header": {"GET /v1/stats HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", "431"},
		"large body":   {fmt.Sprintf("PATCH /v1/config HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body), "400"},
		"no JSON":      {"PATCH /v1/config HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nxyz", "400"},
		"unknown path": {"GET /v2/stats HTTP/1.1\r\nHost: x\r\n\r\n", "404"},
		"wrong method": {"POST /v1/stats HTTP/1.1\r\nHost: x\r\n\r\n", "405"},
	} {
		if got := talk(tc.text); !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %s", name, got, tc.want)
		}
	}
	if _, err := r.client.Stats(r.ctx); err != nil {
		t.Error(err)
	}
}

func TestNotRunning(t *testing.T) {
	c := NewClient(t.TempDir() + "/none.sock")
	if _, err := c.Stats(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
}
