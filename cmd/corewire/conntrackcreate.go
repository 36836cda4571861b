package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"corewire/conntrack"
	"corewire/internal/control"
)

// createFlags are the options of a connection that is to be entered.
type createFlags struct {
	filterFlags
	create control.Create
}

func (x *createFlags) add(flags *pflag.FlagSet) {
	x.filterFlags.add(flags)
	x.status(flags)
	x.mark(flags)
	flags.StringVarP(&x.create.Timeout, "timeout", "t", "", "seconds until it expires, if no packet comes")
	flags.StringVar(&x.create.LabelAdd, "label-add", "", "labels that it has")
	for _, name := range []string{"src-nat", "dst-nat"} {
		flags.String(name, "", "refused: a wire translates nothing")
		flags.Lookup(name).Hidden = true
	}
}

// record returns the connection that the flags ask for.
func (x *createFlags) record(set *pflag.FlagSet) (conntrack.Record, error) {
	if set.Changed("src-nat") || set.Changed("dst-nat") {
		return conntrack.Record{}, &usageError{errors.New("--src-nat and --dst-nat are not carried out: a wire translates nothing")}
	}
	f, err := x.read(set)
	if err != nil {
		return conntrack.Record{}, err
	}
	x.create.Filter = f
	r, err := x.create.Record()
	if err != nil {
		return r, &usageError{err}
	}
	return r, nil
}

// known says what becomes of an attempt to enter a connection that the firewall knows.
type known uint8

const (
	existing  known = iota // it fails (-I)
	tolerated              // the connection stays as it is (-A)
)

func newConntrackCreate(k known) *cobra.Command {
	var x createFlags
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Enter a connection, as conntrack -I does; it fails if there is one already",
		Long: `Enter a connection that need not have sent a packet, as conntrack -I does. Needed are --proto,
--src and --dst, --timeout, and what the protocol has: --sport and --dport, --state, --icmp-type and
--icmp-code, --srckey and --dstkey. The windows of such a TCP connection are not enforced.`,
		Example: `  corewire conntrack create -p tcp -s 10.0.0.7 -d 192.0.2.1 --sport 40000 --dport 443 \
    --state ESTABLISHED -u ASSURED,SEEN_REPLY -t 600`,
		Args: cobra.MatchAll(func(_ *cobra.Command, args []string) error { return onlyConnections(args) }),
		RunE: ask(func(cmd *cobra.Command, c *control.Client, _ []string) error {
			r, err := x.record(cmd.Flags())
			if err != nil {
				return err
			}
			done, err := c.Create(cmd.Context(), []conntrack.Record{r})
			if err == nil && done.Known > 0 && k == existing {
				err = errors.New("there is such a connection already (update changes it)")
			}
			if err == nil {
				_, err = fmt.Fprintf(cmd.ErrOrStderr(), "corewire: %d flow entries have been created.\n", done.Entered)
			}
			return err
		}),
	}
	if k == tolerated {
		cmd.Use, cmd.Short = "add", "Enter a connection, as conntrack -A does; one that is there already stays as it is"
		cmd.Example = ""
	}
	x.add(cmd.Flags())
	return cmd
}

// onlyConnections refuses to make expectations.
func onlyConnections(args []string) error {
	switch {
	case len(args) == 0 || len(args) == 1 && tableOf(args[0]) == "conntrack":
		return nil
	case len(args) == 1 && tableOf(args[0]) == "expect":
		return errors.New("expectations cannot be made: only a helper that reads the connection makes them (conntrack import brings those of another firewall)")
	}
	return fmt.Errorf("there is no table %q for that (conntrack)", strings.Join(args, " "))
}

