// SPDX-License-Identifier: MPL-2.0

// Package docs tests the documents of the repository.
package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	root      = ".."
	lineWidth = 120
)

// document is a Markdown file: its lines, without those of code blocks.
type document struct {
	path  string // from the root
	lines map[int]string
}

func documents(t *testing.T) []document {
	t.Helper()
	var all []document
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{"node_modules", ".cache", ".git", "bin"}, entry.Name()) {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		all = append(all, document{relative, proseLines(string(text))})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("only %d documents were found", len(all))
	}
	return all
}

func proseLines(text string) map[int]string {
	lines := map[int]string{}
	inCode := false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			inCode = !inCode
			continue
		}
		if !inCode {
			lines[i+1] = line
		}
	}
	return lines
}

var (
	codeRegexp      = regexp.MustCompile("`[^`]*`")
	linkRegexp      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headingRegexp   = regexp.MustCompile(`^#{1,6} +(.+)$`)
	headingLink     = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	notInSlugRegexp = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the anchors of a document's headings, as GitHub makes them.
func (d document) anchors() []string {
	var anchors []string
	for _, number := range d.numbers() {
		match := headingRegexp.FindStringSubmatch(d.lines[number])
		if match == nil {
			continue
		}
		slug := strings.ToLower(headingLink.ReplaceAllString(match[1], "$1"))
		slug = strings.ReplaceAll(notInSlugRegexp.ReplaceAllString(slug, ""), " ", "-")
		unique := slug
		for n := 1; slices.Contains(anchors, unique); n++ {
			unique = fmt.Sprintf("%s-%d", slug, n)
		}
		anchors = append(anchors, unique)
	}
	return anchors
}

func (d document) numbers() []int {
	var numbers []int
	for number := range d.lines {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	return numbers
}

func TestLinks(t *testing.T) {
	all := documents(t)
	anchors := map[string][]string{}
	for _, d := range all {
		anchors[d.path] = d.anchors()
	}
	links := 0
	for _, d := range all {
		for number, line := range d.lines {
			for _, match := range linkRegexp.FindAllStringSubmatch(codeRegexp.ReplaceAllString(line, "code"), -1) {
				target, anchor, hasAnchor := strings.Cut(match[1], "#")
				if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
					continue
				}
				links++
				path := d.path
				if target != "" {
					path = filepath.Join(filepath.Dir(d.path), target)
				}
				if _, err := os.Stat(filepath.Join(root, path)); err != nil {
					t.Errorf("%s:%d: there is no %s", d.path, number, match[1])
				} else if hasAnchor && !slices.Contains(anchors[path], anchor) {
					t.Errorf("%s:%d: %s has no heading for #%s", d.path, number, path, anchor)
				}
			}
		}
	}
	if links < 50 {
		t.Errorf("only %d links were found", links)
	}
}

func TestLinesAreWrapped(t *testing.T) {
	for _, d := range documents(t) {
		for number, line := range d.lines {
			if strings.HasPrefix(line, "|") { // a row of a table cannot be wrapped
				continue
			}
			if width := utf8.RuneCountInString(line); width > lineWidth {
				t.Errorf("%s:%d: %d columns, more than %d", d.path, number, width, lineWidth)
			}
		}
	}
}

func TestREADMEIsShort(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(text), "\n"); lines >= 200 {
		t.Errorf("README.md has %d lines: what does not fit into 200 belongs in docs/", lines)
	}
}

// Every direct dependency has to say what it is for.
func TestDependenciesAreExplained(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	explained, err := os.ReadFile("development.md")
	if err != nil {
		t.Fatal(err)
	}
	direct := 0
	for _, match := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(string(mod), -1) {
		direct++
		if !strings.Contains(string(explained), "`"+match[1]+"`") {
			t.Errorf("docs/development.md does not say what %s is for", match[1])
		}
	}
	if direct < 5 {
		t.Errorf("only %d direct dependencies were found in go.mod", direct)
	}
}

// Every test that a document names has to exist.
func TestNamedTestsExist(t *testing.T) {
	exist := testsInTree(t)
	named := map[string]int{}
	for _, d := range documents(t) {
		for number, line := range d.lines {
			for _, match := range namedTestRegexp.FindAllStringSubmatch(line, -1) {
				named[d.path]++
				if !exist[match[1]] {
					t.Errorf("%s:%d: there is no test %s", d.path, number, match[1])
				}
			}
		}
	}
	if security := filepath.Join("docs", "security.md"); named[security] < 20 {
		t.Errorf("only %d tests were found in %s", named[security], security)
	}
}

var (
	namedTestRegexp = regexp.MustCompile("`(Test[A-Z]\\w*)`")
	testRegexp      = regexp.MustCompile(`(?m)^func (Test[A-Z]\w*)\(t \*testing\.T\)`)
)

// testsInTree returns the names of all Go tests.
func testsInTree(t *testing.T) map[string]bool {
	t.Helper()
	tests := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{"node_modules", ".cache", ".git", "bin"}, entry.Name()) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, match := range testRegexp.FindAllSubmatch(text, -1) {
			tests[string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}
