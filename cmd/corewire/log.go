package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"corewire/internal/control"
)

func newLog() *cobra.Command {
	f := control.LogFilter{}
	var asJSON bool
	var capture string
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Print what LOG and NFLOG rules have logged",
		Long: `Print the packets that LOG and NFLOG rules of the running firewall have logged, the oldest
that are kept first (setting log-history), in the form of the kernel's log:

  2026-11-23T10:00:00.000000Z bad: IN=eth1 OUT=eth2 MAC=… SRC=192.0.2.1 DST=… PROTO=TCP …

With --follow it goes on with those that come. --pcapng writes the packets themselves, with
the rule and its prefix as comments, for tcpdump, Wireshark and the like. What the settings
log-capture and log-rate say about files and the process's own log has nothing to do with it.

With nf_conntrack_log_invalid=255 (corewire sysctl) packets that are INVALID are there too, with the
check that failed.`,
		Example: `  corewire log -n 20
  corewire log --follow --prefix "drop "
  corewire log --follow --group 5 --pcapng - | tcpdump -n -r -`,
		Args: cobra.NoArgs,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			switch {
			case asJSON && capture != "":
				return &usageError{errors.New("--json and --pcapng are two forms: give one of them")}
			case f.Group > 65535 || f.Group < -1:
				return &usageError{fmt.Errorf("--group is %d: expected 0 to 65535, or -1 for any", f.Group)}
			case f.Last < -1:
				return &usageError{fmt.Errorf("--lines is %d: expected 0 or more, or -1 for all", f.Last)}
			case f.Target != "" && f.Target != "LOG" && f.Target != "NFLOG" && f.Target != "INVALID":
				return &usageError{fmt.Errorf("--target is %q: expected LOG, NFLOG or INVALID", f.Target)}
			case asJSON:
				f.Format = control.FormatJSON
			}
			f.Stamped = true
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return printLog(ctx, c, f, capture, cmd.OutOrStdout(), cmd.ErrOrStderr())
		}),
	}
	addSocket(cmd.Flags())
	flags := cmd.Flags()
	flags.BoolVarP(&f.Follow, "follow", "f", false, "go on with packets that come, until interrupted")
	flags.IntVarP(&f.Last, "lines", "n", -1, "only the last so many of those asked for; -1 = all that are kept")
	flags.StringVar(&f.Target, "target", "", "LOG, NFLOG or INVALID only")
	flags.StringVar(&f.Prefix, "prefix", "", "only rules whose --log-prefix or --nflog-prefix begins so")
	flags.IntVarP(&f.Group, "group", "g", -1, "only NFLOG rules of this --nflog-group; -1 = any")
	flags.BoolVar(&asJSON, "json", false, "print a JSON object a line, with the frame")
	flags.StringVar(&capture, "pcapng", "", "write a capture to this file; - is standard output")
	return cmd
}

// printLog writes the log to w, or to the capture file.
func printLog(ctx context.Context, c *control.Client, f control.LogFilter, capture string, w, stderr io.Writer) (err error) {
	lost := func(n uint64) {
		fmt.Fprintf(stderr, "%d packets missed: they came faster than they were read (setting log-history)\n", n)
	}
	switch capture {
	case "":
		return c.Log(ctx, f, w, lost)
	case "-":
		f.Format = control.FormatCapture
		return c.Log(ctx, f, w, lost)
	}
	f.Format = control.FormatCapture
	file, err := os.Create(capture)
	if err != nil {
		return fmt.Errorf("write capture: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return c.Log(ctx, f, file, lost)
}
