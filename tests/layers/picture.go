package main

import (
	"fmt"
	"strings"
)

// Sizes of the picture, in pixels.
const (
	margin  = 24
	roleLen = 200 // for the text beside the first box
	columns = 43  // from one column to the next
	rows    = 36
	height  = 24 // of a box
	glyph   = 7.3
	inset   = 15 // from the column of a box to its right edge
	heading = 40 // above each part
)

// The colours are set for both modes of a page, with the background, so that the text can be read whatever the page's
// own background is.
const style = `<style>
text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1f2328 }
.role, .note { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #59636e }
.role { text-anchor: end; font-size: 11.5px }
.name { text-anchor: middle }
.title { font: 600 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif }
.page { fill: #ffffff }
.band { fill: #f3f5f7 }
.file { fill: #ddf4ff; stroke: #0969da }
.package { fill: #dafbe1; stroke: #1a7f37 }
.line { fill: none; stroke-width: 1.2 }
.to-file { stroke: #0969da } .dot.to-file, .head.to-file { fill: #0969da; stroke: none }
.to-package { stroke: #1a7f37 } .dot.to-package, .head.to-package { fill: #1a7f37; stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc }
.role, .note { fill: #9198a1 }
.page { fill: #0d1117 }
.band { fill: #161b22 }
.file { fill: #0c2d6b; stroke: #4493f8 }
.package { fill: #0f3d1c; stroke: #3fb950 }
.to-file { stroke: #4493f8 } .dot.to-file, .head.to-file { fill: #4493f8 }
.to-package { stroke: #3fb950 } .dot.to-package, .head.to-package { fill: #3fb950 }
}
</style>
`

// A box is a unit on the picture. The boxes are the steps of a staircase, so a line from a box to one below it can run
// to the right, turn once and fall on it from above: it meets neither a box nor a text on its way.
type box struct {
	unit
	kind  string // file or package
	x, y  int    // its column, and the middle of its row
	width int
}

// A picture is an SVG of the layers of an order and of what their units use.
type picture struct {
	strings.Builder
	width, height int
}

// draw returns the picture as SVG. The same uses give the same bytes.
func draw(o order, uses []use) string {
	units := o.units()
	var p picture
	x := margin + roleLen + int(glyph*float64(len(units[0].name))) + 20 - inset
	p.width = x + columns*(len(units)-1) + inset + margin
	p.height = 2*heading + 30 + rows*len(units) + margin

	var boxes []box
	y := 30
	for _, part := range []struct {
		kind, title string
		layers      []layer
	}{
		{"file", "package locker, by files", o.files},
		{"package", "internal packages", o.packages},
	} {
		fmt.Fprintf(&p, "<text class=\"title\" x=\"%d\" y=\"%d\">%s</text>\n", margin, y+heading-12, part.title)
		y += heading
		for i, l := range part.layers {
			if i%2 == 0 {
				fmt.Fprintf(&p, "<rect class=\"band\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/>\n", margin/2, y, p.width-margin, rows*len(l))
			}
			for _, r := range l {
				boxes = append(boxes, box{unit: r, kind: part.kind, x: x, y: y + rows/2, width: int(glyph*float64(len(r.name))) + 20})
				x, y = x+columns, y+rows
			}
		}
	}
	p.arrows(boxes, uses)
	for _, b := range boxes {
		p.box(b)
	}
	return fmt.Sprintf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"The layers of the library\">\n",
		p.width, p.height, p.width, p.height) + style +
		fmt.Sprintf("<rect class=\"page\" width=\"%d\" height=\"%d\" rx=\"8\"/>\n", p.width, p.height) +
		fmt.Sprintf("<text class=\"note\" x=\"%d\" y=\"24\">A line leaves the user to the right and turns down, at a dot, to what is used. Lines without a dot only cross.</text>\n", margin) +
		p.String() + "</svg>\n"
}

func (p *picture) box(b box) {
	left := b.x + inset - b.width
	fmt.Fprintf(p, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"4\"/>\n", b.kind, left, b.y-height/2, b.width, height)
	fmt.Fprintf(p, "<text class=\"name\" x=\"%d\" y=\"%d\">%s</text>\n", left+b.width/2, b.y+4, b.name)
	fmt.Fprintf(p, "<text class=\"role\" x=\"%d\" y=\"%d\">%s</text>\n", left-10, b.y+4, b.role)
}

// arrows draws one line to the right for every box that uses others, one down for every box that is used, and a dot
// where the two belong together.
func (p *picture) arrows(boxes []box, uses []use) {
	used := map[[2]string]bool{}
	for _, u := range uses {
		used[[2]string{u.from, u.to}] = true
	}
	for i, from := range boxes {
		var last *box
		for j := range boxes[i+1:] {
			if to := &boxes[i+1+j]; used[[2]string{from.name, to.name}] {
				last = to
			}
		}
		if last != nil {
			fmt.Fprintf(p, "<path class=\"line to-%s\" d=\"M%d %dH%d\"/>\n", from.kind, from.x+inset, from.y, last.x)
		}
	}
	for i, to := range boxes {
		top, first := to.y-height/2, 0
		for _, from := range boxes[:i] {
			if used[[2]string{from.name, to.name}] {
				if first == 0 {
					first = from.y
				}
				fmt.Fprintf(p, "<circle class=\"dot to-%s\" cx=\"%d\" cy=\"%d\" r=\"3.5\"/>\n", to.kind, to.x, from.y)
			}
		}
		if first > 0 {
			fmt.Fprintf(p, "<path class=\"line to-%s\" d=\"M%d %dV%d\"/>\n", to.kind, to.x, first, top-6)
			fmt.Fprintf(p, "<path class=\"head to-%s\" d=\"M%d %dl-4 -8h8z\"/>\n", to.kind, to.x, top)
		}
	}
}
