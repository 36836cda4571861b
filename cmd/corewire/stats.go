package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"corewire/internal/control"
	"corewire/internal/packet"
)

func newStats() *cobra.Command {
	var asJSON, all bool
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Print the counters of the running firewall",
		Long: `Print the counters of the running firewall: frames and bytes by port, verdicts, drops by
reason, packets by connection state, workers, and where the UMEM's chunks are. Counters
that are 0 are left out unless --all is given; --json has all.`,
		Args: cobra.NoArgs,
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			s, err := c.Stats(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), s)
			}
			return printStats(cmd.OutOrStdout(), &s, all)
		}),
	}
	addSocket(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "counters that are 0 as well")
	return cmd
}

func printStats(w io.Writer, s *control.Stats, all bool) error {
	t := &s.Total
	rows := [][]string{{"PORT", "RX FRAMES", "RX BYTES", "TX FRAMES", "TX BYTES"}}
	for p := range packet.Port(packet.Ports) {
		c := t.Ports[p.String()]
		rows = append(rows, []string{p.String(), count(c.RxFrames), count(c.RxBytes), count(c.TxFrames), count(c.TxBytes)})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	lines := [][]string{
		{"verdicts", pairs(t.Verdicts, all)},
		{"drops", pairs(t.Drops, all)},
		{"states", pairs(t.States, all)},
		{"classes", pairs(t.Classes, all)},
		{"decided", fmt.Sprintf("cached %d, matched %d", t.Cached, t.Matched)},
		{"answered", fmt.Sprintf("%d, limited %d", t.Answered, t.Limited)},
		{"connections", fmt.Sprintf("%d of at most %d, in %d buckets", s.Entries, s.Max, t.Buckets)},
		{"expected", fmt.Sprintf("%d of at most %d, %s", s.Expect.Entries, s.Expect.Max, pairs(s.Expect.Counters, all))},
		{"events", fmt.Sprintf("told %d, lost %d; expected connections: told %d, lost %d; listeners %d", t.Events.Told, t.Events.Lost, s.Expect.Events.Told, s.Expect.Events.Lost, s.Listeners)},
		{"logged", fmt.Sprintf("%d, lost %d", t.Logged, t.LogLost)},
		{"conntrack", pairs(t.Conntrack, all)},
		{"invalid", pairs(t.Invalid, all)},
		{"passed", pairs(t.Passed, all)},
		{"fragments", strings.TrimPrefix(pairs(t.Fragments, all)+fmt.Sprintf(", held %d", t.Held), "–, ")},
		{"regrouped", pairs(t.Regrouped, all)},
	}
	for p := range packet.Port(packet.Ports) {
		lines = append(lines, []string{p.String(), pairs(t.Ports[p.String()].Wire, all)})
		if xdp, ok := s.XDP[p.String()]; ok {
			lines = append(lines, []string{p.String() + " xdp", pairs(xdp, all)})
		}
	}
	c := &t.Chunks
	account := fmt.Sprintf("total %d = free %d + returning %d + fill %d + rx %d + tx %d + completion %d + worker %d (handed off %d, held %d)", c.Total, c.Free, c.Returning, c.Fill, c.RX, c.TX, c.Completion, c.Caller, c.HandedOff, c.Held)
	if !c.Balanced {
		account += " (frames are moving)"
	}
	lines = append(lines, []string{"chunks", account})
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if err := table(w, lines); err != nil {
		return err
	}
	rows = [][]string{{"WORKER", "RX FRAMES", "CONNECTIONS", "HANDED", "TAKEN", "TURNS", "BUSY", "SLEEPS", "LARGEST BURST", "LONGEST TURN"}}
	for i := range s.Workers {
		k := &s.Workers[i]
		var rx uint64
		for _, p := range k.Ports {
			rx += p.RxFrames
		}
		rows = append(rows, []string{strconv.Itoa(i), count(rx), strconv.Itoa(k.Entries), count(k.Handed), count(k.Taken), count(k.Loops), count(k.Busy), count(k.Sleeps), count(k.MaxBurst),
			fmt.Sprintf("%d µs", k.MaxTurn/1000)})
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return table(w, rows)
}

func count(n uint64) string { return strconv.FormatUint(n, 10) }

// pairs lists counters in the order of their names.
func pairs(m map[string]uint64, all bool) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if m[name] != 0 || all {
			parts = append(parts, fmt.Sprintf("%s %d", name, m[name]))
		}
	}
	if len(parts) == 0 {
		return "–"
	}
	return strings.Join(parts, ", ")
}
