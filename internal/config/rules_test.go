package config

import (
	"errors"
	"os"
	"strings"
	"testing"

	"corewire/rules"
)

func TestLoadRules(t *testing.T) {
	both := write(t, "both.rules", "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -i lan0 -j ACCEPT\nCOMMIT\n")
	bad := write(t, "bad.rules", "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p tpc -j ACCEPT\n-A FORWARD -s 300.1.1.1 -j ACCEPT\nCOMMIT\n")
	six := write(t, "six.rules", "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p ipv6-icmp -j DROP\nCOMMIT\n")
	load := func(settings map[string]string) (*rules.Ruleset, error) {
		t.Helper()
		c, err := defaults().With(settings)
		if err != nil {
			t.Fatal(err)
		}
		return c.LoadRules()
	}
	if _, err := load(nil); !errors.Is(err, ErrNoRules) {
		t.Errorf("no file: %v", err)
	}
	if _, err := load(map[string]string{"rules": both + ".none"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	rs, err := load(map[string]string{"rules": both, "inside": "lan0"})
	if err != nil || rs.Len() != 1 || len(rs.Warnings()) != 0 {
		t.Errorf("%v %v", rs, err)
	}
	if rs, err = load(map[string]string{"rules4": both, "rules6": six, "inside": "lan0"}); err != nil || rs.Len() != 2 {
		t.Errorf("%v %v", rs, err)
	}
	_, err = load(map[string]string{"rules4": bad, "rules6": bad})
	if _, ok := errors.AsType[*rules.Errors](err); !ok || strings.Count(err.Error(), bad+":") != 4 {
		t.Errorf("both mistakes of both files: %v", err)
	}
}
