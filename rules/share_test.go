package rules

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// TestChangesWhileMatching: packets are judged by the rule set before a change of one rule while the next ones are made of it
// and take over what it remembers. The race detector says whether they write what both have.
func TestChangesWhileMatching(t *testing.T) {
	rs := mustCompile(t, "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m limit --limit 10000/sec --limit-burst 3 -j ACCEPT\n"+
		"-A FORWARD -m statistic --mode nth --every 2 --packet 0 -j ACCEPT\n-A FORWARD -m quota --quota 100000 -j ACCEPT\n-A FORWARD -p tcp --dport 1 -j ACCEPT\nCOMMIT\n")
	lines := []string{"-A FORWARD -p udp --dport 5 -j DROP", "-A FORWARD -m limit --limit 10000/sec --limit-burst 3 -j ACCEPT",
		"-A FORWARD -m statistic --mode nth --every 2 --packet 0 -j ACCEPT", "-A FORWARD -m quota --quota 100000 -j ACCEPT"}
	for i := range 60 {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 2 {
			m := rs.NewMatcher()
			wg.Go(func() {
				p := tcpPacket()
				for now := int64(0); ; now += 1000 {
					select {
					case <-stop:
						return
					default:
						m.Match(p, &Context{State: New, Now: now})
					}
				}
			})
		}
		_, list, err := ParseRule("t", "filter", Both, lines[i%len(lines)])
		if err != nil {
			t.Fatal(err)
		}
		at := Place{Table: "filter", Chain: "FORWARD", Family: Both, Number: 1 + i%3}
		next, _, err := rs.Insert(at, list[0])
		if err == nil && i%4 == 3 {
			next, _, err = next.Delete(at)
		}
		close(stop)
		wg.Wait()
		if err != nil {
			t.Fatal(err)
		}
		rs = next
	}
}

// TestMemoryRefused: rules that would remember more than there is room for are refused, with the limit and the place.
func TestMemoryRefused(t *testing.T) {
	for _, tc := range []struct{ rule, want string }{
		{"-m hashlimit --hashlimit-upto 1/sec --hashlimit-mode srcip --hashlimit-name h%d --hashlimit-htable-max 4000000 -j ACCEPT", "MiB in all"},
		{"-m recent --name r%d --rcheck --hitcount 200 -j ACCEPT", "times"},
		{"-m connlimit --connlimit-above %d -j DROP", "connections in all"},
	} {
		var b strings.Builder
		b.WriteString("*filter\n")
		for i := range 200 {
			fmt.Fprintf(&b, "-A FORWARD "+tc.rule+"\n", i+1)
		}
		f, err := Parse("t", []byte(b.String()+"COMMIT\n"), Both)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Compile([]*File{f}, Options{Clock: true, RecentList: 1 << 20, Connections: 1 << 22})
		list, ok := err.(*Errors)
		if !ok || !strings.Contains(err.Error(), tc.want) || list.List[0].Pos.Line < 2 {
			t.Errorf("%s: %v", tc.rule, err)
		}
	}
}
