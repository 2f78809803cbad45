// SPDX-License-Identifier: MPL-2.0

//go:build !linux

package vaulttest

import "os/exec"

// killWithThread does nothing: only Linux can kill a process together with the one that started it.
func killWithThread(*exec.Cmd) {}

func lockThread() {}
