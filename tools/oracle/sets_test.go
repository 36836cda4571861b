package main

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

var setPairs = flag.Int("oracle.sets", 8_000, "pairs of a generated rule set with IP sets and a frame")

// Rules with IP sets: matches and the target SET in all tables, verdict and counters after each frame, and what ipset save
// prints at the end.
func TestSets(t *testing.T) {
	j := newTestJudges(t)
	if _, err := exec.LookPath("ipset"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no ipset here (Debian package ipset)")
		}
		t.Skip("no ipset here (Debian package ipset): the kernel's sets cannot be asked")
	}
	kinds, err := j.setKinds()
	if err != nil {
		t.Fatal(err)
	}
	n := *setPairs
	if testing.Short() {
		n /= 4
	}
	for name, seed := range seeds() {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			s := newRuleSummary(seed)
			j.cover = s.cover
			defer func() { j.cover = nil }()
			paused := 0
			for i := uint64(0); s.Pairs < n && len(s.Differences) == 0; i++ {
				pause := i == 2 && name == "fixed" || i == 3 && name == "random"
				x, err := setTrial(seed<<20+i, kinds, pause)
				if err != nil {
					t.Fatal(err)
				}
				err = j.judge(s, x)
				if errors.Is(err, errSlow) {
					t.Logf("%s: %v", x.name, err)
					continue
				}
				if err != nil {
					t.Fatalf("%v\n%s%s", err, x.sets, x.text)
				}
				if pause {
					paused++
				}
			}
			for _, d := range s.Differences {
				t.Errorf("seed %d: %s", seed, d)
			}
			if seed == defaultSeed && !testing.Short() && len(s.Differences) == 0 {
				never, _ := s.cover.missing()
				for _, option := range never {
					module, _, _ := strings.Cut(strings.TrimPrefix(option, "-j "), " ")
					if strings.EqualFold(module, "set") && option != "-j SET --map-prio" && option != "-j SET --map-queue" {
						t.Errorf("%s decided nothing: the generator does not make it, or no frame gets there", option)
					}
				}
			}
			var b strings.Builder
			s.print(&b)
			var set []string
			for line := range strings.Lines(b.String()) {
				if strings.HasPrefix(line, "set ") || strings.HasPrefix(line, "-j SET") || len(set) == 0 {
					set = append(set, line)
				}
			}
			t.Logf("seed %d, kinds %s, %d trials with a pause, %v:\n%s", seed, strings.Join(kinds, " "), paused, time.Since(begin).Round(time.Millisecond), strings.Join(set, ""))
		})
	}
}
