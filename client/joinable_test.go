// SPDX-License-Identifier: MPL-2.0

package client

import (
	"slices"
	"testing"
)

func TestJoinable(t *testing.T) {
	of := func(value, ticket string) *lease { return &lease{Token: Token{Value: value}, ticket: ticket} }
	some := func(n, size int, l *lease) []*unsigned {
		return slices.Repeat([]*unsigned{{lease: l, size: size}}, n)
	}
	one := of("token", "ticket")
	for name, row := range map[string]struct {
		waiting []*unsigned
		want    int
	}{
		"one":                             {some(1, 10, one), 1},
		"few":                             {some(7, 10, one), 7},
		"as many as allowed":              {some(250, 10, one), 250},
		"one more":                        {some(251, 10, one), 250},
		"512 KiB with brackets and comma": {slices.Concat(some(1, 256<<10-2, one), some(1, 256<<10-1, one)), 2},
		"a byte more":                     {some(2, 256<<10-1, one), 1},
		"a long one first":                {slices.Concat(some(1, 600<<10, one), some(3, 10, one)), 1},
		"a long one behind":               {slices.Concat(some(3, 10, one), some(1, 600<<10, one), some(3, 10, one)), 3},
		"the same token again":            {slices.Concat(some(2, 10, one), some(2, 10, of("token", "ticket"))), 4},
		"another token":                   {slices.Concat(some(2, 10, one), some(2, 10, of("other", "ticket"))), 2},
		"another ticket":                  {slices.Concat(some(2, 10, one), some(2, 10, of("token", "other"))), 2},
	} {
		if got := joinable(row.waiting); got != row.want {
			t.Errorf("%s: %d go together, want %d", name, got, row.want)
		}
	}
}
