// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
)

// members are the members of a JSON object in normal form. Unlike a struct they distinguish names
// that differ in case, and null from absent, as the OpenAPI documents do.
type members map[string]json.RawMessage

// memberError returns an error about the member at a path.
func memberError(path, what string) error { return fmt.Errorf("%s %s", path, what) }

func asObject(raw json.RawMessage, path string) (members, error) {
	var m members
	if len(raw) == 0 || raw[0] != '{' || json.Unmarshal(raw, &m) != nil {
		return nil, memberError(path, "must be an object")
	}
	return m, nil
}

// allowOnly returns an error if there are members other than the named ones.
func (m members) allowOnly(path string, names ...string) error {
	for name := range m {
		if !slices.Contains(names, name) {
			return memberError(path, "has a member that it must not have")
		}
	}
	return nil
}

// text returns a required string.
func (m members) text(name, parent string) (string, error) {
	raw := m[name]
	var text string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &text) != nil {
		return "", memberError(parent+name, "must be a string")
	}
	return text, nil
}

// uri returns a required string that is an absolute URI.
func (m members) uri(name, parent string) (string, error) {
	text, err := m.text(name, parent)
	if err != nil {
		return "", err
	}
	if u, err := url.Parse(text); err != nil || !u.IsAbs() {
		return "", memberError(parent+name, "must be a URI")
	}
	return text, nil
}

// words returns a required list of distinct strings, each of which must be allowed.
func (m members) words(name, parent string, allowed ...string) ([]string, error) {
	var words []string
	if raw := m[name]; len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &words) != nil {
		return nil, memberError(parent+name, "must be a list of words")
	}
	for i, word := range words {
		if !slices.Contains(allowed, word) {
			return nil, memberError(parent+name, "has a word that is not allowed")
		}
		if slices.Contains(words[:i], word) {
			return nil, memberError(parent+name, "must not have a word twice")
		}
	}
	return words, nil
}

var receiverPattern = regexp.MustCompile(`^(https|http)://(.+)/incoming-payments/(.+)$`)

func isReceiver(uri string) bool { return receiverPattern.MatchString(uri) }

// amount is an amount of money: value is an unsigned 64-bit integer that counts units of 10 to the
// minus assetScale.
type amount struct {
	Value      string `json:"value"`
	AssetCode  string `json:"assetCode"`
	AssetScale int    `json:"assetScale"`
}

// inSandboxAsset returns an amount in the asset of the sandbox's accounts.
func inSandboxAsset(units uint64) amount {
	return amount{Value: strconv.FormatUint(units, 10), AssetCode: assetCode, AssetScale: assetScale}
}

func (a amount) isSandboxAsset() bool { return a.AssetCode == assetCode && a.AssetScale == assetScale }

// units returns the value of an amount that was parsed.
func (a amount) units() uint64 {
	n, _ := strconv.ParseUint(a.Value, 10, 64)
	return n
}

// parsePaid parses an amount to pay.
func parsePaid(raw json.RawMessage, path string) (amount, error) {
	a, err := parseAmount(raw, path)
	if err == nil && (!a.isSandboxAsset() || a.units() == 0) {
		err = memberError(path, "must be more than 0, in the asset of the wallet address")
	}
	return a, err
}

func parseAmount(raw json.RawMessage, path string) (amount, error) {
	m, err := asObject(raw, path)
	if err != nil {
		return amount{}, err
	}
	var a amount
	if a.Value, err = m.text("value", path+"."); err != nil {
		return amount{}, err
	}
	if _, err := strconv.ParseUint(a.Value, 10, 64); err != nil {
		return amount{}, memberError(path+".value", "must be an unsigned 64-bit integer")
	}
	if a.AssetCode, err = m.text("assetCode", path+"."); err != nil {
		return amount{}, err
	}
	if a.AssetScale, err = strconv.Atoi(string(m["assetScale"])); err != nil || a.AssetScale < 0 || a.AssetScale > 255 {
		return amount{}, memberError(path+".assetScale", "must be an integer from 0 to 255")
	}
	return a, nil
}
