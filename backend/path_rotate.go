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
For the time after a leak: the token that is out is dead when this answers, and
its lease fails to renew. For a lost grant it asks the authorization server once
more whether it still accepts the token.
`
)

func (b *Backend) pathRotate() *framework.Path {
	call := operation("Rotate a grant's token now.", http.StatusOK, grantFields, b.rotateGrant)
	return &framework.Path{
		Pattern:      "rotate/(?P<name>.+)",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "grant"},
		Fields:       map[string]*framework.FieldSchema{"name": nameField},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: call,
		},
		HelpSynopsis:    rotateSynopsis,
		HelpDescription: rotateDescription,
	}
}

func (b *Backend) rotateGrant(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	g, err := b.rotate(ctx, req, d.Get("name").(string), causeRotate, func(*grant) error { return nil })
	if err != nil {
		return answerError(err)
	}
	return &logical.Response{Data: describe(g)}, nil
}
