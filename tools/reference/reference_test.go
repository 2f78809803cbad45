// SPDX-License-Identifier: MPL-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestReferenceIsUpToDate(t *testing.T) {
	want, err := reference(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("..", "..", "docs", "reference.md")
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) == want {
		return
	}
	gotLines, wantLines := strings.Split(string(got), "\n"), strings.Split(want, "\n")
	for i := range min(len(gotLines), len(wantLines)) {
		if gotLines[i] != wantLines[i] {
			t.Fatalf("docs/reference.md is stale (run: go generate ./tools/reference); line %d is\n%s\nand should be\n%s", i+1, gotLines[i], wantLines[i])
		}
	}
	t.Fatalf("docs/reference.md is stale (run: go generate ./tools/reference): it has %d lines and should have %d", len(gotLines), len(wantLines))
}

func TestDisplayName(t *testing.T) {
	for pattern, want := range map[string]string{
		"config":                       "config",
		"grants/?$":                    "grants",
		"grants/(?P<name>.+)":          "grants/NAME",
		"grants/(?P<name>.+)/continue": "grants/NAME/continue",
		`jwks\.json`:                   "jwks.json",
	} {
		if got, err := displayName(pattern); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", pattern, got, err, want)
		}
	}
	if got, err := displayName("a(b|c)"); err == nil {
		t.Errorf("an alternative is shown as %q", got)
	}
}

func TestShortDuration(t *testing.T) {
	for want, d := range map[string]time.Duration{"0": 0, "10s": 10 * time.Second, "5m": 5 * time.Minute, "168h": 168 * time.Hour, "1m30s": 90 * time.Second, "1h0m5s": time.Hour + 5*time.Second} {
		if got := shortDuration(d); got != want {
			t.Errorf("%s: %s", want, got)
		}
	}
}
