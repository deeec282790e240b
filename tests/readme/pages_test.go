package readme

import (
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pages returns the Markdown files of the root and of docs, by their paths.
func pages(t *testing.T, root string) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		require.NotEmpty(t, files)
		for _, file := range files {
			name, err := filepath.Rel(root, file)
			require.NoError(t, err)
			found[filepath.ToSlash(name)], err = os.ReadFile(file)
			require.NoError(t, err)
		}
	}
	return found
}

// A stranger reads the README to its end.
func TestReadmeIsShort(t *testing.T) {
	markdown := pages(t, filepath.Join("..", ".."))["README.md"]
	require.Less(t, len(strings.Fields(string(markdown))), 1800, "words")
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noLabel = regexp.MustCompile("[^a-z0-9 _-]")
)

// anchors are the names by which GitHub knows the headings of a page.
func anchors(markdown []byte) map[string]bool {
	found := map[string]bool{}
	for _, title := range heading.FindAllSubmatch(markdown, -1) {
		name := noLabel.ReplaceAllString(strings.ToLower(string(title[1])), "")
		found[strings.ReplaceAll(name, " ", "-")] = true
	}
	return found
}

// Every link to a file or a section of this repository leads somewhere.
func TestLinks(t *testing.T) {
	root := filepath.Join("..", "..")
	all, followed := pages(t, root), 0
	for from, markdown := range all {
		for _, match := range link.FindAllSubmatch(markdown, -1) {
			target, section, _ := strings.Cut(string(match[1]), "#")
			if strings.Contains(target, "://") {
				continue
			}
			to := from
			if target != "" {
				to = path.Join(path.Dir(from), target)
			}
			if _, err := os.Stat(filepath.Join(root, to)); err != nil {
				t.Errorf("%s: %s does not exist", from, match[1])
			}
			if section != "" && !anchors(all[to])[section] {
				t.Errorf("%s: %s has no such section", from, match[1])
			}
			followed++
		}
	}
	require.Positive(t, followed)
}

// install is how a module gets this code from a clone beside it.
var install = []string{
	"go mod edit -replace github.com/PumpkinSeed/locker=../locker",
	"go mod tidy",
}

// A module that uses the library is built with it after the commands of the README.
func TestInstall(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	module := filepath.Join(t.TempDir(), "service")
	require.NoError(t, os.Mkdir(module, 0o700))
	require.NoError(t, os.Symlink(root, filepath.Join(filepath.Dir(module), "locker")))
	require.NoError(t, os.WriteFile(filepath.Join(module, "main.go"), []byte(`package main

import "github.com/PumpkinSeed/locker"

func main() { _ = locker.Client{}.Close() }
`), 0o600))
	for _, command := range append(append([]string{"go mod init example.com/service"}, install...), "go run .") {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Dir = module
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", command, out)
	}
}
