// Command layers checks that the units of this library use only what is below them, and draws them. Without a flag it
// prints the faults that it finds:
//
//	go run -C tests ./layers
//
// The tests of this package fail for the same faults. Run them with -count=1, as CI does: the cache of go test does not
// know that they read the library.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// maxLines is how long a function may be. Longer ones do more than one thing.
const maxLines = 40

// picturePath and pagePath are below the root of the module.
var (
	picturePath = filepath.Join("docs", "architecture.svg")
	pagePath    = filepath.Join("docs", "architecture.md")
)

func main() {
	write := flag.Bool("write", false, "draw docs/architecture.svg")
	flag.Parse()
	faults, err := run(*write)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	for _, fault := range faults {
		fmt.Println(fault)
	}
	if len(faults) > 0 {
		os.Exit(1)
	}
}

func run(write bool) (faults []string, err error) {
	root, err := rootDir()
	if err != nil {
		return nil, err
	}
	m, err := load(root)
	if err != nil {
		return nil, err
	}
	if write {
		if err := os.WriteFile(filepath.Join(root, picturePath), []byte(draw(lockerOrder, m.uses())), 0o644); err != nil {
			return nil, err
		}
	}
	faults, err = m.pictureFaults()
	if err != nil {
		return nil, err
	}
	page, err := os.ReadFile(filepath.Join(root, pagePath))
	if err != nil {
		return nil, err
	}
	faults = append(faults, m.layerFaults(lockerOrder)...)
	faults = append(faults, m.lengthFaults(lockerOrder, maxLines)...)
	for _, fault := range m.pageFaults(string(page)) {
		faults = append(faults, filepath.ToSlash(pagePath)+":"+fault)
	}
	return faults, nil
}

// pictureFaults says whether the committed picture is not that of the code.
func (m *module) pictureFaults() ([]string, error) {
	committed, err := os.ReadFile(filepath.Join(m.dir, picturePath))
	if err != nil || string(committed) == draw(lockerOrder, m.uses()) {
		return nil, err
	}
	return []string{filepath.ToSlash(picturePath) + ": is stale; draw it with: go run -C tests ./layers -write"}, nil
}

// rootDir is the directory of the library, which the go.mod of the tests names.
func rootDir() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/PumpkinSeed/locker").Output()
	return strings.TrimSpace(string(out)), err
}
