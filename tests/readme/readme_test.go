// Package readme proves that the pages of the root and of docs show nothing that CI does not compile or run. The code of
// docs/production.md is in this package.
package readme

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadme(t *testing.T) {
	root := filepath.Join("..", "..")
	commands := append(steps(t, root), install...)
	for path, markdown := range pages(t, root) {
		if path == "docs/production.md" { // TestProduction has it
			continue
		}
		for _, fault := range faults(markdown, root, commands) {
			t.Error(path + ": " + fault)
		}
	}
}

// steps are the commands that CI runs, as its script lists them.
func steps(t *testing.T, root string) []string {
	table, err := exec.Command("bash", filepath.Join(root, ".ci", "run"), "--list").Output()
	require.NoError(t, err)
	var found []string
	for line := range strings.Lines(string(table)) {
		_, command, ok := strings.Cut(strings.TrimSpace(line), " ")
		require.True(t, ok, "step without a command: %q", line)
		found = append(found, command)
	}
	require.NotEmpty(t, found)
	return found
}

// faults says what is shown in a Markdown text without being
//   - in a go block: consecutive whole statements of one example or test, or a whole declaration, of the package in dir,
//     where `go test` compiles them;
//   - in a sh block: a command among steps;
//   - in a text block, which is for output.
//
// Blocks of any other kind are faults, so that none gets away for want of a name.
func faults(markdown []byte, dir string, steps []string) []string {
	shown, err := blocks(markdown)
	if err != nil {
		return []string{err.Error()}
	}
	passages, err := compiled(dir)
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	add := func(line int, format string, args ...any) {
		found = append(found, fmt.Sprintf("line %d: ", line)+fmt.Sprintf(format, args...))
	}
	for _, b := range shown {
		switch b.kind {
		case "go":
			code := dedent(b.lines)
			if err := complete(code); err != nil {
				add(b.line, "not whole statements or declarations: %v", err)
			} else if !slices.ContainsFunc(passages, func(p passage) bool { return p.contains(code) }) {
				add(b.line, "no example or test has this code:\n%s", strings.Join(code, "\n"))
			}
		case "sh":
			for _, command := range b.commands() {
				if !slices.Contains(steps, command) {
					add(b.line, "CI does not run this: %s", command)
				}
			}
		case "text":
		default:
			add(b.line, "a block must be go, sh or text, this one is %q", b.kind)
		}
	}
	return found
}

// The check itself, against a small package and Markdown with one mistake each.
func TestFaults(t *testing.T) {
	const tests = `package p

import "time"

/*
	a := "in a comment"
*/
const text = ` + "`" + `
	b := "in a string"
` + "`" + `

type answer struct {
	n int
}

func helper() {
	c := "no test"
	_ = c
}

func TestOneLine(t *testing.T) { _ = t }

func Example() {
	// Why.
	x := 1
	if x > 0 {

		x++
	}
	_ = time.Duration(x)
	_ = ` + "`" + `
	d := "in a string of a test"
` + "`" + `
	// Output:
}
`
	dir := t.TempDir()
	write := func(name, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	write("p_test.go", tests)
	write("left_out_test.go", "//go:build none\n\npackage p\n\nfunc ExampleNone() {\n\ty := 1\n\t_ = y\n}\n")

	const fence = "```"
	block := func(kind, code string) string { return fence + kind + "\n" + code + "\n" + fence + "\n" }
	for _, c := range []struct{ name, markdown, fault string }{
		{"nothing shown", "Words, `code` in a sentence.\n", ""},
		{"a whole body", block("go", "// Why.\nx := 1\nif x > 0 {\n\n\tx++\n}\n_ = time.Duration(x)"), ""},
		{"some of the statements", block("go", "if x > 0 {\n\n\tx++\n}"), ""},
		{"in a list", "- how:\n\n  " + fence + "go\n  x := 1\n  " + fence + "\n", ""},
		{"declarations", block("go", "import \"time\"") + block("go", "type answer struct {\n\tn int\n}"), ""},
		{"other code", "Words.\n\n" + block("go", "x := 2"), "line 4: no example or test has this code"},
		{"a line left out", block("go", "x := 1\n_ = time.Duration(x)"), "no example or test"},
		{"a line changed", block("go", "if x > 0 {\n\n\tx--\n}"), "no example or test"},
		{"space changed", block("go", "x :=  1"), "no example or test"},
		{"half a statement", block("go", "x := 1\nif x > 0 {"), "not whole statements"},
		{"comments only", block("go", "// Why."), "no code in it"},
		{"empty", block("go", ""), "no code in it"},
		{"code of a comment", block("go", `a := "in a comment"`), "no example or test"},
		{"code of a string", block("go", `b := "in a string"`), "no example or test"},
		{"code of a string in a test", block("go", `d := "in a string of a test"`), "no example or test"},
		{"code of a helper", block("go", `c := "no test"`), "no example or test"},
		{"code of a file left out", block("go", "y := 1"), "no example or test"},
		{"tildes", "~~~go\nx := 2\n~~~\n", "no example or test"},
		{"in a quotation", "> " + fence + "go\n> x := 2\n> " + fence + "\n", "no example or test"},
		{"never closed", fence + "go\nx := 2\n", "no example or test"},
		{"commands", block("sh", "# Tests.\ngo test ./... # all\n\ngo run \\\n  ./demo"), ""},
		{"another command", block("sh", "go test ./...\ngo test"), "CI does not run this: go test"},
		{"a prompt", block("sh", "$ go test ./..."), "CI does not run this: $ go test"},
		{"a command cut off", block("sh", "go test ./... \\\n  -v"), "CI does not run this: go test ./... -v"},
		{"output", block("text", "anything"), ""},
		{"a name that nobody checks", block("bash", "go test ./..."), `this one is "bash"`},
		{"no name", block("", "go test ./..."), `this one is ""`},
		{"indented", "Words.\n\n    go test ./...\n", `this one is ""`},
		{"HTML", "<pre>go test</pre>\n", "code in HTML"},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := faults([]byte(c.markdown), dir, []string{"go test ./...", "go run ./demo"})
			if c.fault == "" {
				require.Empty(t, found)
				return
			}
			require.Len(t, found, 1)
			require.Contains(t, found[0], c.fault)
		})
	}
}
