/// @file
/// The curves of a run as a picture.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/train/log/axis.hpp>
#include <dm2/train/log/canvas.hpp>
#include <dm2/train/log/chart_text.hpp>
#include <dm2/train/log/curve.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

namespace dm2 {

/// Curves that share their axes.
struct chart_panel {
  std::string title;                ///< above the panel, such as "loss"
  std::vector<chart_curve> curves;  ///< each in its colour; the ninth has the first one's again
  bool log_y = false;               ///< a logarithmic y axis
};

/// A chart's panels, from the left, then down.
struct chart {
  std::string title;                ///< above all; may be empty
  std::string x_title;              ///< below, such as "step"; may be empty
  std::vector<chart_panel> panels;  ///< at least one
  int columns = 0;                  ///< panels beside each other; 0 is one up to three panels, two for more
  int panel_width = 1200;           ///< pixels, 300 to 10000
  int panel_height = 420;           ///< pixels, 200 to 10000
  double smoothing = 0;  ///< how far a smoothed curve's neighbours count, of the x axis's length, [0, 1); the
                         ///< curve itself then stands behind it in a light tint
  bool log_x = false;    ///< logarithmic x axes
};

namespace detail {

/// A chart's style: text is `size` pixels high throughout.
struct chart_look {
  double size = 22;
  ink paper{255, 255, 255}, text{36, 41, 47}, quiet{101, 109, 118}, line{227, 231, 236}, base{175, 184, 193};
  std::array<ink, 8> curves{{{31, 111, 235},
                             {219, 97, 9},
                             {26, 140, 82},
                             {143, 70, 214},
                             {207, 34, 46},
                             {9, 140, 160},
                             {191, 57, 137},
                             {110, 90, 60}}};
};

/// A curve made ready: as it is and smoothed, in its own units.
struct ready_curve {
  std::string name;
  ink colour;
  std::vector<point> raw, smoothed;
};

/// A panel made ready: where its values stand.
struct ready_panel {
  std::vector<ready_curve> curves;
  box inside;
  axis x, y;
  std::vector<tick> marks;  ///< of y
  bool last_row = false;

  [[nodiscard]] point place(point p) const {
    return {inside.left + x.place(p.x) * inside.width(), inside.bottom - y.place(p.y) * inside.height()};
  }
};

/// The axis for the y of the curves. Of the raw values, where smoothed ones stand before them, one in a hundred on
/// either side may lie outside: a few outliers would else flatten everything.
[[nodiscard]] inline axis y_axis(std::vector<ready_curve> const& curves, bool log, bool smoothed, double count) {
  std::vector<double> y;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (ready_curve const& c : curves) {
    for (point const p : c.raw) y.push_back(p.y);
    for (point const p : c.smoothed) {
      low = std::min(low, p.y);
      high = std::max(high, p.y);
    }
  }
  if (y.empty()) return axis_over(1, 1, log, true, count);
  std::size_t const rare = smoothed ? y.size() / 100 : 0;
  std::sort(y.begin(), y.end());
  return axis_over(std::min(low, y[rare]), std::max(high, y[y.size() - 1 - rare]), log, true, count);
}

/// The axis for the x of every curve of the chart, so that panels below each other are aligned.
[[nodiscard]] inline axis x_axis(std::vector<std::vector<ready_curve>> const& panels, bool log) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (auto const& curves : panels)
    for (ready_curve const& c : curves)
      for (point const p : c.raw) {
        low = std::min(low, p.x);
        high = std::max(high, p.x);
      }
  return low <= high ? axis_over(low, high, log, false, 1) : axis_over(1, 1, log, false, 1);
}

/// Draws the panels of one chart.
class chart_painter {
 public:
  explicit chart_painter(chart const& c)
      : chart_{c},
        columns_{c.columns > 0          ? c.columns
                 : c.panels.size() <= 3 ? 1
                                        : 2},
        rows_{(int(c.panels.size()) + columns_ - 1) / columns_},
        top_{c.title.empty() ? int(0.6 * look_.size) : int(2.6 * look_.size)},
        on_{top_ + rows_ * c.panel_height + (c.x_title.empty() ? 0 : int(1.5 * look_.size)), columns_ * c.panel_width,
            look_.paper} {}

