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

// members are the members of a JSON object in normal form. Unlike a struct they tell apart keys that differ in case, and
// null from absent, as the OpenAPI documents do.
type members map[string]json.RawMessage

// wrong is an error about a member, by its path.
func wrong(path, what string) error { return fmt.Errorf("%s %s", path, what) }

func asObject(raw json.RawMessage, path string) (members, error) {
	var m members
	if len(raw) == 0 || raw[0] != '{' || json.Unmarshal(raw, &m) != nil {
		return nil, wrong(path, "must be an object")
	}
	return m, nil
}

// only refuses members other than the named ones.
func (m members) only(path string, names ...string) error {
	for name := range m {
		if !slices.Contains(names, name) {
			return wrong(path, "has a member that it must not have")
		}
	}
	return nil
}

// text is a required string.
func (m members) text(name, parent string) (string, error) {
	raw := m[name]
	var text string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &text) != nil {
		return "", wrong(parent+name, "must be a string")
	}
	return text, nil
}

// uri is a required string with an absolute URI.
func (m members) uri(name, parent string) (string, error) {
	text, err := m.text(name, parent)
	if err != nil {
		return "", err
	}
	if u, err := url.Parse(text); err != nil || !u.IsAbs() {
		return "", wrong(parent+name, "must be a URI")
	}
	return text, nil
}

// words is a required list of different words out of those allowed.
func (m members) words(name, parent string, allowed ...string) ([]string, error) {
	var words []string
	if raw := m[name]; len(raw) == 0 || raw[0] != '[' || json.Unmarshal(raw, &words) != nil {
		return nil, wrong(parent+name, "must be a list of words")
	}
	for i, word := range words {
		if !slices.Contains(allowed, word) {
			return nil, wrong(parent+name, "has a word that is not allowed")
		}
		if slices.Contains(words[:i], word) {
			return nil, wrong(parent+name, "must not have a word twice")
		}
	}
	return words, nil
}

var receiverPattern = regexp.MustCompile(`^(https|http)://(.+)/incoming-payments/(.+)$`)

func isReceiver(uri string) bool { return receiverPattern.MatchString(uri) }

// amount is an amount of money: value is an unsigned 64-bit integer, counted in units of 10 to the minus assetScale.
type amount struct {
	Value      string `json:"value"`
	AssetCode  string `json:"assetCode"`
	AssetScale int    `json:"assetScale"`
}

// ours is an amount in the asset of the sandbox's accounts.
func ours(units uint64) amount {
	return amount{Value: strconv.FormatUint(units, 10), AssetCode: assetCode, AssetScale: assetScale}
}

func (a amount) isOurs() bool { return a.AssetCode == assetCode && a.AssetScale == assetScale }

// units is the value of an amount that was parsed.
func (a amount) units() uint64 {
	n, _ := strconv.ParseUint(a.Value, 10, 64)
	return n
}

// parsePaid reads an amount that is to be paid.
func parsePaid(raw json.RawMessage, path string) (amount, error) {
	a, err := parseAmount(raw, path)
	if err == nil && (!a.isOurs() || a.units() == 0) {
		err = wrong(path, "must be more than 0, in the asset of the wallet address")
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
		return amount{}, wrong(path+".value", "must be an unsigned 64-bit integer")
	}
	if a.AssetCode, err = m.text("assetCode", path+"."); err != nil {
		return amount{}, err
	}
	if a.AssetScale, err = strconv.Atoi(string(m["assetScale"])); err != nil || a.AssetScale < 0 || a.AssetScale > 255 {
		return amount{}, wrong(path+".assetScale", "must be an integer from 0 to 255")
	}
	return a, nil
}
