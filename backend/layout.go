// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/helper/jsonutil"
)

// What other versions of the engine have stored. Each entry, and what a lease remembers, says in which
// layout it is. One of a newer layout is refused and left as it is, for the version that wrote it.

// errUnreadable marks the error of an entry that this version cannot read. It adds no words.
var errUnreadable = errors.New("")

// errNewer marks the error of an entry that a newer version wrote. It is also errUnreadable.
var errNewer = fmt.Errorf("%w", errUnreadable)

func newer(what string, layout int) error {
	return fmt.Errorf("%s was written by a newer version of the engine (layout %d), which alone can read it; it stays "+
		"as it is%w", what, layout, errNewer)
}

// decode decodes the stored entry that what names into v, whose member version points to. Members of a
// newer layout may have other types: then that is what the error says.
func decode(encoded []byte, what string, v any, version *int, newest int) error {
	err := jsonutil.DecodeJSON(encoded, v)
	if err != nil {
		var layout struct {
			Version int `json:"version"`
		}
		if jsonutil.DecodeJSON(encoded, &layout) == nil {
			*version = layout.Version
		}
	}
	switch {
	case *version > newest:
		return newer(what, *version)
	case err != nil: // its text may quote the entry
		return fmt.Errorf("%s is damaged%w", what, errUnreadable)
	}
	return nil
}

// isDamaged reports whether an error is of an entry that no version can read: it may be deleted.
func isDamaged(err error) bool { return errors.Is(err, errUnreadable) && !errors.Is(err, errNewer) }

// exists answers an existence check. What cannot be read exists: the request itself says what is wrong,
// of which Vault would only make "internal error".
func exists(found bool, err error) (bool, error) {
	if errors.Is(err, errUnreadable) {
		return true, nil
	}
	return found, err
}
