/// @file
/// Predictions as a table, as JSON or as CSV, picture by picture.
#pragma once

#include <dm2/data/classify.hpp>

#include <nlohmann/json.hpp>

#include "table.hpp"
#include "text.hpp"

#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dm2::example {

/// What a heat map shows: the file, the class, and the probabilities at the two ends of the colours.
struct heatmap_note {
  std::filesystem::path file;
  int index;
  float least, most;
};

/// What there is to say about one picture.
struct picture_result {
  std::filesystem::path picture;
  std::vector<prediction> best;
  std::optional<heatmap_note> heatmap;
};

/// Where results go. begin, then a call for each picture, then end.
class result_writer {
 public:
  virtual ~result_writer() = default;
  virtual void begin() {}
  virtual void write(picture_result const& result) = 0;
  /// A picture that could not be read.
  virtual void failed(std::filesystem::path const&, std::string const& /*reason*/) {}
  virtual void end() {}
};

/// A row for each prediction; the picture's name stands on its first.
class table_writer final : public result_writer {
 public:
  /// The pictures that will come, and the names of the classes (or none).
  table_writer(std::ostream& out, std::span<std::filesystem::path const> pictures,
               std::vector<std::string> const& names)
      : out_{out}, names_{names}, table_{{{"picture"}, {"rank", true}, {"probability", true}, {"class", true}}} {
    if (!names.empty()) table_ = table{{{"picture"}, {"rank", true}, {"probability", true}, {"class", true}, {"name"}}};
    for (auto const& path : pictures) table_.fit(0, printable(path.string()));
  }

  void begin() override { table_.print_titles(out_); }
  void write(picture_result const& result) override {
    for (std::size_t i = 0; i < result.best.size(); ++i) {
      auto const [index, probability] = result.best[i];
      std::vector<std::string> cells{i == 0 ? printable(result.picture.string()) : "", std::to_string(i + 1),
                                     percent(probability), std::to_string(index)};
      if (!names_.empty()) cells.push_back(printable(names_[std::size_t(index)]));
      table_.print_row(out_, cells);
    }
  }

 private:
  std::ostream& out_;
  std::vector<std::string> const& names_;
  table table_;
};

/// A JSON number that is written as shortly as a float allows; null where it is not a number.
[[nodiscard]] inline nlohmann::ordered_json json_number(float value) {
  if (!std::isfinite(value)) return nullptr;
  return std::strtod(shortest(value).c_str(), nullptr);
}

/// One array; an object for each picture, those that failed too (with "error").
class json_writer final : public result_writer {
 public:
  json_writer(std::ostream& out, std::vector<std::string> const& names) : out_{out}, names_{names} {}

  void begin() override { out_ << "[\n"; }
  void write(picture_result const& result) override {
    auto list = nlohmann::ordered_json::array();
    for (auto const& [index, probability] : result.best) {
      nlohmann::ordered_json one{{"class", index}};
      if (!names_.empty()) one["name"] = names_[std::size_t(index)];
      one["probability"] = json_number(probability);
      list.push_back(std::move(one));
    }
    nlohmann::ordered_json object{{"picture", result.picture.string()}, {"predictions", std::move(list)}};
    if (auto const& map = result.heatmap)
      object["heatmap"] = {{"file", map->file.string()},
                           {"class", map->index},
                           {"least", json_number(map->least)},
                           {"most", json_number(map->most)}};
    put(object);
  }
  void failed(std::filesystem::path const& picture, std::string const& reason) override {
    put({{"picture", picture.string()}, {"error", reason}});
  }
  void end() override { out_ << "]\n"; }

 private:
  void put(nlohmann::ordered_json const& object) {
    // file names need not be UTF-8; what is not becomes U+FFFD. The comma stands in front, so that what is printed ends
    // with a whole line at any time: complaints may go to the same terminal
    out_ << (first_ ? "" : ",")
         << printable_json(object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace)) << '\n';
    first_ = false;
  }

  std::ostream& out_;
  std::vector<std::string> const& names_;
  bool first_ = true;
};

/// A field as RFC 4180 has it: in quotes, themselves doubled, where it holds a comma, a quote or the end of a line.
/// Other controls become '?': the rows may go to a terminal.
[[nodiscard]] inline std::string csv_field(std::string const& name) {
  std::string const text = without_controls(name);
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (char const c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

/// A line for each prediction under one line of titles. The name is empty where there are none.
class csv_writer final : public result_writer {
 public:
  csv_writer(std::ostream& out, std::vector<std::string> const& names) : out_{out}, names_{names} {}

  void begin() override { out_ << "picture,rank,class,name,probability\n"; }
  void write(picture_result const& result) override {
    for (std::size_t i = 0; i < result.best.size(); ++i) {
      auto const [index, probability] = result.best[i];
      out_ << csv_field(result.picture.string()) << ',' << i + 1 << ',' << index << ','
           << (names_.empty() ? "" : csv_field(names_[std::size_t(index)])) << ',' << shortest(probability) << '\n';
    }
  }

 private:
  std::ostream& out_;
  std::vector<std::string> const& names_;
};

}  // namespace dm2::example
