/// @file
/// Where the data path's time goes: a table and a timeline.
///
/// Of each epoch, as train --profile-data tells it.
#pragma once

#include <dm2/data/encode_png.hpp>
#include <dm2/train/log/chart.hpp>
#include <dm2/train/log/csv_log.hpp>
#include <dm2/train/trainer_options.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace dm2::example {

/// Collects the steps of an epoch; of process 0 where there are several.
class data_profile {
 public:
  /// Writes data_profile.csv, and data_profile.png of the latest epoch, into `folder`; `resumed`: the steps of a run
  /// that goes on.
  data_profile(std::filesystem::path const& folder, std::optional<std::int64_t> resumed)
      : path_{folder / "data_profile.png"},
        rows_{folder / "data_profile.csv",
              "step",
              {"step_seconds", "waiting_seconds", "reading_seconds", "decoding_seconds", "transforming_seconds",
               "copying_seconds", "augmenting_seconds", "computing_seconds", "device_decoding_seconds"},
              resumed} {}

  /// A row of means over the steps since the row before.
  void row(std::int64_t step) {
    if (!(row_steps_ > 0)) return;
    time_parts const& t = row_.times;
    double const n = row_steps_;
    rows_.append(step,
                 {t.total / n, t.waiting / n, t.loading.reading / n, t.loading.decoding / n, t.loading.transforming / n,
                  t.augmented.copying / n, t.augmented.augmenting / n, t.computing / n, t.augmented.decoding / n});
    row_ = {};
    row_steps_ = 0;
  }

  void add(step_report const& s) {
    row_ += {s.times, double(s.samples)};
    ++row_steps_;
    spans_.push_back({s.times, double(s.samples)});
    if (spans_.size() == 2 * most_points) halve();
  }

  /// The table's lines, one a stage: seconds, milliseconds a picture, and how many threads that is, or which part of
  /// the device's time. Writes the timeline; throws file_error where it cannot be written.
  [[nodiscard]] std::vector<std::string> epoch() {
    span all;
    for (span const& s : spans_) all += s;
    if (!(all.pictures > 0) || !(all.times.total > 0)) return {};
    write_png(path_, draw_chart(timeline()));
    spans_.clear();
    loading_times const& l = all.times.loading;
    device_times const& d = all.times.augmented;
    return {"  data path         seconds  ms a picture  of the epoch",
            row("reading", l.reading, all, "threads"),
            row("decoding", l.decoding, all, "threads"),
            row("transforming", l.transforming, all, "threads"),
            row("host, all", l.sum(), all, "threads"),
            row("copying", d.copying, all, "device"),
            row("decoding there", d.decoding, all, "device"),
            row("augmenting", d.augmenting, all, "device"),
            row("GPU or CPU", all.times.computing, all, "computing"),
            row("waiting", all.times.waiting, all, "for data"),
            row("all", all.times.total, all, "")};
  }

 private:
  static constexpr std::size_t most_points = 400;

  /// Some steps in a row.
  struct span {
    time_parts times{};
    double pictures = 0;

    span& operator+=(span const& o) {
      times.total += o.times.total;
      times.waiting += o.times.waiting;
      times.computing += o.times.computing;
      times.loading += o.times.loading;
      times.augmented.copying += o.times.augmented.copying;
      times.augmented.augmenting += o.times.augmented.augmenting;
      times.augmented.decoding += o.times.augmented.decoding;
      pictures += o.pictures;
      return *this;
    }
  };

  /// Makes one of each two neighbours.
  void halve() {
    for (std::size_t i = 0; i < most_points; ++i) {
      span both = spans_[2 * i];
      both += spans_[2 * i + 1];
      spans_[i] = both;
    }
    spans_.resize(most_points);
  }

  /// "  decoding           123.45         1.234  12.3 threads"
  static std::string row(char const* name, double seconds, span const& all, char const* of) {
    double const share = seconds / all.times.total;
    bool const threads = std::string{of} == "threads";
    std::array<char, 120> text;
    std::snprintf(text.data(), text.size(), "  %-16s %8.2f  %12.4f  %.*f%s %s", name, seconds,
                  1e3 * seconds / all.pictures, threads ? 2 : 1, threads ? share : 100 * share, threads ? "" : " %",
                  of);
    return text.data();
  }

  /// A curve of `value`(times) as a part of each span's time, times `scale`.
  template <class F>
  [[nodiscard]] chart_curve curve(char const* name, double scale, F const& value) const {
    chart_curve c{name, {}, {}};
    double at = 0;
    for (span const& s : spans_) {
      at += s.times.total;
      c.x.push_back(at);
      c.y.push_back(scale * value(s) / std::max(s.times.total, 1e-9));
    }
    return c;
  }
  [[nodiscard]] chart timeline() const {
    chart c;
    c.title = "Where an epoch's time goes";
    c.x_title = "seconds";
    c.columns = 1;
    c.panels.push_back({"threads that load pictures",
                        {curve("reading", 1, [](span const& s) { return s.times.loading.reading; }),
                         curve("decoding", 1, [](span const& s) { return s.times.loading.decoding; }),
                         curve("transforming", 1, [](span const& s) { return s.times.loading.transforming; })}});
    c.panels.push_back({"% of the time",
                        {curve("computing", 100, [](span const& s) { return s.times.computing; }),
                         curve("copying", 100, [](span const& s) { return s.times.augmented.copying; }),
                         curve("decoding there", 100, [](span const& s) { return s.times.augmented.decoding; }),
                         curve("augmenting", 100, [](span const& s) { return s.times.augmented.augmenting; }),
                         curve("waiting for data", 100, [](span const& s) { return s.times.waiting; })}});
    c.panels.push_back({"pictures a second", {curve("pictures/s", 1, [](span const& s) { return s.pictures; })}});
    return c;
  }

  std::filesystem::path path_;
  csv_log rows_;
  std::vector<span> spans_;
  span row_;
  double row_steps_ = 0;
};

}  // namespace dm2::example
