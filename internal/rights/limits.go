// SPDX-License-Identifier: MPL-2.0

package rights

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var receiverRegexp = regexp.MustCompile(`^https?://.+/incoming-payments/.+$`)

// checkLimits returns what is wrong with the limits of an outgoing-payment right (OpenAPI
// limits-outgoing).
func checkLimits(raw json.RawMessage) error {
	limits, err := objectOf(raw)
	if err != nil {
		return fmt.Errorf("limits %w", err)
	}
	if err := onlyMembers(limits, []string{"receiver", "interval", "debitAmount", "receiveAmount"}); err != nil {
		return fmt.Errorf("limits %w", err)
	}
	if limits["debitAmount"] != nil && limits["receiveAmount"] != nil {
		return errors.New("limits may have debitAmount or receiveAmount, not both")
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
		if !isURL(receiver) || json.Unmarshal(receiver, &text) != nil || !receiverRegexp.MatchString(text) {
			return errors.New("limits.receiver must be the URL of an incoming payment")
		}
	}
	if interval, has := limits["interval"]; has {
		if json.Unmarshal(interval, &text) != nil {
			return errors.New("limits.interval must be a string")
		}
		if err := checkInterval(text); err != nil {
			return fmt.Errorf("limits.interval %w", err)
		}
	}
	return nil
}

var (
	repeatRegexp   = regexp.MustCompile(`^R(-1|[0-9]*)$`)
	durationRegexp = regexp.MustCompile(`^P([0-9]+Y)?([0-9]+M)?([0-9]+W)?([0-9]+D)?` +
		`(T([0-9]+H)?([0-9]+M)?([0-9]+(\.[0-9]+)?S)?)?$`)
)

// checkInterval checks a repeating interval of ISO 8601: the number of repetitions, the start and
// the end, of which one may be a duration.
func checkInterval(text string) error {
	parts := strings.Split(text, "/")
	if len(parts) != 3 {
		return errors.New("must be an ISO 8601 repeating interval of three parts, such as R12/2026-01-01T00:00:00Z/P1M")
	}
	if !repeatRegexp.MatchString(parts[0]) {
		return errors.New("must begin with R and how often it repeats, such as R12, or R for ever")
	}
	start, startErr := time.Parse(time.RFC3339, parts[1])
	end, endErr := time.Parse(time.RFC3339, parts[2])
	switch {
	case startErr == nil && endErr == nil && !end.After(start):
		return errors.New("must not end before it begins")
	case startErr == nil && (endErr == nil || isDuration(parts[2])), isDuration(parts[1]) && endErr == nil:
		return nil
	}
	return errors.New("must hold a time with its zone and a duration or a second time, " +
		"such as 2026-01-01T00:00:00Z/P1M")
}

// isDuration reports whether a string is a duration of ISO 8601 that is longer than zero.
func isDuration(text string) bool {
	return durationRegexp.MatchString(text) && strings.ContainsAny(text, "123456789") && !strings.HasSuffix(text, "T")
}

// checkAmount checks an amount (OpenAPI amount): an unsigned 64-bit number as a string, in units of
// 10^-assetScale.
func checkAmount(raw json.RawMessage) error {
	amount, err := objectOf(raw)
	if err != nil {
		return err
	}
	if err := onlyMembers(amount, []string{"value", "assetCode", "assetScale"}); err != nil {
		return err
	}
	var value, code string
	var scale *int
	if json.Unmarshal(amount["value"], &value) != nil || !isUint64(value) {
		return errors.New("value must be a whole number as a string")
	}
	if json.Unmarshal(amount["assetCode"], &code) != nil || code == "" {
		return errors.New("assetCode must be a string such as USD")
	}
	if json.Unmarshal(amount["assetScale"], &scale) != nil || scale == nil || *scale < 0 || *scale > 255 {
		return errors.New("assetScale must be a number from 0 to 255")
	}
	return nil
}

func isUint64(text string) bool {
	_, err := strconv.ParseUint(text, 10, 64)
	return err == nil
}
