package readme

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// testsIn returns the names of the test functions in a Go file, or in all of those in a folder.
func testsIn(t *testing.T, path string) map[string]bool {
	t.Helper()
	files := []string{path}
	if filepath.Ext(path) != ".go" {
		var err error
		files, err = filepath.Glob(filepath.Join(path, "*_test.go"))
		require.NoError(t, err)
	}
	names := map[string]bool{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, decl := range parsed.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && testName.MatchString(fn.Name.Name) {
				names[fn.Name.Name] = true
			}
		}
	}
	delete(names, "TestMain")
	return names
}

// testName is the name of a test, on its own or in the middle of a text.
var testName = regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w*`)

// promises returns the list in the documentation of the package, each promise as one line.
func promises(t *testing.T, root string) (list []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "locker.go"), nil, parser.ParseComments|parser.PackageClauseOnly)
	require.NoError(t, err)
	text := parsed.Doc.Text()
	_, text, found := strings.Cut(text, "What is promised:\n")
	require.True(t, found)
	text, _, found = strings.Cut(text, "What is not promised")
	require.True(t, found)
	for _, item := range strings.Split(text, "\n  - ")[1:] {
		list = append(list, strings.Join(strings.Fields(item), " "))
	}
	require.NotEmpty(t, list)
	return list
}

// docs/tests.md has a section for each promise of the package, with its words for a title. Every test that it names is
// in the file or folder that it names before, and no test of a promise's own file is missing.
func TestPageOfTests(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, "docs", "tests.md"))
	require.NoError(t, err)
	sections := map[string]string{}
	var titles []string
	for _, section := range strings.Split(string(page), "\n## ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		sections[title] = body
		titles = append(titles, title)
	}
	list := promises(t, root)
	require.Equal(t, append(list, "Beside the promises"), titles)
	for _, promise := range list {
		named := map[string]bool{}
		for i, line := range strings.Split(sections[promise], "\n- ")[1:] {
			parts := strings.Split(line, "`")
			require.Greater(t, len(parts), 1, line)
			tests := testsIn(t, filepath.Join(root, parts[1]))
			for _, name := range testName.FindAllString(line, -1) {
				require.Contains(t, tests, name, "in %s, under %q", parts[1], promise)
				named[name] = true
			}
			if i == 0 {
				for name := range tests {
					require.Contains(t, named, name, "%s is the file of the promise %q", parts[1], promise)
				}
			}
		}
		require.NotEmpty(t, named, promise)
	}
	for _, file := range regexp.MustCompile("`([a-z_]+_test\\.go)`").FindAllStringSubmatch(sections["Beside the promises"], -1) {
		require.FileExists(t, filepath.Join(root, file[1]))
	}
}

// tests/README.md has every folder of the nested module.
func TestPageOfFolders(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "README.md"))
	require.NoError(t, err)
	entries, err := os.ReadDir("..")
	require.NoError(t, err)
	for _, entry := range entries {
		if entry.IsDir() {
			require.Contains(t, string(page), "`"+entry.Name()+"`")
		}
	}
}

// The tests of the library that are skipped with some servers are named by patterns, and a pattern that fits no test says
// nothing.
func TestSkippedTestsExist(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "versions", "versions_test.go"))
	require.NoError(t, err)
	tests := testsIn(t, filepath.Join("..", ".."))
	text, named := string(source), 0
	for _, literal := range regexp.MustCompile(`"[^"\n]*"`).FindAllString(text, -1) {
		for _, name := range testName.FindAllString(literal, -1) {
			require.Contains(t, tests, name)
			named++
		}
	}
	require.Positive(t, named)
}
