// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// period is a calendar duration (ISO 8601): a month is as long as the month is.
type period struct {
	months  int
	days    int
	seconds int64
}

// interval is a repeating interval (ISO 8601) over which limits are counted. All repetitions are
// computed from the start, so one that starts on the 31st returns to the 31st after a short month.
// "R12" means 12 repetitions in all.
type interval struct {
	times int // 0 means unlimited
	start time.Time
	every period
}

// span is the time from the first moment, inclusive, to the second, exclusive; a zero moment is
// unbounded.
type span struct{ from, to time.Time }

func (s span) contains(t time.Time) bool {
	return (s.from.IsZero() || !t.Before(s.from)) && (s.to.IsZero() || t.Before(s.to))
}

var errNoInterval = errors.New("not a repeating interval of ISO 8601")

var (
	repeatPattern = regexp.MustCompile(`^R([0-9]{0,9})$`)
	periodPattern = regexp.MustCompile(`^P(?:([0-9]{1,6})Y)?(?:([0-9]{1,6})M)?(?:([0-9]{1,6})W)?(?:([0-9]{1,6})D)?` +
		`(?:T(?:([0-9]{1,6})H)?(?:([0-9]{1,6})M)?(?:([0-9]{1,6})S)?)?$`)
)

// parseInterval parses R[n]/start/duration, R[n]/start/end and R[n]/duration/end.
func parseInterval(text string) (interval, error) {
	parts := strings.Split(text, "/")
	if len(parts) != 3 {
		return interval{}, errNoInterval
	}
	repeat := repeatPattern.FindStringSubmatch(parts[0])
	if repeat == nil {
		return interval{}, errNoInterval
	}
	var i interval
	if repeat[1] != "" {
		i.times, _ = strconv.Atoi(repeat[1]) // at most 9 digits
		i.times = max(i.times, 1)            // R0 is not repeated, so it happens once
	}
	start, startErr := parseMoment(parts[1])
	end, endErr := parseMoment(parts[2])
	switch {
	case startErr == nil && endErr == nil:
		i.start, i.every = start, period{seconds: end.Unix() - start.Unix()}
	case startErr == nil:
		i.start, i.every = start, parsePeriod(parts[2])
	case endErr == nil:
		i.every = parsePeriod(parts[1])
		i.start = i.every.after(end, -1)
	}
	if i.every.months < 0 || i.every.seconds < 0 || i.every == (period{}) {
		return interval{}, errNoInterval
	}
	return i, nil
}

// parseMoment parses a date, or a date and time, which is in UTC if it names no zone.
func parseMoment(text string) (time.Time, error) {
	for _, layout := range []string{
		time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", time.DateOnly,
	} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, errNoInterval
}

// parsePeriod parses a duration. It returns the zero period for a string that is not one.
func parsePeriod(text string) period {
	parts := periodPattern.FindStringSubmatch(text)
	if parts == nil || strings.HasSuffix(text, "T") {
		return period{}
	}
	var n [8]int
	for at := 1; at < len(n); at++ {
		n[at], _ = strconv.Atoi(parts[at]) // 0 if left out; at most 6 digits
	}
	return period{months: 12*n[1] + n[2], days: 7*n[3] + n[4], seconds: int64(3600*n[5] + 60*n[6] + n[7])}
}

// after is the moment so many periods after t. A day that the month does not have becomes its last.
func (p period) after(t time.Time, times int) time.Time {
	month := t.Month() + time.Month(p.months*times)
	first := time.Date(t.Year(), month, 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	moved := first.AddDate(0, 0, min(t.Day(), last)-1+p.days*times)
	return time.Unix(moved.Unix()+p.seconds*int64(times), int64(moved.Nanosecond())).UTC()
}

// turn returns the repetition of the interval that contains a moment. It reports false before the
// first and after the last.
func (i interval) turn(t time.Time) (span, bool) {
	if t.Before(i.start) {
		return span{}, false
	}
	// low is a repetition that has begun, high one that has not.
	low, high := 0, 1
	for !i.every.after(i.start, high).After(t) {
		low, high = high, 2*high
	}
	for high-low > 1 {
		if middle := low + (high-low)/2; i.every.after(i.start, middle).After(t) {
			high = middle
		} else {
			low = middle
		}
	}
	if i.times > 0 && low >= i.times {
		return span{}, false
	}
	return span{i.every.after(i.start, low), i.every.after(i.start, high)}, true
}
