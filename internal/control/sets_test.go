package control

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// TestSets takes sets through a running firewall: files, reload, commands over the socket, and what packets of an
// established connection meet after each.
func TestSets(t *testing.T) {
	r := newRig(t, 2, nil)
	ctx := r.ctx
	file := filepath.Join(t.TempDir(), "sets")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("create blocked hash:net\nadd blocked 192.0.2.0/24\ncreate seen hash:ip timeout 600\n")
	r.settings["sets"] = file
	const head = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m set --match-set "
	r.write(head + "blokced src -j DROP\nCOMMIT\n")
	if _, err := r.client.Reload(ctx, ReloadOptions{}); err == nil || !strings.Contains(err.Error(), "did you mean blocked?") {
		t.Errorf("reload: %v", err)
	}
	if list, err := r.client.Sets(ctx, "", true, true); err != nil || len(list) != 0 {
		t.Errorf("a refused reload left %v %v", list, err)
	}
	r.write(head + "blocked src -j DROP\n-A FORWARD -p udp -j SET --add-set seen src\nCOMMIT\n")
	if _, err := r.client.Reload(ctx, ReloadOptions{}); err != nil {
		t.Fatal(err)
	}
	dropped := func() uint64 {
		t.Helper()
		s, err := r.client.Stats(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return s.Total.Drops["rule"]
	}
	from := func(src string, want bool) {
		t.Helper()
		before := dropped()
		r.send(packet.Inside, pt.NewUDP(pt.AP(src+":9"), pt.AP("10.8.8.8:53")))
		if got := dropped() == before; got != want {
			t.Errorf("packet from %s passes: %v", src, got)
		}
	}
	do := func(command string) error {
		t.Helper()
		_, err := r.client.SetDo(ctx, SetCommand{Words: strings.Fields(command)})
		return err
	}
	from("10.0.0.1", true)
	from("10.0.0.1", true)
	from("192.0.2.9", false)
	if err := do("add blocked 10.0.0.1"); err != nil { // the next packet of the connection meets it
		t.Fatal(err)
	}
	from("10.0.0.1", false)
	if err := do("del blocked 10.0.0.1"); err != nil {
		t.Fatal(err)
	}
	from("10.0.0.1", true)
	if err := do("destroy blocked"); err == nil || err.Error() != "Set cannot be destroyed: it is in use by a kernel component (rules or a list:set name it)" {
		t.Errorf("destroy: %v", err)
	}
	if err := r.client.SetRestore(ctx, strings.NewReader("create tmp hash:net\nadd tmp 10.0.0.0/8\nswap tmp blocked\ndestroy tmp\n"), false); err != nil {
		t.Fatal(err)
	}
	from("10.0.0.1", false)
	from("192.0.2.9", true)
	if err := r.client.SetRestore(ctx, strings.NewReader("flush blocked\nadd blocked x\n"), false); err == nil || !strings.HasPrefix(err.Error(), "restore:2:13: ") {
		t.Errorf("restore: %v", err)
	}
	from("10.0.0.1", false)
	for element, want := range map[string]bool{"192.0.2.9": true, "192.0.2.8": false, "10.0.0.1": true} {
		if yes, err := r.client.SetDo(ctx, SetCommand{Words: []string{"test", "seen", element}}); err != nil || yes != want {
			t.Errorf("test seen %s: %v %v", element, yes, err)
		}
	}
	// What rules have added outlives a reload; what the file says is there again.
	write("create blocked hash:net\nadd blocked 192.0.2.0/25\ncreate seen hash:ip timeout 600\nadd seen 172.16.0.1 timeout 0\n")
	if _, err := r.client.Reload(ctx, ReloadOptions{}); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := r.client.SaveSets(ctx, &text, "seen", true); err != nil || strings.Count(text.String(), "\nadd") != 3 {
		t.Errorf("seen is\n%s%v", text.String(), err)
	}
	// Good sets with bad rules change nothing.
	write("create blocked hash:net\nadd blocked 198.51.100.0/24\ncreate more hash:ip\n")
	r.write(head + "blocked src -j DORP\nCOMMIT\n")
	if _, err := r.client.Reload(ctx, ReloadOptions{}); err == nil {
		t.Error("bad rules are in force")
	}
	from("198.51.100.1", true)
	from("192.0.2.9", false)
	if list, err := r.client.Sets(ctx, "", false, false); err != nil || len(list) != 2 {
		t.Errorf("sets are %v %v", list, err)
	}
	from("192.0.2.9", false)
	from("192.0.2.200", true)
	// A file that no longer has the sets takes them away with the rules.
	write("create other list:set\n")
	if _, err := r.client.Reload(ctx, ReloadOptions{}); err == nil {
		t.Error("rules without their sets are in force")
	}
	r.write("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n")
	if _, err := r.client.Reload(ctx, ReloadOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := r.client.Sets(ctx, "", false, false)
	if err != nil || len(list) != 1 || list[0].Name != "other" {
		t.Errorf("sets are %v %v", list, err)
	}
}
