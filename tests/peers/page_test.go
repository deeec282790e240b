package peers

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	declared = regexp.MustCompile(`(?m)^func (Test[A-Z]\w*)\(t `)
	named    = regexp.MustCompile(`\bTest[A-Z]\w*`)
)

// testsIn adds the tests of a folder.
func testsIn(t *testing.T, folder string, tests map[string]bool) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, match := range declared.FindAllSubmatch(source, -1) {
			tests[string(match[1])] = true
		}
	}
}

// The last column of the tables in docs/peers-tests.md names tests that exist, and every test of this folder.
func TestPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "peers-tests.md"))
	require.NoError(t, err)
	here, all, seen := map[string]bool{}, map[string]bool{}, map[string]bool{"TestPage": true}
	testsIn(t, ".", here)
	for _, folder := range []string{".", "../..", "../security", "../trials"} {
		testsIn(t, folder, all)
	}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(line, "|\n "), "|")
		for _, name := range named.FindAllString(cells[len(cells)-1], -1) {
			if len(cells) > 1 {
				require.Contains(t, all, name)
				seen[name] = true
			}
		}
	}
	for name := range here {
		require.Contains(t, seen, name)
	}
}
