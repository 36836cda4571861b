package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"corewire/tools/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// Exit statuses, see doc.go.
const (
	exitSeen        = 0
	exitNotSeen     = 1
	exitUsage       = 2
	exitInterrupted = 130 // 128 + SIGINT, as shells report it
)

// options are the command line.
type options struct {
	binary  string
	stay    bool
	json    bool
	keepLog string
	size    int64 // bytes of each download
	queues  int
	workers int
	metrics string // address for --stay, outside the lab
}

// run is the whole command; it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	var megabytes int
	flags := pflag.NewFlagSet("demo", pflag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.binary, "corewire", "bin/corewire", "the binary to show")
	flags.BoolVar(&o.stay, "stay", false, "keep the lab up afterwards, and print commands to try in it")
	flags.BoolVar(&o.json, "json", false, "print one JSON object instead of text")
	flags.StringVar(&o.keepLog, "keep-log", "", "write corewire's log to this file")
	flags.IntVar(&megabytes, "megabytes", 50, "size of each download (1 to 10000)")
	flags.IntVar(&o.queues, "queues", 1, "receive and transmit queues of each interface (1 to 64)")
	flags.IntVar(&o.workers, "workers", 0, "corewire's workers; 0 leaves the choice to it")
	flags.StringVar(&o.metrics, "metrics-addr", "127.0.0.1:9180", "with --stay: where the firewall's metrics can be read outside the lab")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return exitSeen
		}
		fmt.Fprintln(stderr, "demo:", err)
		return exitUsage
	}
	if flags.NArg() > 0 || megabytes < 1 || megabytes > 10000 || o.queues < 1 || o.queues > 64 {
		fmt.Fprintln(stderr, "demo: no arguments are taken, --megabytes is 1 to 10000, --queues is 1 to 64 (see --help)")
		return exitUsage
	}
	o.size = int64(megabytes) * 1_000_000

	out := newReport(stdout, o.json)
	err := show(ctx, o, out, stdout)
	switch {
	case ctx.Err() != nil && !out.finished:
		fmt.Fprintln(stderr, "demo: interrupted; everything is cleaned up")
		return exitInterrupted
	case err != nil:
		out.close()
		fmt.Fprintln(stderr, "demo:", err)
		return exitNotSeen
	}
	if !out.close() {
		return exitNotSeen
	}
	return exitSeen
}

// show makes the lab, goes through the steps and cleans up. Its error is about what prevented a step from being tried.
func show(ctx context.Context, o options, out *report, stdout io.Writer) (err error) {
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return fmt.Errorf("find %s: %w", o.binary, err)
	}
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("find the firewall: %w (run make build first)", err)
	}
	dir, err := workDirectory()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	l, err := lab.New(lab.Config{Queues: o.queues})
	if err != nil {
		return fmt.Errorf("make the lab: %w", err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()

	hosts, err := newHosts(ctx, l, o.size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hosts.close()) }()

	fw, err := newFirewall(l, binary, dir, o)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, fw.stop())
		if o.keepLog != "" {
			err = errors.Join(err, fw.saveLog(o.keepLog))
		}
	}()

	for _, s := range steps(l, hosts, fw, o) {
		if ctx.Err() != nil {
			return nil
		}
		if !out.step(ctx, s) && s.vital {
			fw.complain(out)
			return nil
		}
	}
	out.finished = true
	if o.stay {
		out.close() // the verdict, before the lab is handed over
		return stay(ctx, l, fw, o, out, stdout)
	}
	return nil
}

// workPrefix is the beginning of the name of the directory that holds a demo's files; the process's number follows.
const workPrefix = "cw-demo-"

// workDirectory makes the demo's directory, and removes those of demos that were killed.
func workDirectory() (string, error) {
	old, _ := filepath.Glob(filepath.Join(os.TempDir(), workPrefix+"*"))
	for _, dir := range old {
		number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), workPrefix), "-")
		if pid, err := strconv.Atoi(number); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir) // somebody else's leftover: not being able to remove it is no reason to stop
		}
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", workPrefix, os.Getpid()))
	if err != nil {
		return "", fmt.Errorf("make a directory for rules, log and socket: %w", err)
	}
	return dir, nil
}

// patience is how long something that must happen may take before it counts as not observed. It is no measurement:
// what works takes milliseconds, and a machine that is busy with other things must not fail the demo.
const patience = 10 * time.Second
