package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"corewire/internal/control"
)

func newConntrackExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write all tracked connections to a file, for another firewall to take over",
		Long: `Write all tracked connections to a file (- for standard output), with TCP windows, time left,
marks, labels, zones, timeout policies and status, what helpers have read, and what they expect,
for another firewall to take over. The file is versioned and checksummed; it holds no fragments.`,
		Example: `  corewire conntrack export state
  corewire conntrack export - | ssh standby corewire conntrack import -`,
		Args: cobra.ExactArgs(1),
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			if args[0] == "-" {
				return c.Export(cmd.Context(), cmd.OutOrStdout())
			}
			return replaceFile(args[0], func(f *os.File) error { return c.Export(cmd.Context(), f) })
		}),
	}
	return cmd
}

// replaceFile writes a file that appears under its name only when it is complete. Others may not read it.
func replaceFile(path string, write func(*os.File) error) (err error) {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func newConntrackImport() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Take over the connections that another firewall has exported, all or none",
		Long: `Take over the connections that another firewall has exported (- for standard input). All of the
file is checked before anything is entered; what is damaged, or does not fit into
nf_conntrack_max, changes nothing. The time since the export counts. Connections that the
firewall knows already stay as they are.`,
		Args: cobra.ExactArgs(1),
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			in, err := input(cmd, args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			done, err := c.Import(cmd.Context(), in)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), done)
			}
			expected := ""
			if done.Expected > 0 {
				expected = fmt.Sprintf(", %d expectations of theirs", done.Expected)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d connections taken over, %d known already, %d expired since%s\n", done.Entered, done.Known, done.Expired, expected)
			return err
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
