// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
)

// importFields and askFields are the fields that replace a grant; the others change how it is used.
var (
	importFields = []string{"access_token", "manage_url", "expires_in", "continue_url", "continue_token", "interactive"}
	askFields    = []string{"access", "auth_server", "wallet_address", "finish_uri", "ask_again"}
)

// grantFields is the schema of what a write of a grant takes.
var grantFields = withSettings(settingsFields, map[string]*framework.FieldSchema{
	"name": nameField,
	"wallet_address": stringField(
		"Wallet address",
		"Wallet address of the owner: an https URL or a payment pointer ($host/path).",
	),
	"auth_server": stringField("Authorization server",
		"The grant endpoint, with its path. Left out when asking: the owner's wallet address names it."),
	"resource_server": stringField(
		"Resource server",
		"URL below which the token is valid, and below which requests are signed. Left out when asking: the "+
			"owner's wallet address names it.",
	),
	"access": {
		Type: framework.TypeSlice,
		Description: "List of rights, as JSON or as a string that holds it (access of the authorization server's " +
			"OpenAPI document).",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Access"},
	},
	"finish_uri": stringField(
		"Finish URI",
		"Asking, where the owner's consent is needed: the URL that the owner's browser is sent to afterwards, "+
			"https or an application's own scheme (com.example.app:/back). With a random parameter of its own, "+
			"such as state, a redirect can prove that the owner declined. Left out: poll with a write to continue.",
	),
	"access_token": secretField("Access token", "Import: the current access token."),
	"manage_url":   secretField("Manage URL", "Import: the URL at which the token is rotated."),
	"continue_url": secretField(
		"Continue URL",
		"Import: the URL at which the grant is cancelled. Left out: deleting revokes the token.",
	),
	"continue_token": secretField("Continue token", "Import: the access token of the continuation."),
	"expires_in": {
		Type:         framework.TypeDurationSecond,
		Description:  "Import: how long the access token lives from now on.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Expires in"},
	},
	"interactive": {
		Type:    framework.TypeBool,
		Default: true,
		Description: "Import: whether the owner had to consent. If false (which takes access and auth_server or " +
			"wallet_address), " +
			"the grant is requested anew should the server forget it.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Interactive"},
	},
	"ask_again": {
		Type: framework.TypeBool,
		Description: "Asking: ask anew, and cancel the grant that is stored. Left out: a write that asks for what " +
			"the grant " +
			"has, or what its owner is being asked for, only changes settings.",
		DisplayAttrs: &framework.DisplayAttributes{Name: "Ask again"},
	},
	"force": {
		Type:        framework.TypeBool,
		Query:       true,
		Description: "Delete: forget the grant even if it cannot be cancelled at the server.",
	},
})

// grantResponse is the schema of what is returned of a grant.
var grantResponse = withSettings(settingsResponse, map[string]*framework.FieldSchema{
	"status": {Type: framework.TypeString, Required: true, Description: "active, pending or lost."},
	"interact_url": {
		Type:        framework.TypeString,
		Description: "What the owner opens to decide: of a pending grant, or of the one that is to replace this one.",
	},
	"pending_until": {
		Type:        framework.TypeString,
		Description: "Pending: until when the owner is waited for (RFC 3339). A later consent counts all the same.",
	},
	"next": {
		Type:        framework.TypeString,
		Description: "Pending: what to do next, or what a redirect says that proves nothing.",
	},
	"interactive": {
		Type:        framework.TypeBool,
		Required:    true,
		Description: "Whether the owner's consent was needed.",
	},
	"client": {
		Type:        framework.TypeString,
		Required:    true,
		Description: "Wallet address of the client that obtained the grant.",
	},
	"access": {Type: framework.TypeSlice, Required: true, Description: "The grant's rights."},
	"auth_server": {
		Type:        framework.TypeString,
		Required:    true,
		Description: "The grant endpoint; its origin where only that is known.",
	},
	"wallet_address":  {Type: framework.TypeString, Description: "Wallet address of the owner, where known."},
	"resource_server": {Type: framework.TypeString, Description: "URL below which tokens are valid, where known."},
	"generation": {
		Type:        framework.TypeInt,
		Required:    true,
		Description: "Sequence number of the current token.",
	},
	"expires_at": {Type: framework.TypeString, Description: "When the current token expires (RFC 3339)."},
	"created_at": {
		Type:        framework.TypeString,
		Required:    true,
		Description: "When the grant was first written (RFC 3339).",
	},
	"last_rotation_at": {
		Type:        framework.TypeString,
		Description: "When the current token was requested (RFC 3339).",
	},
	"last_rotation_cause": {
		Type:        framework.TypeString,
		Description: "Why: read, renew, revoke, rotate, ask, import, consent or keepalive.",
	},
	"last_failure_at": {
		Type:        framework.TypeString,
		Description: "When a new token could last not be obtained (RFC 3339).",
	},
	"last_failure_cause": {Type: framework.TypeString, Description: "Why not."},
	"lost_at":            {Type: framework.TypeString, Description: "When the grant was found lost (RFC 3339)."},
	"lost_cause":         {Type: framework.TypeString, Description: "Why it is lost."},
	"intent_open": {
		Type:        framework.TypeBool,
		Required:    true,
		Description: "Whether a rotation was begun whose outcome is not known.",
	},
})

func withSettings(shared, own map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	maps.Copy(own, shared)
	return own
}

// describe returns all of a grant but its secrets.
func describe(g *grant) map[string]any {
	data := map[string]any{
		"status":      g.Status,
		"interactive": g.Interactive,
		"client":      g.Client,
		"access":      g.rights(),
		"auth_server": g.authServer(),
		"generation":  g.Generation,
		"created_at":  g.CreatedAt.UTC().Format(time.RFC3339),
		"intent_open": g.Intent != nil,
	}
	g.Settings.describe(data)
	if p := g.Pending; p != nil {
		data["interact_url"] = p.InteractURL
		data["pending_until"] = p.until().UTC().Format(time.RFC3339)
		data["next"] = p.next()
	}
	for name, s := range map[string]string{
		"wallet_address":      g.WalletAddress,
		"resource_server":     g.ResourceServer,
		"last_rotation_cause": g.LastRotation.Cause,
		"last_failure_cause":  g.LastFailure.Cause,
		"lost_cause":          g.Lost.Cause,
	} {
		if s != "" {
			data[name] = s
		}
	}
	addTimes(data, map[string]time.Time{
		"expires_at":       g.ExpiresAt,
		"last_rotation_at": g.LastRotation.At,
		"last_failure_at":  g.LastFailure.At,
		"lost_at":          g.Lost.At,
	})
	return data
}

// addTimes adds those times to a response that are known.
func addTimes(data map[string]any, times map[string]time.Time) {
	for name, at := range times {
		if !at.IsZero() {
			data[name] = at.UTC().Format(time.RFC3339)
		}
	}
}
