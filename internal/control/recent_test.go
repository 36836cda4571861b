package control

import (
	"context"
	"strings"
	"testing"
	"time"

	"corewire/internal/packet"
	pt "corewire/internal/packet/packettest"
)

// TestRecent: a list that a rule fills is read and changed over the socket, and goes on over a reload.
func TestRecent(t *testing.T) {
	r := newRig(t, 2, map[string]string{"ip_list_tot": "2"})
	ctx := context.Background()
	if lists, err := r.client.RecentLists(ctx); err != nil || len(lists) != 0 {
		t.Errorf("%v, %v", lists, err)
	}
	if _, err := r.client.Recent(ctx, "x"); err == nil || !strings.Contains(err.Error(), "no rule has -m recent") {
		t.Error(err)
	}
	r.write("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -p udp -m recent --set --name seen -j ACCEPT\nCOMMIT\n")
	if _, err := r.client.Reload(ctx, ReloadOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, w := range r.wires[:1] {
		w.Inject(packet.Inside, pt.NewUDP(pt.AP("10.0.0.1:5"), pt.AP("10.0.0.2:53")))
		w.Wake()
	}
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		l, err := r.client.Recent(ctx, "seen")
		if err == nil && l.Size == 1 && l.Entries[0].Address == "10.0.0.1" && l.Entries[0].TTL == 65 {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("the list has %+v, %v", l, err)
		}
	}
	change := func(c RecentChange, want int) {
		t.Helper()
		c.List = "seen"
		if n, err := r.client.ChangeRecent(ctx, c); err != nil || n.Changed != want {
			t.Errorf("%+v: %v, %v", c, n, err)
		}
	}
	change(RecentChange{Add: "2001:db8::1"}, 1)
	change(RecentChange{Add: "10.0.0.9"}, 1) // pushes the first one out
	r.write("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m recent --rcheck --name seen -j DROP\nCOMMIT\n")
	if _, err := r.client.Reload(ctx, ReloadOptions{}); err != nil {
		t.Fatal(err)
	}
	l, err := r.client.Recent(ctx, "seen")
	if err != nil || len(l.Entries) != 2 || l.Entries[0].Address != "2001:db8::1" || l.Entries[1].Address != "10.0.0.9" || l.Entries[1].Ago < 0 ||
		!strings.HasPrefix(l.Entries[0].Line, "src=2001:0db8:0000:0000:0000:0000:0000:0001 ttl: 0 last_seen: ") {
		t.Errorf("%+v, %v", l, err)
	}
	change(RecentChange{Remove: "10.0.0.9"}, 1)
	change(RecentChange{Remove: "10.0.0.9"}, 0)
	change(RecentChange{Flush: true}, 1)
	if lists, err := r.client.RecentLists(ctx); err != nil || len(lists) != 1 || lists[0].List != "seen" || lists[0].Size != 0 {
		t.Errorf("%v, %v", lists, err)
	}
	for _, bad := range []RecentChange{{List: "seen"}, {List: "other", Flush: true}, {List: "seen", Add: "x"}, {List: "seen", Add: "::1", Remove: "::1"}, {List: "seen", Flush: true, Add: "::1"}} {
		if _, err := r.client.ChangeRecent(ctx, bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
