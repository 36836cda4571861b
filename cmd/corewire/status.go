package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"corewire/internal/control"
)

func newStatus() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what runs, and how the interfaces are really driven",
		Args:  cobra.NoArgs,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			s, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			return printStatus(cmd.OutOrStdout(), &s)
		}),
	}
	addSocket(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printStatus writes what `corewire run` says on its start as well: what was got, not what was asked for.
func printStatus(w io.Writer, s *control.Status) error {
	var b strings.Builder
	fmt.Fprintf(&b, "corewire %s, process %d", s.Version, s.PID)
	if up := time.Duration(s.Uptime * float64(time.Second)).Truncate(time.Second); up > 0 {
		fmt.Fprintf(&b, ", up %v", up)
	}
	fmt.Fprintf(&b, ", %s, %s in force\n", number(s.Workers, "worker"), number(s.Rules, "rule"))
	queues, shared := 0, 0
	for _, p := range s.Wire.Ports {
		queues += p.Queues
		shared += p.SharedUMEM
		state := "link up"
		if !p.Up {
			state = "link down"
		}
		fmt.Fprintf(&b, "%-8s %s (%s, mtu %d, %s): XDP %s, %s, %s, need_wakeup %s, tx budget %d\n",
			p.Port, p.Interface, orUnknown(p.Driver), p.MTU, state, p.XDPMode, copyWords(p.CopyMode), number(p.Queues, "queue"),
			onQueues(p.NeedWakeup, p.Queues), p.TXBudget)
		if p.TakenOver {
			b.WriteString("         taken over from a process that was killed\n")
		}
		for _, c := range p.Changed {
			fmt.Fprintf(&b, "         %s (restored at the end)\n", c)
		}
		for _, n := range p.Notes {
			fmt.Fprintf(&b, "         note: %s\n", n)
		}
	}
	if s.Wire.Driver != "" {
		fmt.Fprintf(&b, "driver   %s, chunks of %d bytes", s.Wire.Driver, s.Wire.ChunkSize)
		if shared == queues-1 { // all but the one that registered it
			b.WriteString(", one UMEM for all queues of both ports")
		}
		if s.Wire.Fallback != "" {
			fmt.Fprintf(&b, " (%s)", s.Wire.Fallback)
		}
		b.WriteByte('\n')
	}
	effect := "frames are dropped"
	if s.Wire.FailMode == "open" {
		effect = "frames pass unseen"
	}
	fmt.Fprintf(&b, "fails    %s: %s while no worker is alive", s.Wire.FailMode, effect)
	if s.Wire.Heartbeat > 0 {
		fmt.Fprintf(&b, " (silent for %v)", time.Duration(s.Wire.Heartbeat*float64(time.Second)))
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

func number(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func onQueues(n, all int) string {
	switch n {
	case 0:
		return "off"
	case all:
		return "on"
	}
	return fmt.Sprintf("on %d of %d", n, all)
}

func copyWords(mode string) string {
	switch mode {
	case "copy":
		return "copy mode"
	case "zerocopy":
		return "zero copy"
	}
	return mode
}

func orUnknown(s string) string {
	if s == "" {
		return "driver unknown"
	}
	return s
}
