package ipset

import (
	"strings"
	"testing"
)

// FuzzRestore: no text crashes the reader or makes it take more memory than it may; what is refused leaves nothing; what
// is taken prints, and what is printed is taken and prints the same.
func FuzzRestore(f *testing.F) {
	for k := range kindTable {
		f.Add("create s " + kindTable[k].name + " range 10.0.0.0-10.0.0.255\nadd s 10.0.0.1\n")
	}
	f.Add("create a hash:net family inet6 timeout 5 counters comment skbinfo forceadd\nadd a ::/3 nomatch timeout 3 packets 1 bytes 2 comment \"a b\" skbmark 0x1/0x2 skbprio 1:2 skbqueue 4\nswap a a\nrename a b\nflush\ndestroy\n")
	f.Add("create i hash:net,iface\nadd i 0.0.0.0/0,physdev:eth0 wildcard nomatch\nadd i 1.2.3.0-1.2.4.17,lo\ncreate p bitmap:port range 0-65535\nadd p 1-9\n")
	f.Add("create m hash:ip,port,net\nadd m 1.1.1.0/29,tcp:5-9,2.0.0.0-2.0.0.9\ncreate l list:set\nadd l m\nadd l m before m\n-exist add l m\n# x\n\nCOMMIT\n")
	f.Fuzz(func(t *testing.T, text string) {
		r := New(Options{Budget: 4 << 20})
		if err := r.Restore("f", []byte(text), false, 0); err != nil {
			if e, ok := err.(*Error); !ok || e.Line < 1 || e.Col < 1 {
				t.Fatalf("error without its place: %v", err)
			}
			if len(r.Names()) > 0 || r.room != r.budget {
				t.Fatalf("refused, but left %v and %d bytes of %d", r.Names(), r.room, r.budget)
			}
			return
		}
		once, err := r.AppendSave(nil, "", true, 0)
		if err != nil {
			t.Fatal(err)
		}
		q := New(Options{Budget: 8 << 20})
		if err := q.Restore("own", once, false, 0); err != nil {
			t.Fatalf("%v\n%s", err, once)
		}
		twice, _ := q.AppendSave(nil, "", true, 0)
		if string(once) != string(twice) && !strings.Contains(string(once), "wildcard") {
			t.Fatalf("printed\n%s\nand again\n%s", once, twice)
		}
	})
}
