package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"corewire/dataplane"
	"corewire/internal/packet"
)

// timeoutPolicies say some states of each protocol; the others have the settings' own timeouts.
const timeoutPolicies = "t tcp syn_sent 41 established 4242 close_wait 43 time_wait 44 close 45 retrans 46 unacknowledged 47; u udp unreplied 51 replied 52; " +
	"ul udplite replied 53; i icmp timeout 54; i6 icmpv6 timeout 55; s sctp cookie_wait 56 established 57 heartbeat_sent 58; g gre unreplied 59 replied 60; o generic timeout 61"

// Timeout policies of -j CT --timeout: the time that each connection has left after every packet, and at the end.
func TestTimeoutPolicies(t *testing.T) {
	need(t)
	for _, name := range generatorNames() {
		if name == "timed" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			c := newConfig(t, "")
			src, err := os.ReadFile(filepath.Join("testdata", "timeouts.rules"))
			if err != nil {
				t.Fatal(err)
			}
			if c.settings, err = c.settings.WithTimeouts(timeoutPolicies); err != nil {
				t.Fatal(err)
			}
			if c.rules, err = compileRules("timeouts.rules", src, c.settings); err != nil {
				t.Fatal(err)
			}
			both := newComparison(t, c)
			s, err := both.run(name, generators[name].frames(*seed, amount()/32))
			report(t, s, err)
			// With other timeouts on one side the comparison finds it.
			c.own, err = c.settings.WithTimeouts(strings.NewReplacer(" 41", " 31", " 51", " 31", " 54", " 31", " 56", " 31", " 59", " 31", " 61", " 31", " 53", " 31", " 55", " 31").Replace(timeoutPolicies))
			if err != nil {
				t.Fatal(err)
			}
			c.stop = 1
			if s, err = newComparison(t, c).run(name, generators[name].frames(*seed, 2000)); err != nil || len(s.Differences) != 1 || s.Differences[0].What != "timeout" {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

// Zones by a rule of table raw are in the kernel's table and in corewire's.
func TestZonesInTables(t *testing.T) {
	need(t)
	both := newComparison(t, newConfig(t, "raw.rules"))
	s, err := both.run("tcp", tcpStream(*seed, 3000))
	report(t, s, err)
	kernel, err := both.kernel.table()
	if err != nil {
		t.Fatal(err)
	}
	own, err := both.corewire.table()
	if err != nil {
		t.Fatal(err)
	}
	for _, zone := range []string{"zone=5 ", "zone=6 "} {
		has := func(line string) bool { return strings.Contains(line, zone) }
		if !slices.ContainsFunc(kernel, has) || !slices.ContainsFunc(own, has) {
			t.Errorf("no connection of %s in the kernel's table of %d or corewire's of %d", zone, len(kernel), len(own))
		}
	}
}

// Zones by VLAN: in the kernel a mark by VLAN on reception, and the zone by the mark; in corewire a setting.
func TestZonesByVLAN(t *testing.T) {
	need(t)
	const ebtables = "ebtables"
	if _, err := exec.LookPath(ebtables); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	c := newConfig(t, "")
	c.engine = func(e *dataplane.Config) { e.Zones = dataplane.ZoneVLAN }
	raw := []byte("*raw\n-A PREROUTING -j CT --zone mark\nCOMMIT\n")
	c.rules.text4, c.rules.text6 = append(raw, c.rules.text4...), append(raw[:len(raw):len(raw)], c.rules.text6...)
	for _, name := range []string{"tcp", "mix", "fragments"} {
		t.Run(name, func(t *testing.T) {
			both := newComparison(t, c)
			if err := both.reset(); err != nil {
				t.Fatal(err)
			}
			if err := both.kernel.do(func() error {
				for _, id := range []string{"5", "6"} {
					if out, err := exec.Command(ebtables, "-t", "nat", "-A", "PREROUTING", "-p", "802_1Q", "--vlan-id", id, "-j", "mark", "--mark-set", id, "--mark-target", "CONTINUE").CombinedOutput(); err != nil {
						return fmt.Errorf("%w: %s", err, out)
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(*seed, 0x20))
			var shots []shot
			for s := range generators[name].frames(*seed, 4000) {
				p := packet.Packet{Frame: s.frame}
				packet.Parse(&p)
				if p.VLAN != 0 || len(s.frame) < packet.EthernetHeader || binary.BigEndian.Uint16(s.frame[12:]) == packet.EtherTypeVLAN {
					continue
				}
				if id := []byte{0, 5, 5, 6}[(int(p.SrcPort^p.DstPort)+r.IntN(10)/9)%4]; id != 0 {
					s.frame = slices.Concat(s.frame[:12], []byte{0x81, 0, 0, id}, s.frame[12:])
				}
				shots = append(shots, s)
			}
			s, err := both.run(name, slices.Values(shots))
			report(t, s, err)
			own, err := both.corewire.table()
			if err != nil {
				t.Fatal(err)
			}
			for _, zone := range []string{"zone=5 ", "zone=6 "} {
				if name != "fragments" && !slices.ContainsFunc(own, func(line string) bool { return strings.Contains(line, zone) }) {
					t.Errorf("no connection of %s among %d", zone, len(own))
				}
			}
		})
	}
}
