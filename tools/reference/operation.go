// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// operation is an operation of a path. Creating and updating are one: a write.
type operation struct {
	framework.OperationProperties
	verb, method string
}

// operationsOf returns a path's operations in the order in which readers look for them.
func operationsOf(p namedPath) []operation {
	var operations []operation
	for _, kind := range []struct {
		of           logical.Operation
		verb, method string
	}{
		{logical.UpdateOperation, "write", "POST"},
		{logical.PatchOperation, "patch", "PATCH"},
		{logical.ReadOperation, "read", "GET"},
		{logical.ListOperation, "list", "LIST"},
		{logical.DeleteOperation, "delete", "DELETE"},
	} {
		if handler := p.Operations[kind.of]; handler != nil {
			operations = append(operations, operation{handler.Properties(), kind.verb, kind.method})
		}
	}
	return operations
}

func (op operation) writes() bool { return op.verb == "write" || op.verb == "patch" }

func (op operation) statusText() string {
	var codes []string
	for code := range op.Responses {
		codes = append(codes, fmt.Sprint(code))
	}
	slices.Sort(codes)
	return strings.Join(codes, ", ")
}

// fields returns the fields of a successful response.
func (op operation) fields() map[string]*framework.FieldSchema {
	for _, responses := range op.Responses {
		for _, one := range responses {
			if len(one.Fields) > 0 {
				return one.Fields
			}
		}
	}
	return nil
}

func verbs(operations []operation, which func(operation) bool, separator string) string {
	var names []string
	for _, op := range operations {
		if which(op) {
			names = append(names, op.verb)
		}
	}
	return strings.Join(names, separator)
}

func sortedNames(fields map[string]*framework.FieldSchema) []string {
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func typeName(kind framework.FieldType) (string, error) {
	switch kind {
	case framework.TypeString:
		return "string", nil
	case framework.TypeInt:
		return "integer", nil
	case framework.TypeBool:
		return "boolean", nil
	case framework.TypeDurationSecond:
		return "duration", nil
	case framework.TypeSlice:
		return "list", nil
	case framework.TypeStringSlice, framework.TypeCommaStringSlice:
		return "list of strings", nil
	case framework.TypeMap:
		return "object", nil
	}
	return "", fmt.Errorf("the reference has no name for the type %s", kind)
}

func defaultOf(field *framework.FieldSchema) string {
	switch value := field.DefaultOrZero().(type) {
	case bool:
		return fmt.Sprintf("`%t`", value)
	case time.Duration:
		return "`" + shortDuration(value) + "`"
	case int:
		if field.Type == framework.TypeDurationSecond {
			return "`" + shortDuration(time.Duration(value)*time.Second) + "`"
		}
		return fmt.Sprintf("`%d`", value)
	case string:
		if value != "" {
			return "`" + value + "`"
		}
	}
	return ""
}

// shortDuration returns a duration as it is typed: 168h, not 168h0m0s.
func shortDuration(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return strings.TrimSuffix(text, "s") + map[bool]string{true: "s"}[strings.HasSuffix(text, "s") && d != 0]
}

func allowedOf(field *framework.FieldSchema) string {
	if len(field.AllowedValues) == 0 {
		return ""
	}
	var values []string
	for _, value := range field.AllowedValues {
		values = append(values, fmt.Sprintf("`%v`", value))
	}
	return " Allowed: " + strings.Join(values, ", ") + "."
}
