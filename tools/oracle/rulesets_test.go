package main

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"corewire/rules"
)

var (
	judged  = flag.Int("oracle.pairs", 30_000, "pairs of a generated rule set and a frame")
	ruleset = flag.Uint64("oracle.ruleset", defaultSeed, "seed of the generated rule sets")
	random  = flag.Bool("oracle.random", false, "generate from a seed at random as well, which the log has")
)

// defaultSeed is the seed whose rule sets and frames must reach everything.
const defaultSeed = 2

// unexercised are the modules, targets and options that generated rule sets do not have, with the reason.
var unexercised = map[string]string{
	"vlan":                                "a match of our own, which the kernel does not know",
	"hashlimit --hashlimit":               "the old name of --hashlimit-upto: see TestMemory",
	"hashlimit --hashlimit-rate-match":    "what the rate was is asked of the clock: see TestMemory",
	"hashlimit --hashlimit-rate-interval": "what the rate was is asked of the clock: see TestMemory",
	"statistic --probability":             "each side throws its own dice",
	"SECMARK":                             "it needs a security module, and does nothing here",
	"CONNSECMARK":                         "it needs a security module, and does nothing here",
	"AUDIT":                               "it counts alone",
	"CHECKSUM":                            "it counts alone",
	"-j CT --timeout":                     "the kernel needs its policies made before",
	"-j CT --zone-orig":                   "refused here",
	"-j CT --zone-reply":                  "refused here",
	"addrtype --limit-iface-out":          "the way out is a bridge here, which has no addresses of its own to ask about",
	"-j TCPMSS --clamp-mss-to-pmtu":       "the taps' MTU leaves nothing to clamp: TestChanges of package dataplane",
	"set":                                 "sets must be made before: see TestSets",
	"SET":                                 "sets must be made before: see TestSets",
	"rt --rt-segsleft":                    "seldom: TestRandom of package rules",
	"rt --rt-len":                         "seldom: TestRandom of package rules",
	"frag --fragres":                      "fragments that are judged by themselves are few: TestRandom of package rules",
	"frag --fragid":                       "fragments that are judged by themselves are few: TestRandom of package rules",
	"frag --fraglen":                      "fragments that are judged by themselves are few: TestRandom of package rules",
	"frag --fragfirst":                    "fragments that are judged by themselves are few: TestRandom of package rules",
	"frag --fragmore":                     "fragments that are judged by themselves are few: TestRandom of package rules",
	"frag --fraglast":                     "fragments that are judged by themselves are few: TestRandom of package rules",
	"srh":                                 "see TestRare",
	"policy":                              "see TestRare",
	"owner":                               "see TestRare",
	"realm":                               "see TestRare",
	"socket":                              "see TestRare",
	"cgroup --cgroup":                     "see TestRare",
	"cgroup --path":                       "the path must be one of the machine's, and fails all the same",
	"socket --restore-skmark":             "it says what to do with the mark of a socket, of which there are none",
	"rt --rt-0-addrs":                     "see TestRare",
	"rt --rt-0-not-strict":                "see TestRare",
	"ipvs":                                "the kernel at hand has no such module: the answer is that of net/netfilter/xt_ipvs.c, TestAbsent of package rules",
	"nfacct":                              "accounts must be made before, and it holds for every packet",
	"bpf --object-pinned":                 "refused here",
	"IDLETIMER":                           "it counts alone",
	"LED":                                 "it counts alone, and the kernel at hand has no such target",
	"RATEEST":                             "it counts alone",
	"TEE":                                 "it counts alone",
	"TRACE":                               "it counts alone",
	"ULOG":                                "it counts alone, and Linux has no such target",
}

// areas are what some frame at least must be, see coverage.frame.
func areas() []string {
	list := []string{"all tables", "no sound IP", "IPv6 protocol 58", "IPv6 protocol 135", "IPv4 protocol 51", "IPv6 later fragment by itself", "IPv6 headers without end",
		"IPv6 header 0", "IPv6 header 43", "IPv6 header 44", "IPv6 header 51", "IPv6 header 60", "IPv6 dropped by a rule of security"}
	for _, version := range []string{"IPv4 ", "IPv6 "} {
		for _, a := range []string{"NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED", "VLAN", "fragment", "ICMP error RELATED", "ICMP error INVALID", "protocol 1", "protocol 6", "protocol 17",
			"protocol 33", "protocol 47", "protocol 50", "protocol 132", "protocol 136", "dropped by a rule of raw", "dropped by a rule of mangle", "dropped by a rule of filter",
			"dropped by a policy", "dropped by short header"} {
			if version+a != "IPv6 protocol 1" {
				list = append(list, version+a)
			}
		}
	}
	return list
}

