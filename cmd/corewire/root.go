package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"corewire/internal/config"
	"corewire/internal/control"
)

// Exit codes, documented in the help of the root command.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
	exitAbsent  = 4
)

// usageError is a mistake on the command line itself.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// exitCode says how the process ends.
func exitCode(err error) int {
	switch {
	case err == nil:
		return exitOK
	case is[*usageError](err):
		return exitUsage
	case is[config.Problems](err), is[*config.RulesError](err), is[*refusedError](err):
		return exitRefused
	case errors.Is(err, control.ErrNotRunning):
		return exitAbsent
	}
	return exitFailed
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// refusedError marks an error of a configuration or rule file, or of the firewall about one.
type refusedError struct{ error }

func (e *refusedError) Unwrap() error { return e.error }

// indent puts the further lines of a message below the first.
func indent(s string) string { return strings.ReplaceAll(s, "\n", "\n  ") }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "corewire",
		Short: "Transparent stateful firewall over AF_XDP",
		Long: `corewire is a transparent stateful firewall between two network ports: it takes the
frames off the interfaces with AF_XDP, tracks connections as Linux does, judges them
by iptables rules, and passes them to the other port or drops them.

Exit status:
  0  the command did what it was asked
  1  it failed
  2  the command line is wrong
  3  a configuration or rule file was refused; nothing was changed
  4  no running firewall answers at the control socket

Settings come from flags, environment (COREWIRE_NAME), a configuration file (--config or
COREWIRE_CONFIG; YAML or TOML) and defaults, in this order: see corewire config docs.`,
		Example: `  corewire run --inside eth1 --outside eth2 --rules /etc/corewire/rules
  corewire conntrack list
  corewire replay --rules rules --pcap trace.pcap --inside-net 10.0.0.0/8`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Args:              cobra.NoArgs,
		RunE:              group,
	}
	root.PersistentFlags().String("config", "", "configuration file, .yaml or .toml (COREWIRE_CONFIG)")
	root.AddCommand(newRun(), newReplay(), newConntrack(), newStats(), newLog(), newRules(), newSet(), newCheck(), newExplain(), newReload(), newRecent(), newConfig(), newSysctl(), newStatus(), newRelease(), newVersion())
	usage := root.UsageTemplate()
	for _, flags := range []string{".LocalFlags", ".InheritedFlags"} {
		usage = strings.ReplaceAll(usage, flags+".FlagUsages", flags+".FlagUsagesWrapped 110")
	}
	root.SetUsageTemplate(usage)
	mark(root)
	return root
}

// group is the action of a command that only has sub-commands.
func group(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// mark has every command report mistakes on its command line as usageError.
func mark(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
	})
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return &usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
			}
			return nil
		}
	}
	for _, c := range cmd.Commands() {
		mark(c)
	}
}

// settings loads the settings of a command: its flags made by config.AddFlags, environment, file.
func settings(cmd *cobra.Command) (*config.Config, []string, error) {
	c, warnings, err := config.Load(configPath(cmd), cmd.Flags())
	if err != nil {
		return nil, nil, &refusedError{err}
	}
	return c, warnings, nil
}

func configPath(cmd *cobra.Command) string {
	if f := cmd.Flags().Lookup("config"); f != nil && f.Changed {
		return f.Value.String()
	}
	return os.Getenv("COREWIRE_CONFIG")
}

// addSocket adds the flag by which a verb finds the running firewall.
func addSocket(flags *pflag.FlagSet) {
	config.AddFlags(flags, func(s *config.Setting) bool { return s.Name == "control-socket" })
}

// client returns a client of the running firewall.
func client(cmd *cobra.Command) (*control.Client, error) {
	c, _, err := settings(cmd)
	if err != nil {
		return nil, err
	}
	if c.ControlSocket == "" {
		return nil, &usageError{errors.New("no control socket is named (give its path with --control-socket)")}
	}
	return control.NewClient(c.ControlSocket), nil
}

// ask is the action of a verb that talks to the running firewall.
func ask(do func(*cobra.Command, *control.Client, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := client(cmd)
		if err != nil {
			return err
		}
		defer c.Close()
		err = do(cmd, c, args)
		if remote, ok := errors.AsType[*control.RemoteError](err); ok && remote.Status < 500 {
			return &refusedError{err}
		}
		return err
	}
}
