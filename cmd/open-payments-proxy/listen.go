// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
)

// listen listens for callers on loopback, or on a unix socket that only this user may use.
func listen(address string) (net.Listener, error) {
	path, isSocket := strings.CutPrefix(address, unixPrefix)
	if isSocket {
		return listenOnSocket(path)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("-listen: %w", err)
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() { // what localhost resolves to
		_ = listener.Close()
		return nil, fmt.Errorf("-listen: %s is not on loopback", listener.Addr())
	}
	return listener, nil
}

// socket removes its file when it is closed, if that is still the file that it has made.
type socket struct {
	*net.UnixListener
	path string
	made os.FileInfo
}

func listenOnSocket(path string) (net.Listener, error) {
	before := syscall.Umask(0o177) // before anybody else can connect; no other file is made meanwhile
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(before)
	if err != nil {
		return nil, fmt.Errorf("-listen: %w; a socket that a killed proxy has left behind has to be removed", err)
	}
	listener.SetUnlinkOnClose(false)
	made, err := os.Stat(path)
	if err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("-listen: %w", err)
	}
	return &socket{listener, path, made}, nil
}

func (s *socket) Close() error {
	if now, err := os.Stat(s.path); err == nil && os.SameFile(now, s.made) {
		_ = os.Remove(s.path)
	}
	return s.UnixListener.Close()
}
