package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func lockerModule(t *testing.T) *module {
	t.Helper()
	root, err := rootDir()
	require.NoError(t, err)
	m, err := load(root)
	require.NoError(t, err)
	return m
}

func requireNone(t *testing.T, faults []string) {
	t.Helper()
	if len(faults) > 0 {
		t.Error(strings.Join(faults, "\n"))
	}
}

func TestLayers(t *testing.T) { requireNone(t, lockerModule(t).layerFaults(lockerOrder)) }

func TestFunctionLength(t *testing.T) {
	requireNone(t, lockerModule(t).lengthFaults(lockerOrder, maxLines))
}

func TestPicture_IsCurrent(t *testing.T) {
	m := lockerModule(t)
	faults, err := m.pictureFaults()
	require.NoError(t, err)
	requireNone(t, faults)
}

func TestPicture_Stale(t *testing.T) {
	m := lockerModule(t)
	m.dir = t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(m.dir, "docs"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(m.dir, picturePath), []byte("<svg/>"), 0o644))
	faults, err := m.pictureFaults()
	require.NoError(t, err)
	require.Len(t, faults, 1)
}

func TestPage_NamesExist(t *testing.T) {
	m := lockerModule(t)
	page, err := os.ReadFile(filepath.Join(m.dir, pagePath))
	require.NoError(t, err)
	requireNone(t, m.pageFaults(string(page)))
}

// wrongOrder is the order that the module in testdata/wrong breaks in every way there is.
var wrongOrder = order{
	files:    []layer{{{"top.go", ""}}, {{"left.go", ""}, {"right.go", ""}}, {{"bottom.go", ""}, {"missing.go", ""}}},
	packages: []layer{{{"internal/high", ""}, {"internal/beside", ""}}, {{"internal/low", ""}}},
	testOnly: []string{"internal/fake"},
}

func wrongModule(t *testing.T) *module {
	t.Helper()
	m, err := load(filepath.Join("testdata", "wrong"))
	require.NoError(t, err)
	return m
}

func TestLayers_Broken(t *testing.T) {
	require.Equal(t, []string{
		"internal/unknown: is in no layer of the order",
		"stray.go: is in no layer of the order",
		"missing.go: is in the order, but does not exist",
		"bottom.go:6: bottom.go uses state of top.go, which is above it",
		"bottom.go:7: bottom.go uses count of top.go, which is above it", // a field
		"bottom.go:8: bottom.go uses grow of top.go, which is above it",  // a method
		"internal/beside/beside.go:4: internal/beside uses package high of internal/high, which is beside it",
		"internal/low/low.go:4: internal/low uses package beside of internal/beside, which is above it",
		"left.go:3: left.go uses right of right.go, which is beside it",
		"right.go:3: right.go uses left of left.go, which is beside it", // a pair that knows each other
		"top.go:4: top.go uses package fake of internal/fake, which is for tests only",
	}, wrongModule(t).layerFaults(wrongOrder))
}

func TestFunctionLength_Broken(t *testing.T) {
	m := wrongModule(t)
	require.Empty(t, m.lengthFaults(wrongOrder, 5))
	require.Equal(t, []string{"bottom.go:5: bottom has 5 lines, more than 4"}, m.lengthFaults(wrongOrder, 4))
}

func TestPage_Broken(t *testing.T) {
	page := strings.Join([]string{
		"`top.go`, `gone.go`, `low/low.go`, `low/gone.go`, `internal/low/`, `internal/gone/`,",
		"`state`, `state.grow`, `state.gone`, `gone`, `beside.Answer`, `beside.Gone`, `high.Answer`, `gone.Answer`, `nil`,",
		"[here](../top.go), [nowhere](gone.md), [elsewhere](https://go.dev/gone), `go run nothing`, `NAME/.waiting/`",
		"```",
		"grow() gone() gone",
		"```",
	}, "\n")
	require.Equal(t, []string{
		"1: gone.go does not exist", "1: low/gone.go does not exist", "1: internal/gone/ does not exist",
		"2: state.gone does not exist", "2: gone does not exist", "2: beside.Gone does not exist", "2: gone.Answer does not exist",
		"3: gone.md does not exist",
		"5: gone() does not exist",
	}, wrongModule(t).pageFaults(page))
}

// TestPicture_Follows proves that the picture changes with what is used.
func TestPicture_Follows(t *testing.T) {
	uses := wrongModule(t).uses()
	require.Equal(t, draw(wrongOrder, uses), draw(wrongOrder, uses))
	require.NotEqual(t, draw(wrongOrder, uses), draw(wrongOrder, nil))
}
