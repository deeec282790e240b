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
		r.lines(filepath.Join(dir, "pairs.svg"), "Lock + unlock, each locker its own key", "pairs/s", false),
		r.lines(filepath.Join(dir, "latency.svg"), "Lock + unlock, each locker its own key", "p99 ms", true),
		r.lines(filepath.Join(dir, "proposals.svg"), "Raft proposals for 1,000 lock + unlock pairs", "proposals/1000", true),
		r.bars(filepath.Join(dir, "handover.svg"), "One lock that all want, held for 1 ms", "hand-overs/s"),
	)
}

// lines shows a metric of the pairs, over the number of lockers: medians, and bars from the lowest to the highest.
func (r *results) lines(path, title, metric string, log bool) error {
	p := newChart(title, metric)
	p.X.Label.Text = "lockers"
	p.X.Scale = plot.LogScale{}
	p.Legend.Left = true
	var ticks plot.ConstantTicks
	for _, f := range r.figures {
		label := fmt.Sprint(f.N)
		if f.Metric == metric && f.Peer == ours && f.Scenario == "pairs" {
			ticks = append(ticks, plot.Tick{Value: float64(f.N), Label: label})
		}
	}
	if ticks == nil {
		return nil
	}
	p.X.Tick.Marker = ticks
	for _, peer := range peers {
		var at plotter.XYs
		var spread plotter.YErrors
		for _, f := range r.figures {
			if f.Metric == metric && f.Peer == peer.name && f.Scenario == "pairs" {
				at = append(at, plotter.XY{X: float64(f.N), Y: f.Median})
				spread = append(spread, struct{ Low, High float64 }{f.Median - slices.Min(f.Rounds), slices.Max(f.Rounds) - f.Median})
			}
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
	}
	if log {
		p.Y.Scale = plot.LogScale{}
		p.Y.Tick.Marker = plot.LogTicks{Prec: -1}
	} else {
		p.Y.Min = 0
	}
	return save(p, path)
}

// bars shows a metric of the hand-overs.
func (r *results) bars(path, title, metric string) error {
	p := newChart(title, metric)
	p.Y.Min = 0
	const width vg.Length = 24
	for i, peer := range waiting {
		var heights plotter.Values
		var crowds []string
		for _, f := range r.figures {
			if f.Metric == metric && f.Peer == peer.name && f.Scenario == "handover" {
				heights = append(heights, f.Median)
				crowds = append(crowds, fmt.Sprint(f.N, " ", f.Of))
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
		p.NominalX(crowds...)
	}
	return save(p, path)
}

func newChart(title, metric string) *plot.Plot {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	p := plot.New()
	p.Title.Text, p.Title.Padding = title, vg.Points(10)
	p.Y.Label.Text = metric
	p.Legend.Top = true
	p.Legend.Padding = vg.Points(3)
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = color.Gray{225}
	p.Add(grid)
	return p
}

// save writes a chart as SVG. Its font has the measures of others that are better known.
func save(p *plot.Plot, path string) error {
	canvas := vgsvg.New(chartWidth, chartHeight)
	p.Draw(draw.New(canvas))
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return err
	}
	out := bytes.ReplaceAll(svg.Bytes(), []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;"))
	return os.WriteFile(path, out, 0o644)
}
