package ipset

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// kernel is the running kernel's sets, in a network namespace of the test's own.
type kernel struct{ ns string }

// newKernel makes a namespace; the test is skipped where the kernel or the ipset tool is not there to be asked, except in
// CI.
func newKernel(t *testing.T) *kernel {
	t.Helper()
	give := t.Skip
	if os.Getenv("CI") == "true" {
		give = t.Fatal
	}
	if _, err := exec.LookPath("ipset"); err != nil {
		give("no ipset here (Debian package ipset): the kernel's sets cannot be asked")
	}
	k := &kernel{fmt.Sprintf("cw-ipset-%d", os.Getpid())}
	if out, err := exec.Command("ip", "netns", "add", k.ns).CombinedOutput(); err != nil {
		give(fmt.Sprintf("make a network namespace: %v: %s", err, out))
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", k.ns).Run() })
	return k
}

// run runs ipset in the namespace with the text as its input.
func (k *kernel) run(text string, args ...string) (string, error) {
	cmd := exec.Command("ip", append([]string{"netns", "exec", k.ns, "ipset"}, args...)...)
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// knows says whether the kernel has the kind.
func (k *kernel) knows(kind Kind) bool {
	extra := ""
	if kind.bitmap() {
		extra = map[Kind]string{BitmapPort: " range 0-9"}[kind]
		if extra == "" {
			extra = " range 10.0.0.0/24"
		}
	}
	_, err := k.run("create probe "+kind.String()+extra+"\ndestroy probe\n", "restore")
	return err == nil
}

// normal sorts elements and takes away what differs by chance: the kernel's size of its table, the start of its hash.
func normal(save string) []string {
	chance := regexp.MustCompile(` (hashsize \d+|initval 0x[0-9a-f]+)`)
	var out []string
	for l := range strings.Lines(save) {
		out = append(out, chance.ReplaceAllString(strings.TrimSuffix(l, "\n"), ""))
	}
	slices.Sort(out)
	return out
}

// script is random commands for one set of a kind: create, and additions and deletions.
func script(r *rand.Rand, k Kind, v6 bool, options string, n int) (create string, elements []string) {
	create = "create s " + k.String()
	if !kindTable[k].neutral && k.hash() {
		create += map[bool]string{false: " family inet", true: " family inet6"}[v6]
	}
	switch k {
	case BitmapIP, BitmapIPMAC:
		create += " range 10.0.0.0-10.0.3.255"
	case BitmapPort:
		create += " range 1000-1500"
	}
	create += options
	for range n {
		// The kernel hashes physdev, and what is in one bucket by chance hides what is in others: the twin tells instead.
		elements = append(elements, strings.ReplaceAll(randomElement(r, k, v6), "physdev:", ""))
	}
	return create, elements
}

// small draws one of few addresses, for elements with two.
func small(r *rand.Rand, v6 bool) string {
	if v6 {
		return fmt.Sprintf("2001:db8:0:%x::%x", r.IntN(2), 1+r.IntN(2))
	}
	return fmt.Sprintf("10.0.0.%d", 16*r.IntN(2)+r.IntN(2))
}

// randomElement draws from few values, so that elements meet.
func randomElement(r *rand.Rand, k Kind, v6 bool) string {
	addr := func() string {
		if k.Dimensions() == 3 {
			return small(r, v6)
		}
		if v6 {
			return fmt.Sprintf("2001:db8:%x:%x::%x", r.IntN(2), r.IntN(3), 1+r.IntN(40))
		}
		return fmt.Sprintf("10.0.%d.%d", r.IntN(4), r.IntN(48))
	}
	network := func() string {
		n := []int{32, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 16, 12, 8, 3}[r.IntN(16)]
		if v6 {
			n = []int{128, 128, 127, 125, 124, 120, 112, 96, 80, 65, 64, 63, 48, 33, 32, 16}[r.IntN(16)]
		}
		return fmt.Sprintf("%s/%d", addr(), n)
	}
	var parts []string
	for _, p := range kindTable[k].parts {
		switch p {
		case partIP:
			parts = append(parts, addr())
		case partNet:
			parts = append(parts, network())
		case partPort:
			if k == BitmapPort {
				parts = append(parts, fmt.Sprint(1000+r.IntN(501)))
				continue
			}
			icmp := "icmp:"
			if v6 {
				icmp = "icmpv6:"
			}
			parts = append(parts, []string{
				fmt.Sprintf("tcp:%d", r.IntN(4)), fmt.Sprintf("udp:%d", r.IntN(4)), fmt.Sprintf("sctp:%d", r.IntN(3)), fmt.Sprintf("udplite:%d", r.IntN(3)),
				"gre:0", "esp:0", "200:0", fmt.Sprintf("%s%d/%d", icmp, []int{0, 3, 8, 11, 1, 128, 135}[r.IntN(7)], r.IntN(3)),
			}[r.IntN(8)])
		case partMAC:
			parts = append(parts, fmt.Sprintf("02:00:00:00:00:%02x", 1+r.IntN(9)))
		case partMark:
			parts = append(parts, fmt.Sprintf("0x%x", r.IntN(5)))
		case partIface:
			parts = append(parts, []string{"eth0", "eth1", "eth10", "physdev:eth0", "lo"}[r.IntN(5)])
		}
	}
	return strings.Join(parts, ",")
}

// TestKernel gives the same random commands to the kernel's ipset and to the registry: every command must succeed or fail
// alike, ipset save print the same, and ipset test answer the same for random elements.
func TestKernel(t *testing.T) {
	k := newKernel(t)
	r := rand.New(rand.NewPCG(3, 4))
	for kind := range kinds {
		if kind == ListSet {
			continue
		}
		if !k.knows(kind) {
			t.Logf("%s: this kernel is built without it; compared with the twin only", kind)
			continue
		}
		for _, v6 := range []bool{false, true} {
			if v6 && (!kind.hash() || kindTable[kind].neutral) {
				continue
			}
			for _, options := range []string{"", " timeout 1000 counters comment skbinfo"} {
				if kind == BitmapIPMAC {
					// The kernel takes the seconds that wait for a MAC address for a time long gone.
					options = strings.TrimPrefix(options, " timeout 1000")
				}
				_, _ = k.run("destroy\n", "restore")
				reg := New(Options{})
				create, elements := script(r, kind, v6, options, 400)
				both := func(line string) bool {
					out, err := k.run(line+"\n", "restore")
					own := reg.Restore("test", []byte(line), false, 0)
					if (err == nil) != (own == nil) {
						t.Fatalf("%s: the kernel says %v %s\ncorewire says %v", line, err, out, own)
					}
					return err == nil
				}
				timeout := func(s string) string {
					if strings.Contains(options, "timeout") {
						return s
					}
					return ""
				}
				both(create)
				// Commands that fail are asked one by one; the others in one go, for speed.
				var good []string
				for i, e := range elements {
					line := "add s " + e
					if kindTable[kind].noMatch && i%5 == 0 {
						line += " nomatch"
					}
					if options != "" {
						line += []string{"", timeout(" timeout 500"), timeout(" timeout 0"), "", ` comment "a b"`, " skbmark 0x5/0xff skbprio 1:2 skbqueue 3", " skbmark 0x7"}[i%7]
						// Given in every line: the kernel leaves the counters of a deleted element to the one that takes its place.
						line += fmt.Sprintf(" packets %d bytes %d", i%3, i%5)
					}
					if i%9 == 8 {
						line = "del s " + elements[r.IntN(i)]
					}
					if kind == BitmapIPMAC && i%3 == 0 {
						line, _, _ = strings.Cut(line, ",")
						if options != "" && strings.HasPrefix(line, "add") {
							line += " packets 4 bytes 5"
						}
					}
					if reg.Restore("test", []byte(line), false, 0) == nil {
						good = append(good, line)
					} else if i < 60 {
						if out, err := k.run(strings.Join(good, "\n")+"\n", "restore"); err != nil {
							t.Fatalf("%s %q: the kernel refuses: %s", create, good, out)
						}
						good = nil
						if out, err := k.run(line+"\n", "restore"); err == nil {
							t.Fatalf("%s: the kernel takes %s: %s", create, line, out)
						}
					}
				}
				if out, err := k.run(strings.Join(good, "\n")+"\n", "restore"); err != nil {
					t.Fatalf("%s: the kernel refuses: %s", create, out)
				}
				save, err := k.run("", "save")
				if err != nil {
					t.Fatal(save, err)
				}
				own, err := reg.AppendSave(nil, "", false, 0)
				if err != nil {
					t.Fatal(err)
				}
				seconds := regexp.MustCompile(`timeout (\d+)`)
				want, got := normal(save), normal(string(own))
				for i := range want { // some of the kernel's seconds have gone by
					want[i] = seconds.ReplaceAllStringFunc(want[i], func(s string) string {
						var n int
						_, _ = fmt.Sscanf(s, "timeout %d", &n)
						return fmt.Sprintf("timeout %d", (n+99)/100*100)
					})
				}
				slices.Sort(want)
				if !slices.Equal(want, got) {
					for _, l := range want {
						if !slices.Contains(got, l) {
							t.Errorf("only the kernel has: %s", l)
						}
					}
					for _, l := range got {
						if !slices.Contains(want, l) {
							t.Errorf("only corewire has: %s", l)
						}
					}
					t.FailNow()
				}
				// What is printed can be read.
				if err := New(Options{}).Restore("own", own, false, 0); err != nil {
					t.Fatal(err)
				}
				k.probe(t, reg, kind, v6, r)
			}
		}
	}
}

// hosts takes the prefix lengths away from an element.
func hosts(e string) string {
	parts := strings.Split(e, ",")
	for i, p := range parts {
		if !strings.Contains(p, "icmp") {
			parts[i], _, _ = strings.Cut(p, "/")
		}
	}
	return strings.Join(parts, ",")
}

// probe asks both for random elements.
func (k *kernel) probe(t *testing.T, reg *Registry, kind Kind, v6 bool, r *rand.Rand) {
	t.Helper()
	const n = 120
	var script bytes.Buffer
	var asked []string
	for range n {
		e := strings.ReplaceAll(randomElement(r, kind, v6), "physdev:", "")
		if r.IntN(2) == 0 { // networks of one address are asked against all lengths
			e = hosts(e)
		}
		if kindTable[kind].noMatch && r.IntN(4) == 0 {
			e += " nomatch"
		}
		asked = append(asked, e)
		fmt.Fprintf(&script, "ipset -q test s %s && echo y || echo n\n", e)
	}
	out, err := exec.Command("ip", "netns", "exec", k.ns, "sh", "-c", script.String()).Output()
	if err != nil {
		t.Fatal(err)
	}
	answers := strings.Fields(string(out))
	if len(answers) != n {
		t.Fatalf("%d answers of %d", len(answers), n)
	}
	yes := 0
	for i, e := range asked {
		got, err := reg.Do(append([]string{"test", "s"}, strings.Fields(e)...), false, 0)
		if err != nil {
			t.Fatal(e, err)
		}
		if got != (answers[i] == "y") {
			own, _ := reg.AppendSave(nil, "", true, 0)
			t.Fatalf("test s %s: kernel %s, corewire %v\n%s", e, answers[i], got, own)
		}
		if got {
			yes++
		}
	}
	t.Logf("%s v6=%v: %d probes, %d in the set", kind, v6, n, yes)
}

// TestKernelErrors compares what is said of wrong commands.
func TestKernelErrors(t *testing.T) {
	k := newKernel(t)
	reg := New(Options{})
	setup := []string{"create a hash:ip", "add a 10.0.0.1", "create b hash:net counters", "create p bitmap:port range 100-200", "create l list:set", "add l a",
		"create six hash:ip family inet6", "create full hash:ip maxelem 2", "add full 1.1.1.1", "add full 1.1.1.2"}
	for _, s := range setup {
		if out, err := k.run(s+"\n", "restore"); err != nil {
			t.Fatal(s, out)
		}
		if err := reg.Restore("setup", []byte(s), false, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []string{
		"add a 10.0.0.1", "del a 10.0.0.9", "add nope 1.1.1.1", "destroy nope", "destroy a", "create a hash:ip", "create z hash:foo", "add a 0.0.0.0",
		"add a 1.1.1.1 timeout 5", "add a 1.1.1.1 comment x", "add a 1.1.1.1 packets 5", "add a 1.1.1.1 skbmark 0x1", "swap a l", "swap a nope", "swap a six",
		"rename b a", "rename a c", "add l l", "add l nope", "add p 99", "add full 1.1.1.3", "add b 10.0.0.0/0", "create t hash:ip timeout 99999999",
		"create t hash:ip timeout x", "create t bitmap:ip range 10.0.0.0/8", "create t bitmap:port", "add a 1.1.1.1 foo", "flush nope", "foo a",
		"create verylongnameverylongnameverylongname hash:ip", "add b 10.0.0.0/33", "add l b before p", "add six 1::/64",
	} {
		out, err := k.run("", strings.Fields(s)...)
		if err == nil {
			t.Errorf("the kernel takes %s", s)
			continue
		}
		_, own := reg.Do(strings.Fields(s), false, 0)
		e, ok := errors.AsType[*Error](own)
		if !ok {
			t.Errorf("%s: corewire takes it; the kernel: %s", s, out)
			continue
		}
		said, _, _ := strings.Cut(strings.TrimPrefix(out, "ipset v7.17: "), "\n")
		if e.Text != said {
			t.Logf("%s:\n  ipset    %s\n  corewire %s", s, said, own)
		}
	}
}
