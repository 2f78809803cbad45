// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"testing"
	"time"
)

func TestIntervalTurns(t *testing.T) {
	const from = "/2026-01-31T10:00:00Z/"
	for name, row := range map[string]struct{ interval, now, from, to string }{
		"before":               {"R" + from + "P1M", "2026-01-31T09:59:59Z", "", ""},
		"first moment":         {"R" + from + "P1M", "2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z", "2026-02-28T10:00:00Z"},
		"short month, before":  {"R" + from + "P1M", "2026-02-28T09:59:59Z", "2026-01-31T10:00:00Z", "2026-02-28T10:00:00Z"},
		"short month":          {"R" + from + "P1M", "2026-02-28T10:00:00Z", "2026-02-28T10:00:00Z", "2026-03-31T10:00:00Z"},
		"back on the 31st":     {"R" + from + "P1M", "2026-03-31T10:00:00Z", "2026-03-31T10:00:00Z", "2026-04-30T10:00:00Z"},
		"leap year":            {"R" + from + "P1M", "2028-02-29T10:00:00Z", "2028-02-29T10:00:00Z", "2028-03-31T10:00:00Z"},
		"years later":          {"R" + from + "P1M", "2126-01-31T10:00:00Z", "2126-01-31T10:00:00Z", "2126-02-28T10:00:00Z"},
		"last of 12":           {"R12" + from + "P1M", "2027-01-31T09:59:59Z", "2026-12-31T10:00:00Z", "2027-01-31T10:00:00Z"},
		"after 12":             {"R12" + from + "P1M", "2027-01-31T10:00:00Z", "", ""},
		"once":                 {"R1" + from + "P1M", "2026-02-28T09:59:59Z", "2026-01-31T10:00:00Z", "2026-02-28T10:00:00Z"},
		"after once":           {"R1" + from + "P1M", "2026-02-28T10:00:00Z", "", ""},
		"no repetition":        {"R0" + from + "P1M", "2026-02-28T09:59:59Z", "2026-01-31T10:00:00Z", "2026-02-28T10:00:00Z"},
		"after no repetition":  {"R0" + from + "P1M", "2026-02-28T10:00:00Z", "", ""},
		"29 February":          {"R/2024-02-29/P1Y", "2025-02-28T00:00:00Z", "2025-02-28T00:00:00Z", "2026-02-28T00:00:00Z"},
		"29 February again":    {"R/2024-02-29/P1Y", "2028-03-01T00:00:00Z", "2028-02-29T00:00:00Z", "2029-02-28T00:00:00Z"},
		"weeks":                {"R/2026-01-01/P2W", "2026-01-15T00:00:00Z", "2026-01-15T00:00:00Z", "2026-01-29T00:00:00Z"},
		"seconds, long ago":    {"R/0001-01-01/PT1S", "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"},
		"mixed":                {"R/2026-01-01/P1M1DT12H", "2026-02-02T12:00:00Z", "2026-02-02T12:00:00Z", "2026-03-04T00:00:00Z"},
		"end":                  {"R/2026-01-01/2026-01-04T12:00:00Z", "2026-01-05T00:00:00Z", "2026-01-04T12:00:00Z", "2026-01-08T00:00:00Z"},
		"duration and end":     {"R/P1M/2026-04-01", "2026-03-15T00:00:00Z", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"},
		"duration and end, on": {"R/P1M/2026-04-01", "2026-04-15T00:00:00Z", "2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z"},
		"other zone":           {"R/2026-01-01T00:00:00+02:00/P1D", "2026-01-01T22:00:00Z", "2026-01-01T22:00:00Z", "2026-01-02T22:00:00Z"},
		"no zone":              {"R/2026-01-01T06:00:00/P1D", "2026-01-01T22:00:00Z", "2026-01-01T06:00:00Z", "2026-01-02T06:00:00Z"},
		"enormous":             {"R/2026-01-01/P999999Y", "2026-01-01T22:00:00Z", "2026-01-01T00:00:00Z", "+"},
	} {
		t.Run(name, func(t *testing.T) {
			i, err := parseInterval(row.interval)
			if err != nil {
				t.Fatal(err)
			}
			now, _ := time.Parse(time.RFC3339, row.now)
			turn, ok := i.turn(now)
			if row.from == "" {
				if ok {
					t.Errorf("it is in a turn from %s to %s", turn.from, turn.to)
				}
				return
			}
			if !ok || turn.from.Format(time.RFC3339) != row.from || (row.to != "+" && turn.to.Format(time.RFC3339) != row.to) {
				t.Errorf("the turn is from %s to %s, want %s to %s", turn.from, turn.to, row.from, row.to)
			}
			if !turn.contains(now) || turn.contains(turn.to) || turn.contains(turn.from.Add(-1)) {
				t.Error("the turn has not its bounds")
			}
		})
	}
}

func TestNoInterval(t *testing.T) {
	for _, text := range []string{
		"", "monthly", "P1M", "2026-01-01/P1M", "R12/2026-01-01", "R/2026-01-01/", "R/2026-01-01/P", "R/2026-01-01/PT", "R/2026-01-01/P1DT",
		"R/2026-01-01/P0M", "R/2026-01-01/P-1M", "R/2026-01-01/2026-01-01", "R/2026-01-02/2026-01-01", "R/P1M/P1M", "R/P/2026-01-01",
		"R-1/2026-01-01/P1M", "12/2026-01-01/P1M", "R1.5/2026-01-01/P1M", "R/2026-02-30/P1M", "R/2026-01-01/P1H", "R/2026-01-01/P1M/x",
		"R/2026-01-01/P1000000Y", "R1234567890/2026-01-01/P1M",
	} {
		if _, err := parseInterval(text); err == nil {
			t.Errorf("%q is an interval", text)
		}
	}
}
