package rules

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestNames: names of protocols and services mean what the machine's files say, as far as it has them.
func TestNames(t *testing.T) {
	lines := func(file string) (out [][]string) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Logf("not compared: %v", err)
		}
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#")
			if f := strings.Fields(line); len(f) > 1 {
				out = append(out, f)
			}
		}
		return out
	}
	for _, f := range lines("/etc/protocols") {
		want, err := strconv.ParseUint(f[1], 10, 8)
		if err != nil {
			continue // mptcp, which no IP header has
		}
		if num, ok := parseProtocol(f[0]); ok && num != uint8(want) {
			t.Errorf("protocol %s is %d, in /etc/protocols %d", f[0], num, want)
		}
	}
	ports := map[string][]uint16{}
	for _, f := range lines("/etc/services") {
		number, proto, _ := strings.Cut(f[1], "/")
		if v, err := strconv.ParseUint(number, 10, 16); err == nil && (proto == "tcp" || proto == "udp") {
			for _, name := range append(f[2:], f[0]) {
				ports[name] = append(ports[name], uint16(v))
			}
		}
	}
	for name, list := range ports {
		if p, ok := services[name]; ok && !slices.Contains(list, p) {
			t.Errorf("service %s is %d, in /etc/services %v", name, p, list)
		}
	}
	if num, _ := parseProtocol("ipip"); num != 94 || protocolName(4) != "ipencap" {
		t.Errorf("ipip is %d", num)
	}
}
