package dataplane_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"corewire/conntrack"
	"corewire/dataplane"
	"corewire/ring"
	"corewire/rules"
	"corewire/tools/lab"
)

// programRules let the inside begin control connections, and nothing else that is not announced by one.
const programRules = `*filter
:FORWARD DROP [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -p ipv6-icmp -m conntrack --ctstate UNTRACKED -j ACCEPT
-A FORWARD -i inside -p tcp -m multiport --dports 21,5060 -m conntrack --ctstate NEW -j ACCEPT
-A FORWARD -i inside -p udp -m multiport --dports 69,5060 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
`

// programs is a lab with a firewall between two hosts that run real programs.
type programs struct {
	*lab.Lab
	t   *testing.T
	e   *dataplane.Engine
	ctx context.Context
}

// newPrograms needs the programs of that name. Without one the test is skipped, in CI it fails; .ci/run installs them.
func newPrograms(t *testing.T, names ...string) *programs {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%v (.ci/run installs it)", err)
			}
			t.Skipf("%v (.ci/run installs it)", err)
		}
	}
	p := &programs{Lab: lab.Need(t, lab.Config{Queues: 2}), t: t}
	var link *ring.Link
	dir := t.TempDir()
	if err := p.Do(lab.Wire, func() (err error) {
		link, err = ring.Open(ring.Config{Inside: lab.InsidePort, Outside: lab.OutPort, Chunks: 4096, StatePath: dir + "/state.json"})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	f, err := rules.Parse("programs.rules", []byte(programRules), rules.Both)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rules.Compile([]*rules.File{f}, rules.Options{})
	if err != nil {
		t.Fatal(err)
	}
	settings, err := conntrack.DefaultSettings().WithHelpers("1")
	if err != nil {
		t.Fatal(err)
	}
	if p.e, err = dataplane.New(dataplane.Config{Wires: link.Wires(), Ruleset: rs, Settings: settings, Max: 1 << 14, Beat: link.Beat}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.ctx = ctx
	done := make(chan error, 1)
	go func() { done <- p.e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := p.Do(lab.Wire, link.Close); err != nil {
			t.Error(err)
		}
		if err := p.e.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// start starts a program that runs until the test ends, and shows what it said if the test failed.
func (p *programs) start(w lab.Where, name string, args ...string) {
	p.t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := p.Start(w, cmd); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if p.t.Failed() && out.Len() > 0 {
			p.t.Logf("%s said:\n%s", name, out.Bytes())
		}
	})
}

// fetch runs curl on the client until it succeeds, for a server that is not up yet, and compares what it got.
func (p *programs) fetch(want []byte, args ...string) {
	p.t.Helper()
	var got, complaint bytes.Buffer
	var err error
	for range 20 {
		got.Reset()
		complaint.Reset()
		cmd := exec.Command("curl", append([]string{"--silent", "--show-error", "--globoff", "--max-time", "30", "--connect-timeout", "10", "--output", "-"}, args...)...)
		cmd.Stdout, cmd.Stderr = &got, &complaint
		const cannotConnect = 7 // curl(1), EXIT CODES
		var exit *exec.ExitError
		if err = p.Run(lab.Client, cmd); !errors.As(err, &exit) || exit.ExitCode() != cannotConnect {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil || !bytes.Equal(got.Bytes(), want) {
		p.t.Errorf("curl %s: %v, %d bytes, want %d: %s", strings.Join(args, " "), err, got.Len(), len(want), complaint.Bytes())
	}
}

// expected returns the connections that were expected.
func (p *programs) expected() (related []conntrack.Info) {
	p.t.Helper()
	if err := p.e.Connections(p.ctx, func(infos []conntrack.Info) error {
		for i := range infos {
			if _, ok := infos[i].MasterTuple(); ok {
				related = append(related, infos[i])
			}
		}
		return nil
	}); err != nil {
		p.t.Fatal(err)
	}
	return related
}

// masters checks that n connections were expected, all by connections to that port.
func (p *programs) masters(n int, port uint16) {
	p.t.Helper()
	list := p.expected()
	for i := range list {
		if m, _ := list[i].MasterTuple(); m.DstPort != port {
			p.t.Errorf("%+v has master %+v", list[i].Tuple(conntrack.Original), m)
		}
	}
	if len(list) != n {
		p.t.Errorf("%d connections were expected, want %d", len(list), n)
	}
	if _, err := p.e.Flush(p.ctx); err != nil {
		p.t.Fatal(err)
	}
}

// TestFTPPrograms moves files between vsftpd and curl, actively and passively, with the old and the extended commands, over
// both families. Data connections pass only because they are RELATED.
func TestFTPPrograms(t *testing.T) {
	p := newPrograms(t, "vsftpd", "curl")
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	for _, err := range []error{os.Chmod(dir, 0o755), os.Mkdir(root, 0o755), os.Mkdir(dir+"/empty", 0o755), os.WriteFile(root+"/file", want, 0o644), os.Chmod(filepath.Dir(dir), 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for family, listen := range map[int]string{4: "listen=YES\nlisten_ipv6=NO\nlisten_address=", 6: "listen=NO\nlisten_ipv6=YES\nlisten_address6="} {
		conf := fmt.Sprintf("%s/vsftpd%d.conf", dir, family)
		text := listen + p.Addr(lab.Server, family).String() + "\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\nwrite_enable=NO\nanon_root=" + root +
			"\nsecure_chroot_dir=" + dir + "/empty\nseccomp_sandbox=NO\nxferlog_enable=NO\nconnect_from_port_20=NO\n"
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p.start(lab.Server, "vsftpd", conf)
	}
	n := 0
	for _, family := range []int{4, 6} {
		url := "ftp://" + netip.AddrPortFrom(p.Addr(lab.Server, family), 21).String() + "/file"
		own := p.Addr(lab.Client, family).String()
		for _, args := range [][]string{nil, {"--disable-epsv"}, {"--ftp-port", own}, {"--ftp-port", own, "--disable-eprt"}} {
			if family == 6 && (len(args) == 1 || len(args) == 3) {
				continue // PASV and PORT are of IPv4
			}
			n++
			p.fetch(want, append(args, url)...)
		}
	}
	p.masters(n, 21)
	s, err := p.e.Stats(p.ctx)
	if err != nil || s.Expect.New != uint64(n) {
		t.Errorf("%+v %v", s.Expect, err)
	}
}

// TestTFTPPrograms reads a file from tftpd, which answers from a port of its own choice.
func TestTFTPPrograms(t *testing.T) {
	p := newPrograms(t, "in.tftpd", "curl")
	dir := t.TempDir()
	want := bytes.Repeat([]byte("0123456789abcdef"), 300)
	for _, err := range []error{os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755), os.WriteFile(dir+"/file", want, 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, family := range []int{4, 6} {
		at := netip.AddrPortFrom(p.Addr(lab.Server, family), 69)
		p.start(lab.Server, "in.tftpd", "--foreground", fmt.Sprintf("-%d", family), "--address", at.String(), "--secure", "--user", "nobody", dir)
		p.fetch(want, "tftp://"+at.String()+"/file")
	}
	p.masters(2, 69)
}

// TestSIPPrograms lets sipp call sipp, over UDP and over TCP: while the call lasts its media passes in both directions, before
// and after it does not.
func TestSIPPrograms(t *testing.T) {
	for transport, flag := range map[string]string{"udp": "u1", "tcp": "t1"} {
		t.Run(transport, func(t *testing.T) {
			p := newPrograms(t, "sipp")
			client, server := p.Addr(lab.Client, 4), p.Addr(lab.Server, 4)
			dir := t.TempDir()
			t.Chdir(dir) // sipp writes its logs where it is
			common := []string{"-nostdin", "-t", flag, "-p", "5060"}
			p.start(lab.Server, "sipp", append([]string{"-sn", "uas", "-i", server.String(), "-mi", server.String(), "-mp", "7000"}, common...)...)
			media := func() {
				for _, d := range []struct {
					from lab.Where
					to   netip.AddrPort
				}{{lab.Server, netip.AddrPortFrom(client, 6000)}, {lab.Client, netip.AddrPortFrom(server, 7000)}} {
					c, err := p.Dial(p.ctx, d.from, "udp", d.to.String())
					if err != nil {
						t.Fatal(err)
					}
					c.Write([]byte("media"))
					c.Close()
				}
			}
			media()
			time.Sleep(200 * time.Millisecond)
			if n := len(p.expected()); n != 0 {
				t.Fatalf("%d connections are expected before the call", n)
			}
			p.start(lab.Client, "sipp", append([]string{"-sn", "uac", "-i", client.String(), "-mi", client.String(), "-mp", "6000", "-d", "3000", "-m", "1", server.String() + ":5060"}, common...)...)
			wait := func(what string, met func() bool) {
				t.Helper()
				for deadline := time.Now().Add(20 * time.Second); !met(); time.Sleep(20 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("waited in vain until %s", what)
					}
				}
			}
			listed := func() (lines []string) {
				if err := p.e.Expectations(p.ctx, func(infos []conntrack.ExpectInfo) error {
					for i := range infos {
						lines = append(lines, string(infos[i].AppendLine(nil, conntrack.FormatProc)))
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				return lines
			}
			wait("both ends' media is expected", func() bool { return len(listed()) == 4 })
			media()
			wait("the media has passed", func() bool { return len(p.expected()) == 2 })
			wait("the call has ended", func() bool { return len(listed()) == 0 })
			p.masters(2, 5060)
			media()
			time.Sleep(200 * time.Millisecond)
			if n := len(p.expected()); n != 0 {
				t.Errorf("%d connections are expected after the call", n)
			}
		})
	}
}