func newConntrackLoad() *cobra.Command {
	return &cobra.Command{
		Use:   "load FILE",
		Short: "Carry out the lines of a file, as conntrack -R does",
		Long: `Carry out the lines of a file (- for standard input), as conntrack -R does: -A, -I, -U, -D and -F with
their options, such as list -o save and events -o save print. Empty lines and those that begin
with # count for nothing. The whole file is read first: if a line is wrong, nothing is carried
out. Connections that follow each other are entered all or none.`,
		Example: `  corewire conntrack list -w 11 -o save | sed 's/-w 11/-w 12/' | corewire conntrack load -`,
		Args:    cobra.ExactArgs(1),
		RunE: ask(func(cmd *cobra.Command, c *control.Client, args []string) error {
			in, err := input(cmd, args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			steps, err := readLoad(args[0], in)
			if err != nil {
				return err
			}
			for i := range steps {
				if err := steps[i].run(cmd.Context(), c, cmd); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

// loadStep is one thing that a file asks for: connections to be entered, or something to be done.
type loadStep struct {
	line    int // of the file, the first of them
	records []conntrack.Record
	do      func(ctx context.Context, c *control.Client) error
}

// run carries the step out.
func (s *loadStep) run(ctx context.Context, c *control.Client, cmd *cobra.Command) error {
	if s.do != nil {
		if err := s.do(ctx, c); err != nil {
			return fmt.Errorf("line %d: %w", s.line, err)
		}
		return nil
	}
	done, err := c.Create(ctx, s.records)
	if err != nil {
		return fmt.Errorf("line %d and those that follow it: %w", s.line, err)
	}
	_, err = fmt.Fprintf(cmd.ErrOrStderr(), "corewire: %d flow entries have been created, %d were known.\n", done.Entered, done.Known)
	return err
}

// maxLoadLine bounds a line of a file, in bytes; the conntrack tool takes 10 KiB.
const maxLoadLine = 64 << 10

// readLoad reads a file. Its errors are usageErrors, with file and line.
func readLoad(name string, in io.Reader) (steps []loadStep, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLoadLine)
	n := 0
	for lines.Scan() {
		n++
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		words, err := split(text)
		if err == nil {
			steps, err = addStep(steps, n, words)
		}
		if err != nil {
			return nil, &usageError{fmt.Errorf("%s:%d: %w (nothing was carried out)", name, n, err)}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return steps, nil
}

// addStep appends what a line asks for.
func addStep(steps []loadStep, n int, words []string) ([]loadStep, error) {
	words = translate(append([]string{"conntrack"}, words...))[1:]
	set := pflag.NewFlagSet("line", pflag.ContinueOnError)
	parse := func() error {
		if err := set.Parse(words[1:]); err != nil {
			return err
		}
		if len(set.Args()) > 0 && (len(set.Args()) > 1 || tableOf(set.Arg(0)) != "conntrack") {
			return fmt.Errorf("%q: only the table conntrack can be loaded", strings.Join(set.Args(), " "))
		}
		return nil
	}
	if len(words) == 0 {
		words = []string{""}
	}
	switch words[0] {
	case "create", "add":
		var x createFlags
		x.add(set)
		if err := parse(); err != nil {
			return nil, err
		}
		r, err := x.record(set)
		if err != nil {
			return nil, err
		}
		if len(steps) == 0 || steps[len(steps)-1].do != nil {
			steps = append(steps, loadStep{line: n})
		}
		last := &steps[len(steps)-1]
		last.records = append(last.records, r)
		return steps, nil
	case "update":
		var x updateFlags
		x.add(set)
		if err := parse(); err != nil {
			return nil, err
		}
		f, u, err := x.read(set)
		if err != nil {
			return nil, err
		}
		return append(steps, loadStep{line: n, do: func(ctx context.Context, c *control.Client) error {
			_, err := c.Update(ctx, f, u, io.Discard)
			return err
		}}), nil
	case "delete":
		var x filterFlags
		var timeout string // -E -o save says how much was left
		x.add(set)
		x.selects(set)
		x.status(set)
		x.mark(set)
		set.StringVarP(&timeout, "timeout", "t", "", "")
		if err := parse(); err != nil {
			return nil, err
		}
		if x.filter.Status == "UNSET" { // that of a saved line; to the filter it means no reply
			x.filter.Status = ""
		}
		f, err := x.read(set)
		if err != nil {
			return nil, err
		}
		return append(steps, loadStep{line: n, do: func(ctx context.Context, c *control.Client) error {
			_, err := c.Delete(ctx, f, io.Discard)
			return err
		}}), nil
	case "flush":
		if err := parse(); err != nil {
			return nil, err
		}
		return append(steps, loadStep{line: n, do: func(ctx context.Context, c *control.Client) error {
			_, err := c.Flush(ctx)
			return err
		}}), nil
	}
	return nil, fmt.Errorf("%q: expected -A, -I, -U, -D or -F with options", strings.Join(words, " "))
}

// split cuts a line into words: at blanks, except within double quotes, where a backslash takes the next character as it
// is (add_param_to_argv, src/conntrack.c of conntrack-tools).
func split(text string) (words []string, err error) {
	var word []byte
	quoted, escaped := false, false
	end := func() {
		if len(word) > 0 {
			words = append(words, string(word))
			word = word[:0]
		}
	}
	for i := range len(text) {
		c := text[i]
		switch {
		case quoted && escaped:
			word, escaped = append(word, c), false
		case quoted && c == '\\':
			escaped = true
		case quoted && c == '"':
			quoted = false
			end()
		case quoted:
			word = append(word, c)
		case c == '"':
			quoted = true
		case c == ' ' || c == '\t':
			end()
		default:
			word = append(word, c)
		}
	}
	if quoted {
		return nil, errors.New("a quotation mark has no end")
	}
	end()
	return words, nil
}
