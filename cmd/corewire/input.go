package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"
)

// input opens what a command reads: a file, or standard input for "-".
func input(cmd *cobra.Command, path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(cmd.InOrStdin()), nil
	}
	return os.Open(path)
}
