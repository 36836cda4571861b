package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"corewire/internal/control"
)

func newReload() *cobra.Command {
	var asJSON, counters bool
	var o control.ReloadOptions
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the running firewall read its configuration and rule files again, all or nothing",
		Long: `Have the running firewall read its configuration and rule files again, as SIGHUP does. Either
all of it takes effect, between two bursts of each worker, or nothing does: a mistake in a
file, or a setting that needs a restart, leaves the firewall as it is. No packet is lost or
judged by parts of both rule sets. Changes made by corewire rules since the files were last
read are gone; how many is said.

Counters of rules that stay go on, and so does what their limits remember. A rule stays if
its table, chain, IP versions and text, as iptables-save would print it, are the same; where
it stands does not matter. A policy's counter goes on unless the policy changes. Counters in
the files are ignored, unless with -c: then they are taken where there are any, as
iptables-restore -c does. Without the flag, the setting rule-counters decides.

Connections stay (keep), or are judged again (rejudge): those that the new rules would not
let begin now are closed. Each is judged as its first packet would be: in state NEW, or
RELATED if a helper expected it, from its original source to its original destination, on
the port that it came in on, with its mark, TCP with the flag SYN. What is not kept of that
packet (length, TTL, options, MAC address, contents), and what limits would have said, is
given the benefit of the doubt. So with rejudge
  - rules that accept ESTABLISHED do not keep a connection; a rule that accepts NEW does;
  - rules that let nobody begin anything, such as --ctstate NEW -j DROP to drain a link,
    close everything: use keep for that.
It is done after the new rules are in force, a few connections at a time between bursts.
Packets of a connection that waits for its turn go by the new rules as always, those of a
closed one as without a connection. conntrack events tell of each that is closed. Without
the flag, the setting reload-connections decides.`,
		Example: `  corewire reload
  corewire reload --connections rejudge --json`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if o.Connections != "" && o.Connections != "keep" && o.Connections != "rejudge" {
				return &usageError{fmt.Errorf("--connections is %q: expected keep or rejudge", o.Connections)}
			}
			return nil
		},
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			if counters {
				o.Counters = "file"
			}
			at := beginProgress(cmd.ErrOrStderr(), "reloading")
			r, err := c.Reload(cmd.Context(), o)
			at.end()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			for _, w := range r.Warnings {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
			}
			for _, change := range r.Changes {
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), changeLine(change)); err != nil {
					return err
				}
			}
			line := number(r.Rules, "rule") + " in force"
			if r.Discarded > 0 {
				line += fmt.Sprintf(", %s by corewire rules discarded", number(r.Discarded, "change"))
			}
			if j := r.Rejudged; j != nil {
				line += fmt.Sprintf("; %s judged again, %d closed", number(j.Judged, "connection"), j.Closed)
				if j.Ended != "" {
					line += " (" + j.Ended + ")"
				}
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), line)
			return err
		}),
	}
	addSocket(cmd.Flags())
	cmd.Flags().StringVar(&o.Connections, "connections", "", "keep or rejudge connections; without: as the setting reload-connections says")
	cmd.Flags().BoolVarP(&counters, "counters", "c", false, "take the counters that stand in the rule files")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	_ = cmd.RegisterFlagCompletionFunc("connections", cobra.FixedCompletions([]string{"keep", "rejudge"}, cobra.ShellCompDirectiveNoFileComp)) // fails only for a flag that there is not
	return cmd
}