  picture draw() {
    text_style const heading{1.3 * look_.size, look_.text, 3.1};
    double const middle = (on_.whole().width() - text_width(chart_.title, heading.size)) / 2;
    draw_text(on_, {std::max(middle, look_.size), 1.9 * look_.size}, chart_.title, heading);
    std::vector<ready_panel> panels = prepare();
    double labels = 0;
    for (ready_panel const& p : panels)
      for (tick const& t : p.marks) labels = std::max(labels, text_width(t.label, look_.size));
    for (ready_panel& p : panels) {
      p.inside.left += labels + 0.5 * look_.size;
      draw_panel(p);
    }
    return on_.drawn();
  }

 private:
  [[nodiscard]] std::vector<ready_panel> prepare() {
    std::vector<std::vector<ready_curve>> curves;
    for (chart_panel const& panel : chart_.panels) {
      curves.emplace_back();
      for (chart_curve const& c : panel.curves)
        curves.back().push_back({c.name,
                                 look_.curves[curves.back().size() % look_.curves.size()],
                                 shown_points(c, chart_.log_x, panel.log_y),
                                 {}});
    }
    axis const x = x_axis(curves, chart_.log_x);
    std::vector<ready_panel> out;
    for (std::size_t i = 0; i < curves.size(); ++i) {
      out.push_back({std::move(curves[i]), {}, x, {}, {}, int(i) / columns_ + 1 == rows_});
      for (ready_curve& c : out.back().curves) {
        c.smoothed = c.raw;
        smooth(c.smoothed, chart_.smoothing, chart_.panels[i].log_y, x);
      }
      int const row = int(i) / columns_;
      double const left = double(int(i) % columns_ * chart_.panel_width);
      double const top = double(top_ + row * chart_.panel_height);
      lay_out(chart_.panels[i], {left, top, left + chart_.panel_width, top + chart_.panel_height}, out.back());
    }
    return out;
  }

  /// Draws the heading and shares out what is below it.
  void lay_out(chart_panel const& panel, box area, ready_panel& out) {
    double const size = look_.size, head = draw_heading(panel.title, out.curves, area);
    double const bottom = std::floor(area.bottom - 2.4 * size);
    out.inside = {area.left + size, std::min(std::floor(head + 1.2 * size), bottom - 2), area.right - 1.5 * size,
                  bottom};
    double const count = std::max(2.0, out.inside.height() / (2.6 * size));
    out.y = y_axis(out.curves, panel.log_y, chart_.smoothing > 0, count);
    out.marks = ticks(out.y, count);
  }

  /// The title and, from its right on, the curves' names and last values. Returns where the heading ends.
  double draw_heading(std::string const& title, std::vector<ready_curve> const& curves, box area) {
    double const size = look_.size, left = area.left + size;
    text_style const bold{1.1 * size, look_.text, 3.1}, name{size, look_.text, 2.4}, number{size, look_.quiet, 2.4};
    point at{left, area.top + 1.3 * size};
    draw_text(on_, at, title, bold);
    at.x += text_width(title, bold.size) + 1.6 * size;
    for (ready_curve const& c : curves) {
      std::string const last = c.smoothed.empty() ? "no values" : short_text(c.smoothed.back().y, 4);
      std::string const text = c.name == title ? "" : c.name;
      double const before = 1.9 * size + text_width(text, size) + (text.empty() ? 0 : 0.6 * size);
      double const width = before + text_width(last, size);
      if (at.x + width > area.right - size && at.x > left) at = {left, at.y + 1.4 * size};
      std::array<point, 2> const sample{{{at.x, at.y - 0.36 * size}, {at.x + 1.3 * size, at.y - 0.36 * size}}};
      on_.stroke(sample, 0.22 * size, c.colour);
      draw_text(on_, {at.x + 1.9 * size, at.y}, text, name);
      draw_text(on_, {at.x + before, at.y}, last, number);
      at.x += width + 1.5 * size;
    }
    return at.y;
  }

