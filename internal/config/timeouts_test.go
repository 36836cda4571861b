package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Timeout policies in a file, as a list and as one text; what is wrong with them is told with its place, and rules may
// name only those that there are.
func TestTimeouts(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const want = "Voip udp unreplied 10 replied 300; ssh tcp established 86400"
	rulePath := write("r.rules", "*raw\n-A PREROUTING -p udp --dport 5060 -j CT --timeout Voip\nCOMMIT\n*filter\nCOMMIT\n")
	for name, text := range map[string]string{
		"list.yaml": "timeouts:\n  - Voip udp unreplied 10 replied 300\n  - ssh tcp ESTABLISHED 86400\n",
		"text.yaml": "timeouts: " + want + "\n",
		"list.toml": "timeouts = [\"Voip udp unreplied 10 replied 300\", \"ssh tcp established 86400\"]\n",
	} {
		c, _, err := Load(write(name, text+map[bool]string{true: "rules: " + rulePath, false: "rules = \"" + rulePath + "\""}[strings.HasSuffix(name, "yaml")]+"\n"), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := c.Tracking().Timeouts(); got != want {
			t.Errorf("%s: %q", name, got)
		}
		if _, err := c.LoadRules(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// Without the policy the rules are refused, with their place.
		d, err := c.With(map[string]string{"timeouts": "voip udp replied 5"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.LoadRules(); err == nil || !strings.Contains(err.Error(), "r.rules:2:") || !strings.Contains(err.Error(), "did you mean voip?") {
			t.Errorf("%s: %v", name, err)
		}
		changes, err := Changes(c, d)
		if err != nil || len(changes) != 1 || changes[0].Name != "timeouts" {
			t.Errorf("%v %v", changes, err)
		}
	}
	path := write("bad.yaml", "workers: 1\ntimeouts:\n  - voip udp established 3\n")
	if _, _, err := Load(path, nil); err == nil || !strings.Contains(err.Error(), path+":2") || !strings.Contains(err.Error(), `udp has no state "established"`) {
		t.Error(err)
	}
	if _, _, err := Load(write("deep.yaml", "timeouts:\n  - [a]\n"), nil); err == nil {
		t.Error("a list of lists is accepted")
	}
}
