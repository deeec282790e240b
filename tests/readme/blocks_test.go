package readme

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/text"
)

// A block is one piece of code shown in a Markdown file.
type block struct {
	kind  string // what follows the opening fence: go, sh, ...; "" for an indented block
	line  int    // of its first line of code
	lines []string
}

// blocks finds every piece of code in a Markdown text, however it is fenced, indented or nested. Code hidden in HTML is
// an error: it could not be told from other HTML.
func blocks(markdown []byte) ([]block, error) {
	var found []block
	root := goldmark.DefaultParser().Parse(text.NewReader(markdown))
	err := ast.Walk(root, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch node := node.(type) {
		case *ast.FencedCodeBlock:
			found = append(found, newBlock(string(node.Language(markdown)), node, markdown))
		case *ast.CodeBlock:
			found = append(found, newBlock("", node, markdown))
		case *ast.HTMLBlock:
			b := newBlock("html", node, markdown)
			if html := strings.ToLower(strings.Join(b.lines, "\n")); strings.Contains(html, "<pre") || strings.Contains(html, "<code") {
				return ast.WalkStop, fmt.Errorf("line %d: code in HTML; use a fenced block", b.line)
			}
		}
		return ast.WalkContinue, nil
	})
	return found, err
}

func newBlock(kind string, node ast.Node, markdown []byte) block {
	b := block{kind: kind}
	segments := node.Lines()
	for i := range segments.Len() {
		segment := segments.At(i)
		if i == 0 {
			b.line = 1 + bytes.Count(markdown[:segment.Start], []byte("\n"))
		}
		b.lines = append(b.lines, strings.TrimRight(string(segment.Value(markdown)), "\r\n"))
	}
	return b
}

// commands are the lines of a shell block that run something, continued lines joined, comments left out.
func (b block) commands() []string {
	var found []string
	joined := ""
	for _, line := range b.lines {
		code, _, _ := strings.Cut(line, " # ")
		if code = strings.TrimSpace(code); strings.HasPrefix(code, "#") {
			code = ""
		}
		if before, continued := strings.CutSuffix(code, `\`); continued {
			joined += strings.TrimSpace(before) + " "
			continue
		}
		if joined += code; joined != "" {
			found = append(found, joined)
		}
		joined = ""
	}
	return found
}