  void draw_panel(ready_panel const& p) {
    draw_grid(p);
    on_.clip({p.inside.left - 3, p.inside.top - 6, p.inside.right + 8, p.inside.bottom + 6});
    for (ready_curve const& c : p.curves) draw_curve(c, p);
    on_.clip(on_.whole());
    if (p.last_row)
      centred(chart_.x_title, {(p.inside.left + p.inside.right) / 2, p.inside.bottom + 2.9 * look_.size},
              {look_.size, look_.quiet, 2.4});
  }

  void draw_grid(ready_panel const& p) {
    double const size = look_.size;
    text_style const style{size, look_.quiet, 2.4};
    for (tick const& t : p.marks) {
      double const at = std::round(p.inside.bottom - p.y.place(t.value) * p.inside.height());
      on_.fill({p.inside.left, at - 1, p.inside.right, at + 1}, look_.line);
      draw_text(on_, {p.inside.left - 0.6 * size - text_width(t.label, size), at + 0.36 * size}, t.label, style);
    }
    on_.fill({p.inside.left, p.inside.bottom - 1, p.inside.right, p.inside.bottom + 1}, look_.base);
    for (tick const& t : ticks(p.x, std::max(2.0, p.inside.width() / (5 * size)))) {
      double const at = std::round(p.inside.left + p.x.place(t.value) * p.inside.width());
      on_.fill({at - 1, p.inside.bottom, at + 1, p.inside.bottom + 0.3 * size}, look_.base);
      centred(t.label, {at, p.inside.bottom + 1.35 * size}, style);
    }
  }

  void draw_curve(ready_curve const& c, ready_panel const& p) {
    auto const path = [&](std::vector<point> const& values) {
      std::vector<point> out;
      out.reserve(values.size());
      for (point const v : values) out.push_back(p.place(v));
      return thinned(out);
    };
    ink const tint{c.colour.red, c.colour.green, c.colour.blue, 0.22};
    if (chart_.smoothing > 0) on_.stroke(path(c.raw), 0.09 * look_.size, tint);
    on_.stroke(path(c.smoothed), 0.16 * look_.size, c.colour);
    if (c.smoothed.empty()) return;
    std::array<point, 1> const end{p.place(c.smoothed.back())};
    on_.stroke(end, 0.42 * look_.size, c.colour);
  }

  void centred(std::string const& text, point at, text_style const& style) {
    draw_text(on_, {at.x - text_width(text, style.size) / 2, at.y}, text, style);
  }

  chart const& chart_;
  chart_look look_;
  int columns_, rows_, top_;
  canvas on_;
};

}  // namespace detail

/// The chart on white paper: light grid lines at round values, a legend with the curves' last values above each panel.
///
/// Throws shape_error if there is no panel, a curve's x and y differ in length, or a size or the smoothing is out of
///          its
/// range.
[[nodiscard]] inline picture draw_chart(chart const& c) {
  auto const within = [](int value, int low, int high) { return value >= low && value <= high; };
  if (c.panels.empty() || c.panels.size() > 100) throw shape_error{"chart: it has 1 to 100 panels"};
  if (!within(c.panel_width, 300, 10000) || !within(c.panel_height, 200, 10000) || !within(c.columns, 0, 100))
    throw shape_error{"chart: panels of " + std::to_string(c.panel_width) + " x " + std::to_string(c.panel_height) +
                      " pixels, " + std::to_string(c.columns) + " beside each other"};
  if (!(c.smoothing >= 0 && c.smoothing < 1))
    throw shape_error{"chart: smoothing " + std::to_string(c.smoothing) + " is not in [0, 1)"};
  return detail::chart_painter{c}.draw();
}

}  // namespace dm2
