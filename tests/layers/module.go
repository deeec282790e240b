package main

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/tools/go/packages"
)

// A module is the library code of a Go module, type-checked: without its tests.
type module struct {
	dir      string
	path     string
	files    *token.FileSet
	packages []*packages.Package
}

func load(dir string) (*module, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	m := &module{dir: dir, files: token.NewFileSet()}
	m.packages, err = packages.Load(&packages.Config{
		Dir: dir, Fset: m.files,
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports |
			packages.NeedTypes | packages.NeedTypesInfo | packages.NeedSyntax | packages.NeedModule,
	}, "./...")
	if err != nil {
		return nil, err
	}
	for _, p := range m.packages {
		for _, e := range p.Errors {
			err = errors.Join(err, e)
		}
	}
	if err == nil && (len(m.packages) == 0 || m.packages[0].Module == nil) {
		err = fmt.Errorf("no module in %s", dir)
	}
	if err != nil {
		return nil, err
	}
	m.path = m.packages[0].Module.Path
	return m, nil
}

// position is where something is, in a file named from the module's root.
func (m *module) position(pos token.Pos) token.Position {
	p := m.files.Position(pos)
	if name, err := filepath.Rel(m.dir, p.Filename); err == nil {
		p.Filename = filepath.ToSlash(name)
	}
	return p
}

// unit is the unit that a file is in.
func (m *module) unit(p *packages.Package, file *ast.File) string {
	if p.PkgPath == m.path {
		return m.position(file.Package).Filename
	}
	return strings.TrimPrefix(p.PkgPath, m.path+"/")
}

// A use is the place where one unit uses another.
type use struct {
	from, to string
	name     string // what is used: an identifier of the root package, or the path of a package
	at       token.Position
}

func (u use) String() string {
	return fmt.Sprintf("%s:%d: %s uses %s of %s", u.at.Filename, u.at.Line, u.from, u.name, u.to)
}

// uses are all uses of one unit by another, in the order of their places.
func (m *module) uses() []use {
	var found []use
	for _, p := range m.packages {
		for _, file := range p.Syntax {
			unit := m.unit(p, file)
			for _, spec := range file.Imports {
				path, _ := strconv.Unquote(spec.Path.Value)
				if to, ok := strings.CutPrefix(path, m.path+"/"); ok {
					found = append(found, use{unit, to, "package " + filepath.Base(path), m.position(spec.Pos())})
				}
			}
		}
		if p.PkgPath != m.path {
			continue
		}
		for id, object := range p.TypesInfo.Uses { // fields and methods among them
			if object.Pkg() != p.Types {
				continue
			}
			at, defined := m.position(id.Pos()), m.position(object.Pos())
			if at.Filename != defined.Filename {
				found = append(found, use{at.Filename, defined.Filename, id.Name, at})
			}
		}
	}
	slices.SortFunc(found, func(a, b use) int {
		return cmp.Or(cmp.Compare(a.at.Filename, b.at.Filename), cmp.Compare(a.at.Offset, b.at.Offset))
	})
	return found
}

// layerFaults says where the module does not keep to an order. Two units that know each other are always among the
// faults, because one of them uses what is not below it.
func (m *module) layerFaults(o order) []string {
	var faults []string
	ranks := o.ranks()
	exist := map[string]bool{}
	for _, p := range m.packages {
		for _, file := range p.Syntax {
			exist[m.unit(p, file)] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(exist)) {
		if _, ok := ranks[name]; !ok && !slices.Contains(o.testOnly, name) {
			faults = append(faults, name+": is in no layer of the order")
		}
	}
	for _, r := range o.units() {
		if !exist[r.name] {
			faults = append(faults, r.name+": is in the order, but does not exist")
		}
	}
	for _, u := range m.uses() {
		from, ok := ranks[u.from]
		if !ok {
			continue // for tests only, or named above
		}
		to, ok := ranks[u.to]
		switch {
		case slices.Contains(o.testOnly, u.to):
			faults = append(faults, u.String()+", which is for tests only")
		case ok && to < from:
			faults = append(faults, u.String()+", which is above it")
		case ok && to == from:
			faults = append(faults, u.String()+", which is beside it")
		}
	}
	return faults
}

// lengthFaults says which functions of the units of an order have more lines than that.
func (m *module) lengthFaults(o order, most int) []string {
	var faults []string
	ranks := o.ranks()
	for _, p := range m.packages {
		for _, file := range p.Syntax {
			if _, ok := ranks[m.unit(p, file)]; !ok {
				continue
			}
			for _, decl := range file.Decls {
				fn, ok := decl.(*ast.FuncDecl)
				if !ok {
					continue
				}
				first, last := m.position(fn.Pos()), m.position(fn.End())
				if lines := last.Line - first.Line + 1; lines > most {
					faults = append(faults, fmt.Sprintf("%s:%d: %s has %d lines, more than %d",
						first.Filename, first.Line, fn.Name.Name, lines, most))
				}
			}
		}
	}
	return faults
}
