package main

import (
	"fmt"
	"go/ast"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	codeSpan   = regexp.MustCompile("`([^`]+)`")
	link       = regexp.MustCompile(`\]\(([^)#]+)`)
	filePath   = regexp.MustCompile(`^[\w./-]+\.(go|md|svg|mod)$|^(internal|tests|docs|\.ci)/[\w./-]*$`)
	identifier = regexp.MustCompile(`^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(\))?$`)
	call       = regexp.MustCompile(`(\w+)\(\)`)
)

// pageFaults says which names in a Markdown page, as "line: name", stand for nothing in the module:
//   - in backquotes: a path of a file or directory, from the root of the module or from internal/; or a Go name, which is
//     one of the root package (Client.Lock), or of another package (holds.Table.Begin), imported ones among them;
//   - in a fenced block: the name of a function, if it is written with parentheses: Begin();
//   - the target of a link, from docs/.
func (m *module) pageFaults(page string) []string {
	var faults []string
	functions := m.functions()
	fenced := false
	n := 0
	for line := range strings.Lines(page) {
		n++
		wrong := func(name string) { faults = append(faults, fmt.Sprintf("%d: %s does not exist", n, name)) }
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			continue
		}
		if fenced {
			for _, f := range call.FindAllStringSubmatch(line, -1) {
				if !functions[f[1]] {
					wrong(f[0])
				}
			}
			continue
		}
		for _, l := range link.FindAllStringSubmatch(line, -1) {
			if !strings.Contains(l[1], "://") && !m.exists("docs", l[1]) {
				wrong(l[1])
			}
		}
		for _, s := range codeSpan.FindAllStringSubmatch(line, -1) {
			switch name := s[1]; {
			case filePath.MatchString(name):
				if !m.exists(name) && !m.exists("internal", name) {
					wrong(name)
				}
			case identifier.MatchString(name) && !m.defines(strings.Split(strings.TrimSuffix(name, "()"), ".")):
				wrong(name)
			}
		}
	}
	return faults
}

func (m *module) exists(path ...string) bool {
	_, err := os.Stat(filepath.Join(m.dir, filepath.Join(path...)))
	return err == nil
}

// functions are the names of all functions and methods.
func (m *module) functions() map[string]bool {
	names := map[string]bool{}
	for _, p := range m.packages {
		for _, file := range p.Syntax {
			for _, decl := range file.Decls {
				if fn, ok := decl.(*ast.FuncDecl); ok {
					names[fn.Name.Name] = true
				}
			}
		}
	}
	return names
}

// defines reports whether a name, in its parts, is that of a package, or of something that one defines.
func (m *module) defines(parts []string) bool {
	for _, p := range m.packages {
		if p.PkgPath == m.path && defined(p.Types, parts) {
			return true
		}
		for _, named := range append(p.Types.Imports(), p.Types) {
			if named.Name() == parts[0] && (len(parts) == 1 || defined(named, parts[1:])) {
				return true
			}
		}
	}
	return len(parts) == 1 && types.Universe.Lookup(parts[0]) != nil
}

// defined reports whether a package has an object of that name, whose second part, and so on, is a field or a method.
func defined(p *types.Package, parts []string) bool {
	object := p.Scope().Lookup(parts[0])
	for _, part := range parts[1:] {
		if object == nil {
			return false
		}
		object, _, _ = types.LookupFieldOrMethod(object.Type(), true, p, part)
	}
	return object != nil
}
