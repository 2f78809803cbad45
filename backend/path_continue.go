// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	continueSynopsis    = `Finish or poll a grant that waits for its owner's consent.`
	continueDescription = `
After the owner has decided, the browser is sent to the grant's finish_uri with
interact_ref and hash, or with a result that says why not. Write both here, or
the whole URL as redirect, however late. The hash is verified before the server is
asked, and proves the consent: the reference is kept until the server has
answered. A result proves nothing, unless the finish_uri has a random parameter
of its own, such as state; then grant_rejected means that the owner declined.

A grant that was asked for without a finish_uri is polled: write without fields.
The same sends a reference that is kept. If the server wants a pause first, the
request waits for it.
`
)

func (b *Backend) pathContinue() *framework.Path {
	sensitive := func(description string) *framework.FieldSchema {
		return &framework.FieldSchema{
			Type:         framework.TypeString,
			Description:  description,
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
		}
	}
	return &framework.Path{
		Pattern: "grants/(?P<name>.+)/continue",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix,
			OperationVerb:   "continue",
			OperationSuffix: "grant",
		},
		Fields: map[string]*framework.FieldSchema{
			"name":         nameField,
			"interact_ref": sensitive("The reference that the owner's browser brought."),
			"hash":         sensitive("The hash that the owner's browser brought; goes with interact_ref."),
			"redirect":     sensitive("The whole URL that the owner's browser was sent to, in place of the two."),
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: operation(
				"Finish or poll a pending grant.",
				http.StatusOK,
				grantResponse,
				b.writeContinue,
			),
		},
		HelpSynopsis:    continueSynopsis,
		HelpDescription: continueDescription,
	}
}

func (b *Backend) writeContinue(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	r := reply{
		ref:      value[string](d, "interact_ref"),
		hash:     value[string](d, "hash"),
		redirect: value[string](d, "redirect"),
	}
	if err := r.check(); err != nil {
		return errorResponse(err)
	}
	done, err := b.continueGrant(ctx, req.Storage, d.Get("name").(string), r)
	if err != nil {
		return errorResponse(err)
	}
	data := describe(done.grant)
	if done.hint != "" {
		data["next"] = done.hint
	}
	return &logical.Response{Data: data}, nil
}
