// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gowebpki/jcs"
)

// actions of each type of right (OpenAPI access-incoming, access-outgoing,
// access-quote).
var actions = map[string][]string{
	"incoming-payment": {"create", "complete", "read", "read-all", "list", "list-all"},
	"outgoing-payment": {"create", "read", "read-all", "list", "list-all"},
	"quote":            {"create", "read", "read-all"},
}

var receiverRegexp = regexp.MustCompile(`^https?://.+/incoming-payments/.+$`)

const maxRights = 3 // OpenAPI access

// parseAccess reads a list of rights, as JSON or as its text, and answers it in
// canonical form. It is stricter than the OpenAPI document in one point: an
// unknown limit is refused, for a mistyped one would be no limit at all.
func parseAccess(raw any) (json.RawMessage, error) {
	text, ok := raw.(string)
	if !ok {
		encoded, err := json.Marshal(raw)
		if err != nil {
			return nil, refuse("access: must be a JSON list of rights")
		}
		text = string(encoded)
	}
	canonical, err := jcs.Transform([]byte(text)) // refuses duplicate members
	if err != nil {
		return nil, refuse("access: must be a JSON list of rights; this is not JSON, or a member is in it twice")
	}
	var rights []json.RawMessage
	if json.Unmarshal(canonical, &rights) != nil || rights == nil {
		return nil, refuse("access: must be a JSON list of rights")
	}
	if len(rights) == 0 || len(rights) > maxRights {
		return nil, refuse("access: must have one to %d rights", maxRights)
	}
	for i, right := range rights {
		if err := checkRight(right); err != nil {
			return nil, refuse("access: right %d: %s", i+1, err)
		}
		if slices.ContainsFunc(rights[:i], func(r json.RawMessage) bool { return bytes.Equal(r, right) }) {
			return nil, refuse("access: right %d is there twice", i+1)
		}
	}
	return canonical, nil
}

// checkRight says what in a right the OpenAPI document does not allow
// (access-item).
func checkRight(raw json.RawMessage) error {
	var right map[string]json.RawMessage
	if json.Unmarshal(raw, &right) != nil || right == nil {
		return fmt.Errorf("must be an object")
	}
	var kind string
	if json.Unmarshal(right["type"], &kind) != nil || actions[kind] == nil {
		return fmt.Errorf("type must be incoming-payment, outgoing-payment or quote")
	}
	allowed := []string{"type", "actions"}
	switch kind {
	case "incoming-payment":
		allowed = append(allowed, "identifier")
	case "outgoing-payment":
		allowed = append(allowed, "identifier", "limits")
	}
	if err := onlyMembers(right, allowed); err != nil {
		return err
	}
	var did []string
	if json.Unmarshal(right["actions"], &did) != nil || len(did) == 0 {
		return fmt.Errorf("actions must be a list with at least one of %s", strings.Join(actions[kind], ", "))
	}
	for i, action := range did {
		if !slices.Contains(actions[kind], action) || slices.Contains(did[:i], action) {
			return fmt.Errorf("actions: each at most once, and one of %s", strings.Join(actions[kind], ", "))
		}
	}
	if _, has := right["identifier"]; has || kind == "outgoing-payment" {
		if !isURI(right["identifier"]) {
			return fmt.Errorf("identifier must be the URL of a wallet address")
		}
	}
	if limits, has := right["limits"]; has {
		return checkLimits(limits)
	}
	return nil
}

func onlyMembers(object map[string]json.RawMessage, allowed []string) error {
	for name := range object {
		if !slices.Contains(allowed, name) {
			return fmt.Errorf("may have %s only", strings.Join(allowed, ", "))
		}
	}
	return nil
}

func isURI(raw json.RawMessage) bool {
	var text string
	if json.Unmarshal(raw, &text) != nil || !uriRegexp.MatchString(text) {
		return false
	}
	u, err := url.Parse(text)
	return err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http")
}

