package main

import (
	"context"
	"fmt"
	"io"
	"os"
)

// version is set when the program is built (Makefile).
var version = "unknown"

func main() {
	err := run(context.Background(), os.Args[1:], os.Stdout)
	complain(os.Stderr, err)
	os.Exit(exitCode(err))
}

// run is the program: arguments in, output to stdout, logs and notes to standard error, a failure as error.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	root := newRoot()
	root.SetArgs(translate(args))
	root.SetOut(stdout)
	root.SetErr(os.Stderr)
	return root.ExecuteContext(ctx)
}

// complain prints an error, a line for each of its lines.
func complain(w io.Writer, err error) {
	if err != nil {
		fmt.Fprintf(w, "corewire: %s\n", indent(err.Error()))
	}
}
