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

	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/pasted"
	"github.com/vault-open-payments/vault-plugin-secrets-open-payments/internal/uri"
)

const maxRights = 3 // OpenAPI access

// Parse checks a list of rights, given as decoded JSON or as a string of it, and returns it as
// canonical JSON (RFC 8785). It is stricter than the OpenAPI document in one point: it rejects an
// unknown limit, because a mistyped one would be no limit at all. Addresses in it are read as
// wallet addresses are: see [uri.ParseWalletAddress]. An error says what is wrong, without the name
// of the field and without a part of the value.
func Parse(raw any) (json.RawMessage, error) {
	canonical, err := canonicalize(raw)
	if err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if json.Unmarshal(canonical, &list) != nil || list == nil {
		return nil, notList(canonical)
	}
	if len(list) == 0 || len(list) > maxRights {
		return nil, fmt.Errorf("must have one to %d rights", maxRights)
	}
	for i := range list {
		if list[i], err = readRight(list[i]); err != nil {
			return nil, fmt.Errorf("right %d: %w", i+1, err)
		}
		if slices.ContainsFunc(list[:i], func(r json.RawMessage) bool { return bytes.Equal(r, list[i]) }) {
			return nil, fmt.Errorf("right %d is there twice", i+1)
		}
	}
	return canonicalize(list)
}

// canonicalize returns JSON, given as a string or decoded, in its canonical form.
func canonicalize(raw any) (json.RawMessage, error) {
	text, isText := raw.(string)
	if !isText {
		encoded, err := json.Marshal(raw)
		if err != nil {
			return nil, errors.New("must be a JSON list of rights")
		}
		text = string(encoded)
	}
	text = pasted.Text(text)
	canonical, err := jcs.Transform([]byte(text)) // rejects duplicate members
	if err == nil {
		return canonical, nil
	}
	if fault := pasted.FindJSONFault(text); fault != nil {
		return nil, fmt.Errorf("must be a JSON list of rights; this is not JSON: %w", fault)
	}
	if fault := pasted.FindRepeatedMember(text); fault != nil {
		return nil, fmt.Errorf("must be a JSON list of rights, without the same member twice: %w", fault)
	}
	return nil, errors.New("must be a JSON list of rights; this JSON has no canonical form")
}

// notList says of JSON that is not a list what it is.
func notList(raw json.RawMessage) error {
	members, err := objectOf(raw)
	has := func(name string) bool { return members[name] != nil }
	switch {
	case err != nil:
		return errors.New("must be a JSON list of rights")
	case has("access"):
		return errors.New("must be the JSON list of rights alone, not an object with the list in its member access")
	case has("access_token"):
		return errors.New("must be the JSON list of rights alone; this object is a whole grant request, with " +
			"the list in access_token.access")
	case has("type"):
		return errors.New("must be a JSON list of rights; put the object of this one right in brackets: [{…}]")
	}
	return errors.New("must be a JSON list of rights, not an object")
}

// readRight returns a right with its addresses in their normal form, in canonical JSON.
func readRight(raw json.RawMessage) (json.RawMessage, error) {
	right, err := objectOf(raw)
	if err != nil {
		return nil, err
	}
	replace(right, "identifier", func(address string) string {
		if u, err := uri.ParseWalletAddress(address); err == nil {
			return u.String()
		}
		return address
	})
	if limits, err := objectOf(right["limits"]); err == nil {
		replace(limits, "receiver", pasted.Word)
		if right["limits"], err = canonicalize(limits); err != nil {
			return nil, err
		}
	}
	if raw, err = canonicalize(right); err != nil {
		return nil, err
	}
	return raw, checkRight(raw)
}

// replace changes a member of an object, if it is a string.
func replace(object map[string]json.RawMessage, name string, change func(string) string) {
	var text *string
	if json.Unmarshal(object[name], &text) != nil || text == nil {
		return
	}
	if encoded, err := json.Marshal(change(*text)); err == nil {
		object[name] = encoded
	}
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
		if err := checkIdentifier(right["identifier"]); err != nil {
			return err
		}
	}
	if limits, has := right["limits"]; has {
		return checkLimits(limits)
	}
	return nil
}

// checkIdentifier returns why an identifier is not the address of a wallet.
func checkIdentifier(raw json.RawMessage) error {
	var address *string
	if json.Unmarshal(raw, &address) != nil || address == nil {
		return errors.New("identifier must be the URL of a wallet address")
	}
	parsed, err := uri.ParseWalletAddress(*address)
	if err != nil {
		return fmt.Errorf("identifier: %w", err)
	}
	if parsed.String() != *address { // servers compare it letter by letter
		return errors.New("identifier must be the URL of the wallet address itself, as its document has it, " +
			"and not a payment pointer or another spelling")
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
