package main

import (
	"bufio"
	"os"
	"slices"
	"strings"
	"testing"

	"corewire/internal/config"
)

// The unit file calls the program by verbs and flags that it has, and the configuration beside it is valid.
func TestUnitFile(t *testing.T) {
	f, err := os.Open("../../tools/systemd/corewire.service")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	commands := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), "=")
		if !slices.Contains([]string{"ExecStart", "ExecStartPre", "ExecReload"}, key) {
			continue
		}
		commands++
		words := strings.Fields(value)[1:]
		cmd, rest, err := newRoot().Find(words)
		if err != nil || !cmd.Runnable() {
			t.Errorf("%s: %v", value, err)
			continue
		}
		if err := cmd.ParseFlags(rest); err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
	if commands != 3 {
		t.Errorf("%d commands", commands)
	}
	if _, _, err := config.Load("../../tools/systemd/corewire.yaml", nil); err != nil {
		t.Error(err)
	}
}
