// SPDX-License-Identifier: MPL-2.0

package rights

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/gowebpki/jcs"

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

const maxRights = 3 // OpenAPI access

// Parse checks a list of rights, given as decoded JSON or as a string of it, and returns it as
// canonical JSON (RFC 8785). It is stricter than the OpenAPI document in one point: it rejects an
// unknown limit, because a mistyped one would be no limit at all. An error says what is wrong,
// without the name of the field.
func Parse(raw any) (json.RawMessage, error) {
	text, ok := raw.(string)
	if !ok {
		encoded, err := json.Marshal(raw)
		if err != nil {
			return nil, errors.New("must be a JSON list of rights")
		}
		text = string(encoded)
	}
	canonical, err := jcs.Transform([]byte(text)) // rejects duplicate members
	if err != nil {
		return nil, errors.New("must be a JSON list of rights; this is not JSON, or a member is in it twice")
	}
	var list []json.RawMessage
	if json.Unmarshal(canonical, &list) != nil || list == nil {
		return nil, errors.New("must be a JSON list of rights")
	}
	if len(list) == 0 || len(list) > maxRights {
		return nil, fmt.Errorf("must have one to %d rights", maxRights)
	}
	for i, right := range list {
		if err := checkRight(right); err != nil {
			return nil, fmt.Errorf("right %d: %w", i+1, err)
		}
		if slices.ContainsFunc(list[:i], func(r json.RawMessage) bool { return bytes.Equal(r, right) }) {
			return nil, fmt.Errorf("right %d is there twice", i+1)
		}
	}
	return canonical, nil
}

// checkRight returns what in a right the OpenAPI document does not allow (access-item).
func checkRight(raw json.RawMessage) error {
	right, err := objectOf(raw)
	if err != nil {
		return err
	}
	var name string
	_ = json.Unmarshal(right["type"], &name) // no type has the empty name
	k := kindByName(name)
	if k == nil {
		return fmt.Errorf("type must be %s", enumerate(kindNames(), "or"))
	}
	if err := onlyMembers(right, append([]string{"type", "actions"}, k.members...)); err != nil {
		return err
	}
	if err := k.checkActions(right["actions"]); err != nil {
		return err
	}
	if _, has := right["identifier"]; has || k.needsWallet {
		if !isURL(right["identifier"]) {
			return errors.New("identifier must be the URL of a wallet address")
		}
	}
	if limits, has := right["limits"]; has {
		return checkLimits(limits)
	}
	return nil
}

func (k *kind) checkActions(raw json.RawMessage) error {
	var actions []string
	if json.Unmarshal(raw, &actions) != nil || len(actions) == 0 {
		return fmt.Errorf("actions must be a list with at least one of %s", strings.Join(k.actions, ", "))
	}
	for i, action := range actions {
		if !slices.Contains(k.actions, action) || slices.Contains(actions[:i], action) {
			return fmt.Errorf("actions: each at most once, and one of %s", strings.Join(k.actions, ", "))
		}
	}
	return nil
}

// objectOf reads an object's members under their exact names; a struct would accept names in
// another case.
func objectOf(raw json.RawMessage) (map[string]json.RawMessage, error) {
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil || object == nil {
		return nil, errors.New("must be an object")
	}
	return object, nil
}

func onlyMembers(object map[string]json.RawMessage, allowed []string) error {
	for name := range object {
		if !slices.Contains(allowed, name) {
			return fmt.Errorf("may have %s only", strings.Join(allowed, ", "))
		}
	}
	return nil
}

// isURL reports whether a JSON value is a string with an http or https URL in it.
func isURL(raw json.RawMessage) bool {
	var text string
	if json.Unmarshal(raw, &text) != nil || !uri.Valid(text) {
		return false
	}
	u, err := url.Parse(text)
	return err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http")
}
