package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"corewire/tools/lab"
)

// ovsSchema is where Debian's openvswitch-switch has the database's schema.
const ovsSchema = "/usr/share/openvswitch/vswitch.ovsschema"

// ovsBridge is the one that the wire's ports are in.
const ovsBridge = "br0"

// missingOVS says what of Open vSwitch is not installed; "" if nothing.
func missingOVS() string {
	for _, command := range []string{"ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl", "ovs-appctl"} {
		if _, err := exec.LookPath(command); err != nil {
			return command + " is not installed"
		}
	}
	if _, err := os.Stat(ovsSchema); err != nil {
		return err.Error()
	}
	return ""
}

// startOVS runs Open vSwitch with its userspace datapath over AF_XDP and its own connection tracking
// (Documentation/intro/install/afxdp.rst and Documentation/tutorials/ovs-conntrack.rst of its source): database and switch live
// in dir and the wire's namespace, and one thread polls both ports on the subject's processor. It always polls, so that
// its processor time says something at full load alone.
func startOVS(ctx context.Context, l *lab.Lab, dir string, n int) (r running, err error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	database := "unix:" + at("db.sock")
	do := func(stdin []byte, words ...string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, words[0], words[1:]...)
		cmd.Env = append(os.Environ(), "OVS_RUNDIR="+dir)
		cmd.Stdin = bytes.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, bytes.TrimSpace(out))
		}
		return out, nil
	}
	setup := func(words ...string) error {
		_, err := do(nil, append([]string{"ovs-vsctl", "--db=" + database, "--timeout=" + strconv.Itoa(int(patience.Seconds()))}, words...)...)
		return err
	}
	if _, err := do(nil, "ovsdb-tool", "create", at("conf.db"), ovsSchema); err != nil {
		return r, err
	}
	var ends []func() error
	stop := func() error {
		var errs []error
		for i := len(ends) - 1; i >= 0; i-- {
			errs = append(errs, ends[i]())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	// Either ends when it is told so, with status 0. A signal would be the end that it died of.
	start := func(control string, leave []string, words ...string) (*process, error) {
		cmd := exec.Command(words[0], append(words[1:], "--unixctl="+at(control), "--pidfile="+at(control+".pid"))...)
		cmd.Env = append(os.Environ(), "OVS_RUNDIR="+dir)
		p, err := startProcess(l, cmd)
		if err != nil {
			return nil, err
		}
		tell := func(words ...string) error {
			_, err := do(nil, append([]string{"ovs-appctl", "-t", at(control)}, words...)...)
			return err
		}
		ends = append(ends, func() error {
			if err := tell(leave...); err != nil {
				return errors.Join(err, p.stop())
			}
			return p.wait()
		})
		return p, p.until(ctx, func() error { return tell("version") })
	}
	if _, err := start("db.ctl", []string{"exit"}, "ovsdb-server", at("conf.db"), "--remote=p"+database); err != nil {
		return r, err
	}
	if err := setup("--no-wait", "init"); err != nil {
		return r, err
	}
	if err := setup("--no-wait", "set", "Open_vSwitch", ".", fmt.Sprintf("other_config:pmd-cpu-mask=%#x", 1<<subjectCPU)); err != nil {
		return r, err
	}
	p, err := start("switch.ctl", []string{"exit", "--cleanup"}, "ovs-vswitchd", database)
	if err != nil {
		return r, err
	}
	if err := setup("add-br", ovsBridge, "--", "set", "bridge", ovsBridge, "datapath_type=netdev", "fail-mode=secure"); err != nil {
		return r, err
	}
	for i, port := range []string{lab.InsidePort, lab.OutPort} {
		if err := setup("add-port", ovsBridge, port, "--", "set", "interface", port, "type=afxdp", "options:n_rxq=1", "options:xdp-mode=native",
			"ofport_request="+strconv.Itoa(i+1)); err != nil {
			return r, err
		}
	}
	if _, err := do(ovsFlows(n), "ovs-ofctl", "add-flows", ovsBridge, "-"); err != nil {
		return r, err
	}
	count := func() (int, error) {
		out, err := do(nil, "ovs-appctl", "-t", at("switch.ctl"), "dpctl/ct-get-nconns")
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(string(bytes.TrimSpace(out)))
	}
	flush := func() error {
		_, err := do(nil, "ovs-appctl", "-t", at("switch.ctl"), "dpctl/flush-conntrack")
		return err
	}
	return running{stop, count, flush, []int{p.cmd.Process.Pid}}, nil
}

// ovsFlows returns the same rules as iptablesRules as OpenFlow's, in the order of their priorities. The n rules have one
// priority: no two of them match the same frame.
func ovsFlows(n int) []byte {
	var b bytes.Buffer
	flow := func(table, priority int, match, actions string) {
		fmt.Fprintf(&b, "table=%d,priority=%d%s,actions=%s\n", table, priority, match, actions)
	}
	// both is a flow for either port: what comes in on one leaves through the other.
	both := func(table, priority int, match, before string) {
		flow(table, priority, ",in_port=1"+match, before+"output:2")
		flow(table, priority, ",in_port=2"+match, before+"output:1")
	}
	const fresh = "ct(commit),"
	flow(0, 2, ",ip,ct_state=-trk", "ct(table=1)")
	both(0, 1, "", "")
	both(1, 80, ",ip,ct_state=+trk+est", "")
	both(1, 80, ",ip,ct_state=+trk+rel", "")
	flow(1, 70, ",ip,ct_state=+trk+inv", "drop")
	for i := range n {
		addr, port := blockedHost(i)
		flow(1, 60, fmt.Sprintf(",udp,nw_src=%s,tp_dst=%d", addr, port), "drop")
	}
	flow(1, 50, ",ip,nw_src=192.0.2.0/24", "drop")
	both(1, 40, ",icmp,icmp_type=8", fresh)
	for _, service := range []string{"tcp,tp_dst=22", "tcp,tp_dst=80", "tcp,tp_dst=443", "udp,tp_dst=53", "tcp,tp_dst=9000", "udp,tp_dst=9000"} {
		both(1, 30, ",ct_state=+trk+new,nw_dst=10.73.0.0/24,"+service, fresh)
	}
	flow(1, 0, "", "drop")
	return b.Bytes()
}
