// SPDX-License-Identifier: MPL-2.0

package sandbox

import "testing"

// What real servers do and clients must live with: they close a connection that was idle for 5 s.
func TestIdleTimeout(t *testing.T) {
	s, err := Start(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.http.IdleTimeout.Seconds() != 5 || s.http.ReadHeaderTimeout == 0 {
		t.Errorf("idle connections live %s, headers may take %s", s.http.IdleTimeout, s.http.ReadHeaderTimeout)
	}
}