// newTestJudges makes judges that are closed with the test.
func newTestJudges(t *testing.T) *judges {
	t.Helper()
	need(t)
	j, err := newJudges()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

// seeds are what rule sets are generated from: a fixed seed, and with -oracle.random one more. A check that a change must
// pass has to fail for that change alone, so looking for new differences is left to whoever asks for it.
func seeds() map[string]uint64 {
	s := map[string]uint64{"fixed": *ruleset}
	if *random {
		s["random"] = rand.Uint64N(1 << 32)
	}
	return s
}

// Generated rule sets and frames, with a fixed seed and, if asked, with one at random, which the log has.
func TestRulesets(t *testing.T) {
	j := newTestJudges(t)
	n := *judged
	if testing.Short() {
		n /= 4
	}
	for name, seed := range seeds() {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			s, err := j.generated(seed, n, 1)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range s.Differences {
				t.Errorf("seed %d: %s", seed, d)
			}
			if s.Pairs < n && len(s.Differences) == 0 {
				t.Errorf("only %d pairs", s.Pairs)
			}
			var b strings.Builder
			s.print(&b)
			if seed == defaultSeed && !testing.Short() && len(s.Differences) == 0 {
				for _, a := range areas() {
					if s.cover.areas[a] == 0 {
						t.Errorf("%s: no frame is such", a)
					}
				}
				never, oneSided := s.cover.missing()
				for _, option := range oneSided {
					t.Errorf("%s", option)
				}
				for _, option := range never {
					if module, _, _ := strings.Cut(strings.TrimPrefix(option, "-j "), " "); unexercised[module] == "" && unexercised[option] == "" {
						t.Errorf("%s decided nothing: the generator does not make it, or no frame gets there", option)
					}
				}
			}
			t.Logf("seed %d, %v:\n%s", seed, time.Since(begin).Round(time.Millisecond), b.String())
		})
	}
}

// A rule that one side has differently is found, and the rule set and the frames are cut down to what shows it.
func TestRulesetsFindsDifferences(t *testing.T) {
	j := newTestJudges(t)
	var x *trial
	var r trialResult
	for seed := uint64(0); r.difference == nil; seed++ {
		if seed == 20 {
			t.Fatal("no difference was found")
		}
		x = generatedTrial(seed)
		x.marshal = spoiled
		var err error
		if r, err = j.run(x); err != nil {
			t.Fatal(err)
		}
	}
	small, err := j.shrink(x, r.difference)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(small.text, "-A "); n > 4 || len(small.frames) > 3 {
		t.Errorf("%d rules and %d frames are left:\n%s", n, len(small.frames), small.text)
	}
}

// spoiled gives the kernel rules that drop what should be accepted.
func spoiled(f *rules.File, family rules.Family) []byte {
	return bytes.ReplaceAll(kernelText(f, family), []byte("-j ACCEPT"), []byte("-j DROP"))
}

func TestWords(t *testing.T) {
	got := optionsOf(`[1:2] -A x ! -s 1.2.3.4 -p tcp -m tcp ! --dport 5 --syn -m comment --comment "a --b \" c" -j LOG --log-prefix "x y"`)
	want := []string{"! -s", "-p", "tcp ! --dport", "tcp --syn", "comment --comment", "-j LOG", "-j LOG --log-prefix"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// Every rule file from the field that is there.
func TestDumps(t *testing.T) {
	list, others, err := readDumps(filepath.Join(data, "iptables"))
	if err != nil {
		t.Skipf("no rule files from outside: %v", err)
	}
	if testing.Short() {
		list = list[:len(list)/8]
	}
	j := newTestJudges(t)
	s, err := j.dumps(list, *ruleset, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range s.Differences {
		t.Error(d)
	}
	var b strings.Builder
	s.print(&b)
	t.Logf("%d files, %d more are no dumps\n%s", len(list), others, b.String())
}
