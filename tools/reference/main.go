// SPDX-License-Identifier: MPL-2.0

// The command reference writes docs/reference.md from the engine's own definitions: its paths,
// operations, fields, help texts and statuses.
package main

import (
	"context"
	"fmt"
	"os"
)

//go:generate go run . ../../docs/reference.md

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: reference FILE")
	}
	text, err := reference(context.Background())
	if err != nil {
		return err
	}
	return os.WriteFile(args[0], []byte(text), 0o644) //nolint:gosec // Documentation: anybody may read it.
}
