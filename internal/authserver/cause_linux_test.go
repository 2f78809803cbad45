// SPDX-License-Identifier: MPL-2.0

package authserver

import (
	"context"
	"fmt"
	"net"
	"net/http/httptrace"
	"strings"
	"syscall"
	"testing"
)

// Linux connects TCP to no broadcast address: it says that there is no route, and sends nothing.
func TestNoRoute(t *testing.T) {
	c, _ := clientAt(t, "https://255.255.255.255/client")
	f, ok := c.Rotate(context.Background(), "https://255.255.255.255/token/1", "t").(RequestFailed)
	if !ok || f.MaybeHeard() || f.Timeout || !strings.Contains(f.Error(), "no route to it; if a proxy is the only way out") {
		t.Errorf("%v", f)
	}
}

// A port whose queue is full drops what would connect, as a firewall does.
func TestNoConnection(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", bound.(*syscall.SockaddrInet4).Port) //nolint:forcetypeassert // as bound
	first, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	c, clock := clientAt(t, "http://"+address+"/client")
	connecting := make(chan struct{})
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		ConnectStart: func(_, _ string) { close(connecting) },
		ConnectDone: func(_, _ string, err error) {
			if err == nil {
				t.Error("the queue is not full")
			}
		},
	})
	out := make(chan Outcome)
	go func() { out <- c.Rotate(ctx, "http://"+address+"/token/1", "t") }()
	<-connecting
	clock.Advance(AnswerTimeout)
	f, ok := (<-out).(RequestFailed)
	if !ok || f.MaybeHeard() || !f.Timeout || !strings.Contains(f.Error(), "no connection was accepted in time") {
		t.Errorf("%v", f)
	}
}
