// SPDX-License-Identifier: MPL-2.0

// Package cli is what the commands that talk to Vault share: which server the environment
// names, how mounts and names are spelled, and the version of the program.
package cli

import (
	"regexp"
	"runtime/debug"
)

// TokenFile is the file in the home directory where the CLIs of Vault and OpenBao keep the token
// after a login.
const TokenFile = ".vault-token"

// A path with ".." would lead to another API of Vault, so neither a mount nor a name may contain
// one.
var (
	mountRegexp = regexp.MustCompile(`^[\w-][\w.-]*(/[\w-][\w.-]*)*$`)
	nameRegexp  = regexp.MustCompile(`^\w([\w.-]*\w)?$`)
)

// NameRule says what IsName requires, as a part of a sentence.
const NameRule = "may contain letters, digits, '_', '-' and '.', and must begin and end with a letter, a digit or '_'"

// IsMount reports whether a text can be the path of a mount, without slashes around it.
func IsMount(path string) bool { return mountRegexp.MatchString(path) }

// IsName reports whether a text can be the name of a grant or a role.
func IsName(name string) bool { return nameRegexp.MatchString(name) }

// Version returns the program's release, if scripts/build has set one, or else the version that the
// Go command has written into the program.
func Version(release string) string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}
