// SPDX-License-Identifier: MPL-2.0

package plugin

import (
	"regexp"
	"strings"
	"testing"
)

func TestArguments(t *testing.T) {
	for _, row := range []struct {
		args   []string
		status int
		stdout string
		stderr string
	}{
		{args: []string{"-version"}, stdout: Version + "\n"},
		{args: []string{"-help"}, stderr: "-version"},
		{args: []string{"-verson"}, status: 2, stderr: "-verson"},
	} {
		var stdout, stderr strings.Builder
		status := Main(row.args, &stdout, &stderr)
		if status != row.status || stdout.String() != row.stdout || !strings.Contains(stderr.String(), row.stderr) {
			t.Errorf("%v: status %d, stdout %q, stderr %q", row.args, status, stdout.String(), stderr.String())
		}
	}
}

// Vault enables no plugin with another form of version.
func TestVersionHasVaultsForm(t *testing.T) {
	if !regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`).MatchString(Version) {
		t.Errorf("Version is %q, not vX.Y.Z", Version)
	}
}
