// SPDX-License-Identifier: MPL-2.0

package plugin

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

// role tells this test binary which of the three processes it is.
const role = "OPEN_PAYMENTS_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "parent":
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), role+"=child")
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			os.Exit(1)
		}
		_ = child.Wait() // Killed by the test while it waits.
		os.Exit(1)
	case "child":
		go endWith(parent, 10*time.Millisecond)
		_, _ = os.Stdout.WriteString("ready\n")
		time.Sleep(time.Minute) // Longer than the test waits: ending by itself is too late.
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// The child holds the pipe's only writing end once its parent is dead, so the
// pipe's end is the child's.
func TestEndsWithItsParent(t *testing.T) {
	middle := exec.Command(os.Args[0])
	middle.Env = append(os.Environ(), role+"=parent")
	out, err := middle.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := middle.Start(); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(out)
	line, err := reader.ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}

	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, reader)
		close(ended)
	}()
	select {
	case <-ended:
		t.Fatal("the child ended although its parent was alive")
	case <-time.After(100 * time.Millisecond):
	}

	if err := middle.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the child was still there 10 s after its parent was killed")
	}
	_ = middle.Wait() // After the reading: Wait closes the pipe.
}
