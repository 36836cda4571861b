package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"corewire/internal/control"
)

func newSet() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set",
		Short: "Show and change the IP sets of the running firewall, as ipset does",
		Long: `Show and change the IP sets of the running firewall. Verbs, elements, options and messages are
those of ipset; the exit code is 0, or 1 for what ipset ends with 1 for. A change takes effect
whole or not at all, and for the next packet of every connection. What is changed here lasts
until the firewall ends; what the setting sets names is read again by a reload.

ipset's own spelling works as well: corewire set -A NAME ELEMENT -exist, corewire set -L -terse.`,
		Example: `  corewire set create blocked hash:net timeout 3600
  corewire set add blocked 192.0.2.0/24 timeout 60
  corewire set test blocked 192.0.2.7
  corewire set list blocked --json
  ipset save | corewire set restore --exist`,
		Args: cobra.NoArgs,
		RunE: group,
	}
	addSocket(cmd.PersistentFlags())
	cmd.AddCommand(newSetList(), newSetSave(), newSetRestore(),
		newSetVerb("create NAME TYPE [OPTION…]", "Create a set", 2),
		newSetVerb("add NAME ELEMENT [OPTION…]", "Add an element to a set", 2),
		newSetVerb("del NAME ELEMENT", "Delete an element from a set", 2),
		newSetVerb("test NAME ELEMENT", "Say whether an element is in a set; exit code 1 if not", 2),
		newSetVerb("flush [NAME]", "Delete all elements of a set, or of all sets", 0),
		newSetVerb("destroy [NAME]", "Destroy a set that no rule names, or all sets", 0),
		newSetVerb("rename NAME NEW", "Give a set that no rule names another name", 2),
		newSetVerb("swap NAME OTHER", "Exchange the content of two sets, at once for all packets", 2))
	return cmd
}

// setAsk is ask with ipset's exit code: 1 for everything that is refused.
func setAsk(do func(*cobra.Command, *control.Client, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := client(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		return do(cmd, c, args)
	}
}

func newSetVerb(use, short string, least int) *cobra.Command {
	var exist bool
	verb, _, _ := strings.Cut(use, " ")
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.MinimumNArgs(least),
		RunE: setAsk(func(cmd *cobra.Command, c *control.Client, args []string) error {
			words := append([]string{verb}, args...)
			yes, err := c.SetDo(cmd.Context(), control.SetCommand{Words: words, Exist: exist})
			if err != nil || verb != "test" {
				return err
			}
			if !yes {
				return fmt.Errorf("%s is NOT in set %s", args[1], args[0])
			}
			_, err = fmt.Fprintf(cmd.ErrOrStderr(), "Warning: %s is in set %s.\n", args[1], args[0])
			return err
		}),
	}
	if verb != "test" {
		cmd.Flags().BoolVarP(&exist, "exist", "!", false, "what exists already, or is missing already, is no error")
	}
	return cmd
}

func newSetList() *cobra.Command {
	var asJSON, sorted, names, terse bool
	var output string
	cmd := &cobra.Command{
		Use:   "list [NAME]",
		Short: "Show one set or all, as ipset list does",
		Args:  cobra.MaximumNArgs(1),
		RunE: setAsk(func(cmd *cobra.Command, c *control.Client, args []string) error {
			switch output {
			case "plain":
			case "json":
				asJSON = true
			case "save":
				return c.SaveSets(cmd.Context(), cmd.OutOrStdout(), strings.Join(args, ""), sorted)
			default:
				return &usageError{fmt.Errorf("--output is %q: expected plain, save or json", output)}
			}
			at := beginProgress(cmd.ErrOrStderr(), "listing sets")
			defer at.end()
			list, err := c.Sets(cmd.Context(), strings.Join(args, ""), !names && !terse, sorted)
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, list)
			}
			for i, s := range list {
				if names {
					if _, err := fmt.Fprintln(w, s.Name); err != nil {
						return err
					}
					continue
				}
				if i > 0 {
					if _, err := fmt.Fprintln(w); err != nil {
						return err
					}
				}
				if _, err := fmt.Fprintf(w, "Name: %s\nType: %s\nRevision: %d\nHeader: %s\nSize in memory: %d\nReferences: %d\nNumber of entries: %d\n",
					s.Name, s.Type, s.Revision, s.Header, s.Size, s.References, s.Entries); err != nil {
					return err
				}
				if terse {
					continue
				}
				if _, err := io.WriteString(w, "Members:\n"); err != nil {
					return err
				}
				for _, m := range s.Members {
					if _, err := fmt.Fprintln(w, m); err != nil {
						return err
					}
				}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVarP(&output, "output", "o", "plain", "plain, save or json")
	cmd.Flags().BoolVarP(&sorted, "sorted", "s", false, "print elements in order")
	cmd.Flags().BoolVarP(&names, "name", "n", false, "print names only")
	cmd.Flags().BoolVarP(&terse, "terse", "t", false, "print names and headers only")
	return cmd
}

func newSetSave() *cobra.Command {
	var sorted bool
	cmd := &cobra.Command{
		Use:   "save [NAME]",
		Short: "Print one set or all, as ipset save does",
		Args:  cobra.MaximumNArgs(1),
		RunE: setAsk(func(cmd *cobra.Command, c *control.Client, args []string) error {
			return c.SaveSets(cmd.Context(), cmd.OutOrStdout(), strings.Join(args, ""), sorted)
		}),
	}
	cmd.Flags().BoolVarP(&sorted, "sorted", "s", false, "print elements in order")
	return cmd
}

func newSetRestore() *cobra.Command {
	var exist bool
	var file string
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Carry out what ipset save has printed, from standard input or a file, all or nothing",
		Args:  cobra.NoArgs,
		RunE: setAsk(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			in, err := input(cmd, file)
			if err != nil {
				return fmt.Errorf("read sets: %w", err)
			}
			defer in.Close()
			at := beginProgress(cmd.ErrOrStderr(), "restoring sets")
			defer at.end()
			return c.SetRestore(cmd.Context(), in, exist)
		}),
	}
	cmd.Flags().BoolVarP(&exist, "exist", "!", false, "what exists already, or is missing already, is no error")
	cmd.Flags().StringVarP(&file, "file", "f", "-", "read this file instead of standard input")
	return cmd
}
