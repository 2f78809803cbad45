// SPDX-License-Identifier: MPL-2.0

package main

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

const lineWidth = 120

// codeRegexp finds what help texts, which are plain text, mean literally: commands, settings, names with an
// underscore, paths with a name in them.
var codeRegexp = regexp.MustCompile(
	`vault (?:read|list|write|patch|delete|path-help)(?: op/\S+(?: \w+=\w+)*)?` +
		`|\b\w+=(?:true|false|[0-9]+[smh]?)\b` +
		`|\b[a-z]+(?:_[a-z]+)+\b` +
		`|\b(?:grants|token|roles|creds|sign|rotate|keys)/(?:NAME|rotate)(?:/continue|/sign)?\b` +
		`|\bjwks\.json\b`)

// prose returns plain text as Markdown in one line.
func prose(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	text = strings.NewReplacer("<", `\<`, "*", `\*`, "[", `\[`).Replace(text)
	return codeRegexp.ReplaceAllString(text, "`$0`")
}

// cell returns plain text as a cell of a table.
func cell(text string) string { return strings.ReplaceAll(prose(text), "|", `\|`) }

// wrap breaks a paragraph into lines of up to lineWidth characters.
func wrap(text string) string {
	var out strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		width := utf8.RuneCountInString(word)
		switch {
		case column == 0:
		case column+1+width > lineWidth:
			out.WriteByte('\n')
			column = 0
		default:
			out.WriteByte(' ')
			column++
		}
		out.WriteString(word)
		column += width
	}
	return out.String()
}
