// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	rotateSynopsis    = `Rotate a grant's token now, and hand out nothing.`
	rotateDescription = `
For the time after a leak: the token that is out is dead when this returns, and
its lease fails to renew. For a lost grant it asks the authorization server once
more whether it still accepts the token.
`
)

func (b *Backend) pathRotate() *framework.Path {
	return &framework.Path{
		Pattern: "rotate/(?P<name>.+)",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: operationPrefix,
			OperationVerb:   "rotate",
			OperationSuffix: "grant",
		},
		Fields: map[string]*framework.FieldSchema{"name": nameField},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: operation(
				"Rotate a grant's token now.",
				http.StatusOK,
				grantResponse,
				b.rotateNow,
			),
		},
		HelpSynopsis:    rotateSynopsis,
		HelpDescription: rotateDescription,
	}
}

func (b *Backend) rotateNow(
	ctx context.Context, req *logical.Request, d *framework.FieldData,
) (*logical.Response, error) {
	g, err := b.rotateGrant(
		ctx,
		req.Storage,
		d.Get("name").(string),
		causeRotate,
		func(*grant) (bool, error) { return true, nil },
	)
	if err != nil {
		return errorResponse(err)
	}
	return &logical.Response{Data: describe(g)}, nil
}
