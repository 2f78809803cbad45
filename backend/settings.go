// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"time"

	"github.com/hashicorp/vault/sdk/framework"
)

const (
	revokeRotates = "rotate"
	revokeKeeps   = "keep"

	defaultKeepalive = 168 * time.Hour
	minKeepalive     = time.Minute
)

// settings are what the leases of a grant or a role follow: their schema, how they are written and
// how they are read are all in this file.
type settings struct {
	TTL       time.Duration `json:"ttl,omitempty"`     // 0: the token's life decides
	MaxTTL    time.Duration `json:"max_ttl,omitempty"` // 0: the mount's limit decides
	Renewable bool          `json:"renewable"`
	OnRevoke  string        `json:"on_revoke"`
	Shared    bool          `json:"shared,omitempty"`    // reads hand the current token out again
	MinTTL    time.Duration `json:"min_ttl,omitempty"`   // while so much of its life is left; 0: a quarter
	Keepalive time.Duration `json:"keepalive,omitempty"` // rotated if nobody has done it for so long; 0: never
}

func defaultSettings() settings {
	return settings{Renewable: true, OnRevoke: revokeRotates, Keepalive: defaultKeepalive}
}

// settingsFields is the schema of what a request may set.
var settingsFields = map[string]*framework.FieldSchema{
	"ttl": {
		Type:         framework.TypeDurationSecond,
		Description:  "Longest life of a lease. 0: as long as the token.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "TTL"},
	},
	"max_ttl": {
		Type:         framework.TypeDurationSecond,
		Description:  "Longest life of a lease, renewals included. 0: the mount's limit.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Max TTL"},
	},
	"renewable": {
		Type:    framework.TypeBool,
		Default: true,
		Description: "Whether leases can be renewed. Set it to false for readers that cannot follow a renewal, " +
			"such as Vault Agent's templates.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Renewable"},
	},
	"on_revoke": {
		Type:          framework.TypeString,
		Default:       revokeRotates,
		AllowedValues: []any{revokeRotates, revokeKeeps},
		Description:   "What revoking a lease does to its token: rotate (the value dies) or keep.",
		DisplayAttrs:  &framework.DisplayAttributes{Name: "On revoke"},
	},
	"shared": {
		Type: framework.TypeBool,
		Description: "Whether reads return the current token again, to several readers. Such leases cannot be " +
			"renewed, " +
			"and revoking one leaves the token alone.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Shared"},
	},
	"min_ttl": {
		Type: framework.TypeDurationSecond,
		Description: "Shared: rotate when less than this is left of the token's life; less than 7s counts as 7s. " +
			"0: a quarter of it.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Min TTL"},
	},
	"keepalive": {
		Type:    framework.TypeDurationSecond,
		Default: int(defaultKeepalive / time.Second),
		Description: "How long the grant may go without a rotation before it is rotated in the background, " +
			"so that the server does not forget it. 0: never.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Keepalive"},
	},
}

// settingsResponse is the schema of what a read returns.
var settingsResponse = map[string]*framework.FieldSchema{
	"ttl":       {Type: framework.TypeInt, Required: true, Description: "Seconds; 0: as long as the token."},
	"max_ttl":   {Type: framework.TypeInt, Required: true, Description: "Seconds; 0: the mount's limit."},
	"renewable": {Type: framework.TypeBool, Required: true, Description: "Whether leases can be renewed."},
	"on_revoke": {Type: framework.TypeString, Required: true, Description: "rotate or keep."},
	"shared": {
		Type:        framework.TypeBool,
		Required:    true,
		Description: "Whether reads hand the current token out again.",
	},
	"min_ttl": {
		Type: framework.TypeInt, Required: true,
		Description: "Seconds of the token's life below which a shared grant is rotated; 0: a quarter of it.",
	},
	"keepalive": {
		Type: framework.TypeInt, Required: true,
		Description: "Seconds without a rotation after which the grant is rotated in the background; 0: never.",
	},
}

// describe adds the settings to a response.
func (s settings) describe(data map[string]any) {
	data["ttl"] = int64(s.TTL / time.Second)
	data["max_ttl"] = int64(s.MaxTTL / time.Second)
	data["renewable"] = s.Renewable
	data["on_revoke"] = s.OnRevoke
	data["shared"] = s.Shared
	data["min_ttl"] = int64(s.MinTTL / time.Second)
	data["keepalive"] = int64(s.Keepalive / time.Second)
}

// apply merges a request into the settings and checks the whole.
func (s *settings) apply(d *framework.FieldData) error {
	for field, to := range map[string]*time.Duration{
		"ttl": &s.TTL, "max_ttl": &s.MaxTTL, "min_ttl": &s.MinTTL, "keepalive": &s.Keepalive,
	} {
		if given(d, field) {
			*to = seconds(d, field)
		}
	}
	for field, to := range map[string]*bool{"renewable": &s.Renewable, "shared": &s.Shared} {
		if given(d, field) {
			*to = value[bool](d, field)
		}
	}
	if given(d, "on_revoke") {
		s.OnRevoke = value[string](d, "on_revoke")
	}
	switch {
	case s.OnRevoke != revokeRotates && s.OnRevoke != revokeKeeps:
		return userErrorf("on_revoke: must be %s or %s", revokeRotates, revokeKeeps)
	case s.TTL > 0 && s.MaxTTL > 0 && s.TTL > s.MaxTTL:
		return userErrorf("ttl: must not be longer than max_ttl")
	case s.Keepalive > 0 && s.Keepalive < minKeepalive:
		return userErrorf("keepalive: must be 0, for never, or at least a minute")
	}
	return nil
}
