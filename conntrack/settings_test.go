package conntrack

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestSettingsTable(t *testing.T) {
	def := DefaultSettings()
	seen := map[string]bool{}
	for _, r := range AllSettings() {
		if seen[r.Name] {
			t.Errorf("%s twice", r.Name)
		}
		seen[r.Name] = true
		if r.Help == "" || r.Default < r.Min || r.Default > r.Max {
			t.Errorf("%+v", r)
		}
		if got := r.Get(def); got != r.Default {
			t.Errorf("%s: default %d, want %d", r.Name, got, r.Default)
		}
		for _, v := range []uint32{r.Min, r.Max} {
			s, err := def.With(r.Name, v)
			if err != nil {
				t.Errorf("%s = %d: %v", r.Name, v, err)
				continue
			}
			if got, err := s.Get(r.Name); got != v || err != nil {
				t.Errorf("%s reads %d after %d (%v)", r.Name, got, v, err)
			}
			if r.Unit == UnitSeconds && *r.field(s) == 0 {
				t.Errorf("%s: a timeout of 0 would mean none to the trackers", r.Name)
			}
			// Every field is one row's alone.
			back, err := s.With(r.Name, r.Default)
			if err != nil || *back != *def {
				t.Errorf("%s changes something else", r.Name)
			}
		}
		if _, err := def.With(r.Name, r.Max+1); err == nil {
			t.Errorf("%s accepts %d", r.Name, r.Max+1)
		}
	}
	if *def != *DefaultSettings() {
		t.Error("With changed the snapshot that it was called on")
	}
	for _, c := range [][2]string{{"nf_conntrack_udp_timeout", "x"}, {"nf_conntrack_udp_timeout", "-1"}, {"nf_conntrack_udp_timeout", "99999999999"}, {"udp_timeout", "1"}} {
		if _, err := def.WithText(c[0], c[1]); err == nil || !strings.Contains(err.Error(), "setting") {
			t.Errorf("%s = %s: %v", c[0], c[1], err)
		}
	}
	if s, err := def.WithText("nf_conntrack_icmp_timeout", "31"); err != nil || s.icmp != 31_000 {
		t.Errorf("%v", err)
	}
}

// TestSettingsAsTheKernels compares names and defaults with the running kernel's, where connection tracking is there.
// Values that someone has changed would differ: only a fresh kernel proves the defaults, any kernel the names.
func TestSettingsAsTheKernels(t *testing.T) {
	const dir = "/proc/sys/net/netfilter/"
	if _, err := os.Stat(dir + "nf_conntrack_max"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no connection tracking in this kernel, and CI=true says it must be compared with")
		}
		t.Skip("no connection tracking in this kernel")
	}
	for _, r := range AllSettings() {
		file := dir + r.Name
		if strings.HasPrefix(r.Name, "ipfrag_") {
			file = "/proc/sys/net/ipv4/" + r.Name
		}
		if r.Param != "" {
			file = "/sys/module/" + r.Param
		}
		b, err := os.ReadFile(file)
		if os.IsNotExist(err) && r.Param != "" {
			continue // the module is not loaded
		}
		if os.IsNotExist(err) && (strings.Contains(r.Name, "sctp") || strings.Contains(r.Name, "gre") || strings.Contains(r.Name, "icmpv6") || strings.Contains(r.Name, "frag6")) {
			continue // not in every kernel
		}
		if err != nil {
			t.Errorf("%s: %v", r.Name, err)
			continue
		}
		n, err := strconv.ParseUint(strings.NewReplacer("N", "0", "Y", "1").Replace(strings.TrimSpace(string(b))), 10, 32)
		if err != nil {
			t.Errorf("%s: %v", r.Name, err)
		} else if uint32(n) != r.Default {
			t.Logf("%s: this kernel has %d, the default is %d", r.Name, n, r.Default)
		}
	}
}
