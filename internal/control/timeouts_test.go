package control

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Timeout policies change while the firewall runs, unless a rule in force would lose its own: then nothing changes.
func TestChangeTimeouts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raw.rules")
	if err := os.WriteFile(path, []byte("*raw\n-A PREROUTING -p udp -j CT --timeout voip\nCOMMIT\n*filter\nCOMMIT\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, 1, map[string]string{"rules": path, "timeouts": "voip udp replied 300"})
	now := func(want string) {
		t.Helper()
		if got := r.firewall.Config().Tracking().Timeouts(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if _, err := r.firewall.Change(r.ctx, map[string]string{"timeouts": "ssh tcp close 5; voip udp replied 30", "nf_conntrack_udp_timeout": "20"}); err != nil {
		t.Fatal(err)
	}
	now("ssh tcp close 5; voip udp replied 30")
	for _, list := range []string{"", "ssh tcp close 5", "voip tcp close 5"} {
		_, err := r.firewall.Change(r.ctx, map[string]string{"timeouts": list, "nf_conntrack_udp_timeout": "10"})
		if _, ok := errors.AsType[*RefusedError](err); !ok || !strings.Contains(err.Error(), "raw.rules:2:") {
			t.Errorf("%q: %v", list, err)
		}
	}
	now("ssh tcp close 5; voip udp replied 30")
	if v, err := r.firewall.Config().Tracking().Get("nf_conntrack_udp_timeout"); v != 20 || err != nil {
		t.Errorf("udp timeout %d, %v", v, err)
	}
}
