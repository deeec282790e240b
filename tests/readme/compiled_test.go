package readme

import (
	"errors"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A passage is a run of lines that the compiler sees: the body of one example or test, or one top-level declaration.
type passage struct {
	lines  []string
	starts map[int]bool // the lines (counted from 0) on which a statement or declaration begins
}

// compiled lists the passages of the test files of the package in dir. Only files that `go test` builds here count.
func compiled(dir string) ([]passage, error) {
	pkg, err := build.ImportDir(dir, 0)
	if err != nil {
		return nil, err
	}
	var found []passage
	for _, name := range slices.Concat(pkg.TestGoFiles, pkg.XTestGoFiles) {
		source, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, name, source, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		lines := strings.Split(string(source), "\n")
		line := func(pos token.Pos) int { return files.Position(pos).Line - 1 }

		for _, decl := range file.Decls {
			found = append(found, passage{
				lines:  lines[line(decl.Pos()) : line(decl.End())+1],
				starts: map[int]bool{0: true},
			})
			if fn, ok := decl.(*ast.FuncDecl); ok && runByGoTest(fn) {
				first := line(fn.Body.Lbrace) + 1
				body := passage{starts: map[int]bool{}}
				if last := line(fn.Body.Rbrace); last > first { // not all on one line
					body.lines = lines[first:last]
				}
				for _, stmt := range fn.Body.List {
					body.starts[line(stmt.Pos())-first] = true
				}
				found = append(found, body)
			}
		}
	}
	return found, nil
}

func runByGoTest(fn *ast.FuncDecl) bool {
	return fn.Recv == nil && (strings.HasPrefix(fn.Name.Name, "Example") || strings.HasPrefix(fn.Name.Name, "Test"))
}

// contains reports whether code, whole lines, stands in the passage as it is, but for the indentation around it, and
// begins where a statement of the passage begins (so text inside a comment or a string is no match).
func (p passage) contains(code []string) bool {
	for from := range len(p.lines) - len(code) + 1 {
		if slices.Equal(dedent(p.lines[from:from+len(code)]), code) && p.starts[from+firstCode(code)] {
			return true
		}
	}
	return false
}

// firstCode is the index of the first line that is neither empty nor a comment.
func firstCode(code []string) int {
	return slices.IndexFunc(code, func(line string) bool {
		line = strings.TrimSpace(line)
		return line != "" && !strings.HasPrefix(line, "//")
	})
}

// dedent takes away the tabs that all lines begin with.
func dedent(lines []string) []string {
	depth := -1
	for _, line := range lines {
		if line == "" {
			continue
		}
		if tabs := len(line) - len(strings.TrimLeft(line, "\t")); depth < 0 || tabs < depth {
			depth = tabs
		}
	}
	dedented := make([]string, len(lines))
	for i, line := range lines {
		if line != "" {
			dedented[i] = line[depth:]
		}
	}
	return dedented
}

// complete is nil when code is whole statements or whole declarations, and so not cut off in the middle of one.
func complete(code []string) error {
	if firstCode(code) < 0 {
		return errors.New("no code in it")
	}
	source := strings.Join(code, "\n")
	files := token.NewFileSet()
	_, statements := parser.ParseFile(files, "", "package p; func _() {\n"+source+"\n}", parser.SkipObjectResolution)
	if statements == nil {
		return nil
	}
	if _, declarations := parser.ParseFile(files, "", "package p;\n"+source, parser.SkipObjectResolution); declarations == nil {
		return nil
	}
	return statements
}