// checkLimits checks what an outgoing-payment right is limited to (OpenAPI
// limits-outgoing).
func checkLimits(raw json.RawMessage) error {
	var limits map[string]json.RawMessage
	if json.Unmarshal(raw, &limits) != nil || limits == nil {
		return fmt.Errorf("limits must be an object")
	}
	if err := onlyMembers(limits, []string{"receiver", "interval", "debitAmount", "receiveAmount"}); err != nil {
		return fmt.Errorf("limits %w", err)
	}
	if limits["debitAmount"] != nil && limits["receiveAmount"] != nil {
		return fmt.Errorf("limits may have debitAmount or receiveAmount, not both")
	}
	for _, name := range []string{"debitAmount", "receiveAmount"} {
		if amount, has := limits[name]; has {
			if err := checkAmount(amount); err != nil {
				return fmt.Errorf("limits.%s %w", name, err)
			}
		}
	}
	var text string
	if receiver, has := limits["receiver"]; has {
		if !isURI(receiver) || json.Unmarshal(receiver, &text) != nil || !receiverRegexp.MatchString(text) {
			return fmt.Errorf("limits.receiver must be the URL of an incoming payment")
		}
	}
	if interval, has := limits["interval"]; has {
		if json.Unmarshal(interval, &text) != nil {
			return fmt.Errorf("limits.interval must be a text")
		}
		if err := checkInterval(text); err != nil {
			return fmt.Errorf("limits.interval %w", err)
		}
	}
	return nil
}

var (
	repeatRegexp   = regexp.MustCompile(`^R(-1|[0-9]*)$`)
	durationRegexp = regexp.MustCompile(`^P([0-9]+Y)?([0-9]+M)?([0-9]+W)?([0-9]+D)?(T([0-9]+H)?([0-9]+M)?([0-9]+(\.[0-9]+)?S)?)?$`)
)

// checkInterval checks a repeating interval of ISO 8601: how often, and from
// when to when, of which one may be a duration.
func checkInterval(text string) error {
	parts := strings.Split(text, "/")
	if len(parts) != 3 {
		return fmt.Errorf("must be an ISO 8601 repeating interval of three parts, such as R12/2026-01-01T00:00:00Z/P1M")
	}
	if !repeatRegexp.MatchString(parts[0]) {
		return fmt.Errorf("must begin with R and how often it repeats, such as R12, or R for ever")
	}
	start, startErr := time.Parse(time.RFC3339, parts[1])
	end, endErr := time.Parse(time.RFC3339, parts[2])
	switch {
	case startErr == nil && endErr == nil && !end.After(start):
		return fmt.Errorf("must not end before it begins")
	case startErr == nil && (endErr == nil || isDuration(parts[2])), isDuration(parts[1]) && endErr == nil:
		return nil
	}
	return fmt.Errorf("must hold a time with its zone and a duration or a second time, such as 2026-01-01T00:00:00Z/P1M")
}

func isDuration(text string) bool {
	return durationRegexp.MatchString(text) && strings.ContainsAny(text, "123456789") && !strings.HasSuffix(text, "T")
}

// checkAmount checks an amount (OpenAPI amount): an unsigned 64-bit number as a
// text, in units of 10^-assetScale.
func checkAmount(raw json.RawMessage) error {
	var amount map[string]json.RawMessage
	if json.Unmarshal(raw, &amount) != nil || amount == nil {
		return fmt.Errorf("must be an object")
	}
	if err := onlyMembers(amount, []string{"value", "assetCode", "assetScale"}); err != nil {
		return err
	}
	var value, code string
	var scale *int
	if json.Unmarshal(amount["value"], &value) != nil || !isUint64(value) {
		return fmt.Errorf("value must be a whole number as a text")
	}
	if json.Unmarshal(amount["assetCode"], &code) != nil || code == "" {
		return fmt.Errorf("assetCode must be a text such as USD")
	}
	if json.Unmarshal(amount["assetScale"], &scale) != nil || scale == nil || *scale < 0 || *scale > 255 {
		return fmt.Errorf("assetScale must be a number from 0 to 255")
	}
	return nil
}

func isUint64(text string) bool {
	_, err := strconv.ParseUint(text, 10, 64)
	return err == nil
}
