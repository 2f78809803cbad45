// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// terminal is where messages go: lines and, below them on a real terminal, a status line that is
// updated in place.
type terminal struct {
	out  io.Writer
	live bool // a real terminal, whose lines can be overwritten

	mu sync.Mutex
}

const clearLine = "\r\x1b[K"

// printf prints a line.
func (t *terminal) printf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live {
		fmt.Fprint(t.out, clearLine)
	}
	fmt.Fprintf(t.out, format+"\n", args...)
}

// showStatus shows a status line, and updates it every second until stop is called. If lines cannot
// be overwritten, it prints the line once.
func (t *terminal) showStatus(line func() string) (stop func()) {
	if !t.live {
		t.printf("%s", line())
		return func() {}
	}
	ticks := time.NewTicker(time.Second)
	end, ended := make(chan struct{}), make(chan struct{})
	show := func(text string) {
		t.mu.Lock()
		defer t.mu.Unlock()
		fmt.Fprint(t.out, clearLine+text)
	}
	go func() {
		defer close(ended)
		for {
			show(line())
			select {
			case <-ticks.C:
			case <-end:
				show("")
				return
			}
		}
	}()
	return func() {
		ticks.Stop()
		close(end)
		<-ended
	}
}

// printStatus prints what a status line says where there is none.
func (t *terminal) printStatus(line string) {
	if !t.live {
		t.printf("%s", line)
	}
}

const decidedLine = "The owner has consented. Waiting for the authorization server to issue the token."

func waitingLine(since, now, until time.Time) string {
	elapsed := max(now.Sub(since), 0) / time.Second
	return fmt.Sprintf("Waiting for the owner: %d:%02d, until %s",
		elapsed/60, elapsed%60, until.Local().Format(time.TimeOnly))
}

// isTerminal reports whether a file is a terminal. It works on Unix and for Windows' own console.
// The null device is also a character device, and is excluded.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// printable removes control characters, which could control the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return -1
		}
		return r
	}, text)
}

// oneLine returns a text in one line, without control characters.
func oneLine(text string) string {
	return printable(strings.Join(strings.Fields(text), " "))
}
