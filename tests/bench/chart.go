package main

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

const (
	chartWidth  = 7 * vg.Inch
	chartHeight = 4 * vg.Inch
)

// looks tell the peers apart, also without colours: these are for readers who see few of them (Okabe and Ito).
var looks = map[string]struct {
	color color.RGBA
	width vg.Length
	shape draw.GlyphDrawer
}{
	ours:          {color.RGBA{0, 114, 178, 255}, 3, draw.CircleGlyph{}},
	bare:          {color.RGBA{130, 130, 130, 255}, 1, draw.CrossGlyph{}},
	mutexShared:   {color.RGBA{213, 94, 0, 255}, 1, draw.SquareGlyph{}},
	mutexEach:     {color.RGBA{230, 159, 0, 255}, 1, draw.TriangleGlyph{}},
	serverSide:    {color.RGBA{0, 158, 115, 255}, 1, draw.PlusGlyph{}},
	forksProtocol: {color.RGBA{204, 121, 167, 255}, 1, draw.PyramidGlyph{}},
}

// draw draws the charts for which there are figures.
func (r *results) draw(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		r.lines(dir, "pairs", "Lock + unlock pairs a second, each locker with its own key", "pairs/s"),
		r.lines(dir, "latency", "Lock + unlock: p99 in ms, each locker with its own key", "p99 ms"),
		r.lines(dir, "proposals", "Raft proposals for 1,000 lock + unlock pairs", "proposals/1000"),
		r.bars(dir, "handover", "One lock that all want: hand-overs a second, held for 1 ms", "hand-overs/s"),
	)
}

// lines shows a metric of the pairs, over the number of lockers: medians, and bars from the lowest to the highest.
func (r *results) lines(dir, name, title, metric string) error {
	p := newChart(title)
	p.X.Label.Text = "lockers"
	p.X.Scale = plot.LogScale{}
	p.Y.Scale = plot.LogScale{}
	p.Y.Tick.Marker = plot.LogTicks{Prec: -1}
	var ticks plot.ConstantTicks
	for _, peer := range peers {
		at, spread := r.pairsOf(peer.name, metric)
		if at == nil {
			return nil
		}
		look := looks[peer.name]
		line, points, err := plotter.NewLinePoints(at)
		if err != nil {
			return err
		}
		errorBars, err := plotter.NewYErrorBars(struct {
			plotter.XYs
			plotter.YErrors
		}{at, spread})
		if err != nil {
			return err
		}
		line.Color, line.Width = look.color, look.width
		points.Color, points.Shape, points.Radius = look.color, look.shape, 4
		errorBars.Color = look.color
		p.Add(line, points, errorBars)
		p.Legend.Add(peer.name, line, points)
		ticks = nil
		for _, xy := range at {
			ticks = append(ticks, plot.Tick{Value: xy.X, Label: fmt.Sprint(xy.X)})
		}
	}
	p.X.Tick.Marker = ticks
	p.X.Min, p.X.Max = p.X.Min/1.3, p.X.Max*25 // to the right there is the legend
	return save(p, dir, name)
}

// pairsOf are the points of one line, and its error bars.
func (r *results) pairsOf(peer, metric string) (at plotter.XYs, spread plotter.YErrors) {
	for _, f := range r.figures {
		if f.Scenario == "pairs" && f.Metric == metric && f.Peer == peer {
			at = append(at, plotter.XY{X: float64(f.N), Y: f.Median})
			spread = append(spread, struct{ Low, High float64 }{f.Median - slices.Min(f.Rounds), slices.Max(f.Rounds) - f.Median})
		}
	}
	return at, spread
}

// bars shows a metric of the hand-overs.
func (r *results) bars(dir, name, title, metric string) error {
	p := newChart(title)
	crowds := 0
	const width vg.Length = 24
	for i, peer := range waiting {
		var heights plotter.Values
		var labels []string
		for _, f := range r.figures {
			if f.Metric == metric && f.Peer == peer.name && f.Scenario == "handover" {
				heights = append(heights, f.Median)
				labels = append(labels, fmt.Sprint(f.N, " ", f.Of))
			}
		}
		if heights == nil {
			return nil
		}
		bars, err := plotter.NewBarChart(heights, width)
		if err != nil {
			return err
		}
		bars.Color, bars.LineStyle.Width = looks[peer.name].color, 0
		bars.Offset = width * vg.Length(float64(i)-float64(len(waiting)-1)/2)
		p.Add(bars)
		p.Legend.Add(peer.name, bars)
		p.NominalX(labels...)
		crowds = len(labels)
	}
	p.X.Min, p.X.Max = -0.6, float64(crowds)+1.7 // to the right there is the legend
	p.Y.Min = 0
	return save(p, dir, name)
}

func newChart(title string) *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.Title.Text, p.Title.Padding = title, 10
	p.Title.TextStyle.Font.Size = 13
	p.Legend.Top, p.Legend.Left = true, true // text after the marks, should it be set in a wider font
	p.Legend.XOffs = 0.645 * chartWidth
	p.X.Tick.Label.Font.Size, p.Y.Tick.Label.Font.Size = 9, 9
	p.Legend.Padding, p.Legend.TextStyle.Font.Size = 3, 10
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = color.Gray{225}
	p.Add(grid)
	return p
}

// save writes a chart as SVG. Where the reader has not its font, others do: they have the same measures.
func save(p *plot.Plot, dir, name string) error {
	canvas := vgsvg.New(chartWidth, chartHeight)
	p.Draw(draw.Crop(draw.New(canvas), 6, -6, 6, -6))
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return err
	}
	out := bytes.ReplaceAll(svg.Bytes(), []byte("font-family:Liberation Sans;"),
		[]byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;"))
	return os.WriteFile(filepath.Join(dir, name+".svg"), out, 0o644)
}
