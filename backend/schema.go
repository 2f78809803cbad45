// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// What several paths share of their schemas, and lists by page.

const operationPrefix = "open-payments"

var nameField = &framework.FieldSchema{
	Type:        framework.TypeString,
	Description: "Name of the grant.",
}

// operation describes an operation that talks to servers or to storage, and so belongs on a node
// that may write.
func operation(
	summary string, status int, fields map[string]*framework.FieldSchema, call framework.OperationFunc,
) *framework.PathOperation {
	return &framework.PathOperation{
		Callback: call,
		Summary:  summary,
		Responses: map[int][]framework.Response{
			status: {{Description: http.StatusText(status), Fields: fields}},
		},
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
	}
}

// stringField describes a string that may be shown.
func stringField(displayName, description string) *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  description,
		DisplayAttrs: &framework.DisplayAttributes{Name: displayName},
	}
}

// secretField describes a string that must not be shown.
func secretField(displayName, description string) *framework.FieldSchema {
	f := stringField(displayName, description)
	f.DisplayAttrs.Sensitive = true
	return f
}

var pageFields = map[string]*framework.FieldSchema{
	"after":    {Type: framework.TypeString, Query: true, Description: "List names after this one."},
	limitField: {Type: framework.TypeInt, Query: true, Description: "List at most this many names; 0 or less: all."},
}

// listPage lists the names below a prefix that the request asks for.
func listPage(ctx context.Context, s logical.Storage, prefix string, d *framework.FieldData) ([]string, error) {
	names, err := s.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("list the stored %s: %w", strings.TrimSuffix(prefix, "/"), err)
	}
	sort.Strings(names)
	return page(names, value[string](d, "after"), value[int](d, limitField)), nil
}

// page returns of sorted names those after one, and at most limit of them (0 or less: all).
func page(names []string, after string, limit int) []string {
	if after != "" {
		i, found := slices.BinarySearch(names, after)
		if found {
			i++
		}
		names = names[i:]
	}
	if limit > 0 && limit < len(names) {
		names = names[:limit]
	}
	return names
}
