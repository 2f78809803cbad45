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

// role is the environment variable that tells this test binary which of the three processes it is.
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
		_ = child.Wait() // the test kills this process meanwhile
		os.Exit(1)
	case "child":
		go exitWith(parent, 10*time.Millisecond)
		_, _ = os.Stdout.WriteString("ready\n")
		time.Sleep(time.Minute) // longer than the test waits: exiting after that is too late
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// Once its parent is dead, only the child has the pipe's write end open, so the pipe's EOF means
// that the child has exited.
func TestExitsWithItsParent(t *testing.T) {
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
		t.Fatalf("the child printed %q, %v", line, err)
	}

	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, reader)
		close(ended)
	}()
	select {
	case <-ended:
		t.Fatal("the child exited although its parent was alive")
	case <-time.After(100 * time.Millisecond):
	}

	if err := middle.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the child was still running 10 s after its parent was killed")
	}
	_ = middle.Wait() // only now: Wait closes the pipe
}
