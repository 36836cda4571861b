package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../.."

// rooms is the import graph: what each package of corewire may import of corewire. A package that is not listed takes
// the line of its longest listed prefix.
var rooms = map[string][]string{
	"internal/packet":            {},
	"internal/spelling":          {},
	"internal/packet/packettest": {"internal/packet"},
	"ring":                       {"internal/spelling", "internal/packet", "ring"},
	"conntrack":                  {"internal/packet"},
	"internal/ipset":             {"internal/spelling", "internal/packet"},
	"rules":                      {"internal/spelling", "internal/packet", "internal/ipset"},
	"dataplane":                  {"internal/packet", "internal/ipset", "ring", "conntrack", "rules"},
	"internal/config":            {"internal/spelling", "internal/packet", "internal/ipset", "conntrack", "dataplane", "ring", "rules"},
	"internal/packetlog":         {"internal/packet"},
	"internal/control":           {"internal/packet", "internal/ipset", "internal/packetlog", "internal/config", "conntrack", "dataplane", "ring", "rules"},
	"internal/replay":            {"internal/packet", "internal/ipset", "conntrack", "dataplane", "ring", "rules"},
	"internal/arch":              {},
	"cmd":                        {"*"},
	"tools":                      {"*"},
	"bench":                      {"*"},
}

// forbidden is what a package may not import from outside, and why.
var forbidden = []struct{ pkg, imp, why string }{
	{"internal/packet", "os", "it parses bytes"},
	{"internal/packet", "net", "it parses bytes; net/netip has the address type"},
	{"conntrack", "os", "it tracks what it is given"},
	{"internal/ipset", "os", "the caller reads files and gives the text"},
	{"rules", "os", "the caller reads files and gives the text"},
	{"dataplane", "os", "files belong to cmd"},
	{"dataplane", "net/http", "the management API is internal/control"},
	{"dataplane", "log", "libraries never log"},
	{"dataplane", "log/slog", "libraries never log"},
	{"ring", "log", "libraries never log"},
	{"ring", "log/slog", "libraries never log"},
	{"conntrack", "log", "libraries never log"},
	{"conntrack", "log/slog", "libraries never log"},
	{"rules", "log", "libraries never log"},
	{"rules", "log/slog", "libraries never log"},
}

// timeless packages never ask the time: the caller reads its clock once a burst, so captures replay in their own time.
var timeless = []string{"internal/packet", "internal/ipset", "conntrack", "rules"}

type file struct {
	path, pkg string // relative to the root; pkg is the directory
	test      bool
	ast       *ast.File
}

func sources(t *testing.T) []file {
	t.Helper()
	var out []file
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if rel != "." && strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || rel == "bin" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, file{rel, filepath.Dir(rel), strings.HasSuffix(path, "_test.go"), f})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 20 {
		t.Fatalf("found %d source files only: is the root right?", len(out))
	}
	return out
}

func imports(f file) []string {
	var out []string
	for _, i := range f.ast.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		out = append(out, p)
	}
	return out
}

func line(pkg string) ([]string, bool) {
	for p := pkg; p != "."; p = filepath.Dir(p) {
		if l, ok := rooms[p]; ok {
			return l, true
		}
	}
	return nil, false
}

func TestImports(t *testing.T) {
	for _, f := range sources(t) {
		allowed, ok := line(f.pkg)
		if !ok {
			t.Errorf("%s: package %s is in no room (add it to the graph, with its reason)", f.path, f.pkg)
			continue
		}
		for _, imp := range imports(f) {
			rel, ours := strings.CutPrefix(imp, "corewire/")
			if ours && !slices.Contains(allowed, "*") && rel != f.pkg {
				inRoom := slices.ContainsFunc(allowed, func(a string) bool { return rel == a || strings.HasPrefix(rel, a+"/") })
				testOnly := f.test && (rel == "internal/packet/packettest" || rel == "tools/lab" || strings.HasPrefix(rel, f.pkg+"/"))
				if !inRoom && !testOnly {
					t.Errorf("%s imports %s, which its room must not know", f.path, imp)
				}
			}
			if f.test {
				continue
			}
			for _, b := range forbidden {
				if f.pkg == b.pkg && imp == b.imp {
					t.Errorf("%s imports %s: %s", f.path, imp, b.why)
				}
			}
		}
	}
}

func TestUnsafe(t *testing.T) {
	for _, f := range sources(t) {
		if slices.Contains(imports(f), "unsafe") && !strings.Contains(f.path, "_unsafe") {
			t.Errorf("%s imports unsafe (move that code to a file named *_unsafe.go)", f.path)
		}
	}
}

func TestTimeless(t *testing.T) {
	for _, f := range sources(t) {
		if f.test || !slices.Contains(timeless, f.pkg) {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := s.X.(*ast.Ident)
			if ok && x.Name == "time" && (s.Sel.Name == "Now" || s.Sel.Name == "Since") {
				t.Errorf("%s asks the time (it is passed in)", f.path)
			}
			return true
		})
	}
}

func TestTopLevel(t *testing.T) {
	want := []string{"LICENSE", "Makefile", "README.md", "bench", "cmd", "conntrack", "dataplane", "go.mod", "go.sum", "internal", "ring", "rules", "tools"}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	// What git ignores, such as a binary that go build has left, is no part of the tree.
	list, err := os.ReadFile(filepath.Join(root, ".gitignore"))
	if err != nil {
		t.Fatal(err)
	}
	ignored := strings.Fields(string(list))
	var got []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(ignored, "/"+e.Name()) && !slices.Contains(ignored, "/"+e.Name()+"/") {
			got = append(got, e.Name())
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("top level is %v, want exactly %v", got, want)
	}
}

func TestPackageDocs(t *testing.T) {
	docs := map[string]bool{}
	for _, f := range sources(t) {
		if f.test {
			continue
		}
		docs[f.pkg] = docs[f.pkg] || f.ast.Doc != nil
	}
	for pkg, ok := range docs {
		if !ok {
			t.Errorf("package %s has no package comment (write doc.go: overview, ownership, life cycle, concurrency, references)", pkg)
		}
	}
}
