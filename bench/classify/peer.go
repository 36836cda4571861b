package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// peer is DPDK's side: dpdk-test-acl with a set and a trace in files.
type peer struct {
	tool    string
	dir     string
	rules   int
	headers int
	step    int
}

// newPeer writes the files; the caller removes dir.
func newPeer(tool, dir string, set, headers []tuple, step int) (*peer, error) {
	p := &peer{tool: tool, dir: dir, rules: len(set), headers: len(headers), step: step}
	if err := os.WriteFile(filepath.Join(dir, "rules"), classBenchText(set), 0o600); err != nil {
		return nil, err
	}
	return p, os.WriteFile(filepath.Join(dir, "trace"), traceText(headers), 0o600)
}

// outcome is what one run of the peer tells.
type outcome struct {
	ns    float64       // a lookup
	bytes int           // of the run-time structure
	build time.Duration // from its last start-up line to the log of the finished structure
	rules []int         // first match by header, when asked for; the number of rules for none
}

var (
	packetsASecond = regexp.MustCompile(`([0-9.]+) pkt/sec`)
	footprint      = regexp.MustCompile(`(?m)^total: ([0-9]+) bytes`)
	resultLine     = regexp.MustCompile(`^ipv4_5tuple: ([0-9]+), category: 0, result: ([0-9]+)`)
)

// run starts the peer once.
func (p *peer) run(alg string, passes int, answers bool) (*outcome, error) {
	verbose := "0"
	if answers {
		verbose = "2"
	}
	cmd := exec.Command(p.tool, "--no-huge", "-m", "4096", "--no-pci", "--no-telemetry", "--no-shconf", "-l", "0", "--log-level=lib.acl:debug", "--",
		"--rulesf="+filepath.Join(p.dir, "rules"), "--tracef="+filepath.Join(p.dir, "trace"), "--rulenum="+strconv.Itoa(p.rules+1), "--tracenum="+strconv.Itoa(p.headers),
		"--tracestep="+strconv.Itoa(p.step), "--bldcat=1", "--runcat=1", "--iter="+strconv.Itoa(passes), "--alg="+alg, "--verbose="+verbose)
	var stdout, log bytes.Buffer
	cmd.Stdout = &stdout
	pipe, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	out := &outcome{}
	begin := time.Now()
	for s := bufio.NewReader(pipe); ; {
		line, err := s.ReadString('\n')
		switch {
		case bytes.HasPrefix([]byte(line), []byte("EAL:")):
			begin = time.Now()
		case bytes.HasPrefix([]byte(line), []byte("ACL: Gen phase")):
			out.build = time.Since(begin)
		}
		log.WriteString(line)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if err := cmd.Wait(); err != nil {
		lines := bytes.Split(bytes.TrimSpace(log.Bytes()), []byte("\n"))
		return nil, fmt.Errorf("dpdk-test-acl: %w: %s", err, lines[len(lines)-1])
	}
	m := packetsASecond.FindSubmatch(stdout.Bytes())
	total := footprint.FindSubmatch(log.Bytes())
	if m == nil || total == nil {
		return nil, fmt.Errorf("dpdk-test-acl: no figures in what it printed")
	}
	rate, _ := strconv.ParseFloat(string(m[1]), 64)
	out.ns = 1e9 / rate
	out.bytes, _ = strconv.Atoi(string(total[1]))
	if answers {
		out.rules = slices.Repeat([]int{p.rules}, p.headers) // headers that no rule holds have no line
		for line := range bytes.Lines(stdout.Bytes()) {
			m := resultLine.FindSubmatch(line)
			if m == nil {
				continue
			}
			i, _ := strconv.Atoi(string(m[1]))
			n, _ := strconv.Atoi(string(m[2]))
			if i < 1 || i > p.headers {
				return nil, fmt.Errorf("dpdk-test-acl: a result for header %d", i)
			}
			out.rules[i-1] = n
		}
	}
	return out, nil
}

// algorithms are those of the peer that the processor has, slowest first.
func algorithms(cpuFlags string) []string {
	have := bytes.Fields([]byte(cpuFlags))
	has := func(f string) bool {
		return slices.ContainsFunc(have, func(b []byte) bool { return string(b) == f })
	}
	out := []string{"scalar"}
	if has("avx2") {
		out = append(out, "avx2")
	}
	if has("avx512f") && has("avx512vl") && has("avx512cd") && has("avx512bw") { // lib/acl/rte_acl.c, acl_check_alg_x86
		out = append(out, "avx512x16") // its x32 wants more fields than IPv4 rules have
	}
	return out
}
