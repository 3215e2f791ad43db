/// @file
/// Training checkpoints: everything that a run needs to go on as if it had never stopped, in one safetensors file.
///
/// raw/NAME and ema/NAME hold the weights and their averages under the model's names, momentum/NAME and second/NAME the
/// optimizer's state. The metadata hold the configuration, under "training" where the run is, and the CRC-32C of each
/// tensor, which resume_training and load compare. tensor_file, and so load, reads the averages (or the raw weights) of
/// such a file like any other's.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/parameters.hpp>
#include <dm2/io/checkpoint.hpp>
#include <dm2/io/checksums.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/io/mapped_file.hpp>
#include <dm2/io/safetensors.hpp>
#include <dm2/io/safetensors_write.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>
#include <dm2/train/training_state.hpp>

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

constexpr char const* optimizer_name(optimizer_kind kind) { return kind == optimizer_kind::lion ? "lion" : "adamw"; }

inline constexpr std::string_view momentum_prefix = "momentum/", second_prefix = "second/";

/// A whole number of a checkpoint's progress. Throws file_error where it is missing, or not in [least, most].
inline std::int64_t progress_number(nlohmann::json const& progress, char const* key, std::int64_t least,
                                    std::int64_t most, std::filesystem::path const& path) {
  auto const found = progress.find(key);
  if (found == progress.end()) throw file_error{path, std::string{"its training metadata lack '"} + key + "'"};
  bool const whole =
      found->is_number_integer() && !(found->is_number_unsigned() && found->get<std::uint64_t>() > std::uint64_t(most));
  if (!whole || found->get<std::int64_t>() < least || found->get<std::int64_t>() > most)
    throw file_error{path, std::string{"its training metadata have '"} + key + "' " + found->dump().substr(0, 40) +
                               ", not a whole number from " + std::to_string(least) + " to " + std::to_string(most)};
  return found->get<std::int64_t>();
}

/// A finite number of a checkpoint's progress. Throws file_error where there is none.
inline double progress_value(nlohmann::json const& progress, char const* key, std::filesystem::path const& path) {
  auto const found = progress.find(key);
  if (found == progress.end() || !found->is_number() || !std::isfinite(found->get<double>()))
    throw file_error{path, std::string{"its training metadata have no number '"} + key + "'"};
  return found->get<double>();
}

/// The object under "training". Throws file_error where the metadata have none.
inline nlohmann::json parse_progress(std::map<std::string, std::string> const& metadata,
                                     std::filesystem::path const& path) {
  auto const text = metadata.find(training_key);
  if (text == metadata.end()) throw file_error{path, "is no training checkpoint"};
  nlohmann::json progress = detail::parse_json(text->second);
  if (!progress.is_object()) throw file_error{path, "its training metadata are damaged"};
  return progress;
}

/// Steps that a run may have done: every whole number up to it is a double, too.
inline constexpr std::int64_t most_steps = std::int64_t{1} << 53;

}  // namespace detail

/// A training checkpoint's metadata.
struct checkpoint_head {
  std::map<std::string, std::string> metadata;  ///< all of them
  nlohmann::json progress;                      ///< under the key "training"
  int epoch = 0;                                ///< to go on in, from 0
  std::size_t next_batch = 0;                   ///< to go on with, in micro-batches of that epoch

  /// Whether the run was further on here than there.
  [[nodiscard]] bool after(checkpoint_head const& other) const {
    return std::pair{epoch, next_batch} > std::pair{other.epoch, other.next_batch};
  }
};

/// Reads a training checkpoint's metadata; of its tensors, only that the file has room for each. Throws file_error
/// where it cannot be read, is damaged, or is no training checkpoint.
[[nodiscard]] inline checkpoint_head read_checkpoint_head(std::filesystem::path const& path) {
  tensor_file const file{path};
  checkpoint_head head{file.metadata(), detail::parse_progress(file.metadata(), path)};
  head.epoch = int(detail::progress_number(head.progress, "epoch", 0, 1'000'000'000, path));
  head.next_batch = std::size_t(detail::progress_number(head.progress, "next_batch", 0, detail::most_steps, path));
  return head;
}

/// Reads the whole of a safetensors file and holds every tensor against its checksum. Returns whether the file has
/// checksums: those written before dm2 had them, and other programs' files, have none. Throws file_error where it is
/// damaged.
inline bool verify_checkpoint(std::filesystem::path const& path) {
  mapped_file const file{path};
  safetensors_content content = read_safetensors(file.bytes(), path);
  bool const stated = detail::take_checksums(content.tensors, content.metadata, path);
  for (stored_tensor const& t : content.tensors) require_checksum(t, path);
  return stated;
}

/// A training checkpoint's part that is not numbers.
struct training_head {
  config configuration;                         ///< of the model
  optimizer_kind optimizer;                     ///< that its momenta are of
  steps_done steps;                             ///< of the optimizer and of the average
  nlohmann::json progress;                      ///< for the loop that resumes
  std::map<std::string, std::string> metadata;  ///< added
};

/// Writes a training checkpoint, whole or not at all.
///
/// Throws file_error where the file cannot be written.
template <class T>
void save_training(std::filesystem::path const& path, training_numbers<T> const& numbers, training_head head) {
  using values = std::span<T const>;
  std::vector<stored_tensor> tensors;
  auto const add = [&](std::string_view prefix, values state) {
    detail::add_entry_tensors(tensors, prefix, numbers.table, state, std::span<std::int64_t const>{numbers.counters});
  };
  add(raw_prefix, numbers.state);
  add(ema_prefix, numbers.average);
  auto const add_moments = [&](std::string_view prefix, values state) {
    for (parameter_entry const& e : numbers.table)
      if (e.kind == entry_kind::parameter && !state.empty()) tensors.push_back(detail::entry_tensor(prefix, e, state));
  };
  add_moments(detail::momentum_prefix, numbers.momentum);
  add_moments(detail::second_prefix, numbers.second);
  head.progress["optimizer_steps"] = head.steps.optimizer;
  head.progress["ema_steps"] = head.steps.average;
  head.progress["optimizer"] = detail::optimizer_name(head.optimizer);
  auto& metadata = head.metadata;
  metadata["config"] = to_json(head.configuration).dump();
  metadata["format"] = "pt";
  metadata[training_key] = head.progress.dump();
  metadata[checksums_key] = detail::checksums_text(tensors, metadata);
  write_safetensors(path, tensors, metadata);
}

namespace detail {

/// Throws file_error where a training checkpoint is of another configuration than the program's.
inline void require_configuration(config const& program, std::map<std::string, std::string> const& metadata,
                                  std::filesystem::path const& path) {
  auto const told = metadata.find("config");
  if (told == metadata.end()) throw file_error{path, "holds no configuration"};
  auto const differences = config_differences(program, parse_json(told->second));
  if (!differences.empty()) throw file_error{path, "is of another configuration: " + differences.front()};
}

/// Throws file_error where a training checkpoint was written with another optimizer.
inline void require_optimizer(optimizer_kind kind, nlohmann::json const& progress, std::filesystem::path const& path) {
  std::string const own = optimizer_name(kind);
  nlohmann::json const told = progress.value("optimizer", nlohmann::json{});
  if (told != own) throw file_error{path, "was written with the optimizer " + told.dump() + ", not " + own};
}

/// Which tensors of a training checkpoint go where; nothing is copied before all are found.
template <class T>
class resume_plan {
 public:
  /// Both outlive the plan.
  resume_plan(safetensors_content const& content, std::filesystem::path const& path) : path_{path} {
    for (stored_tensor const& t : content.tensors) by_name_.emplace(t.name, &t);
  }

  /// Plans an entry of the model's table under its name with `prefix` before it: a counter goes to `counters`, another
  /// to its place in `state`. Throws file_error where the tensor is missing, or is of another size or precision.
  void add(std::string_view prefix, parameter_entry const& e, std::span<T> state, std::span<std::int64_t> counters) {
    if (e.kind == entry_kind::counter)
      counters_.push_back({&find(prefix, e), counters.subspan(e.offset, 1)});
    else
      values_.push_back({&find(prefix, e), state.subspan(e.offset, e.size)});
  }

  /// Throws file_error where a tensor is not what its checksum says.
  void require_checksums() const {
    for (auto const& m : counters_) require_checksum(*m.from, path_);
    for (auto const& m : values_) require_checksum(*m.from, path_);
  }
  /// Copies.
  void run() const {
    for (auto const& [from, to] : counters_) copy_to(*from, to);
    for (auto const& [from, to] : values_) copy_to(*from, to);
  }

 private:
  template <class N>
  struct move {
    stored_tensor const* from;
    std::span<N> to;
  };

  [[nodiscard]] stored_tensor const& find(std::string_view prefix, parameter_entry const& e) const {
    std::string const name = std::string{prefix} + std::string{e.name};
    auto const found = by_name_.find(name);
    if (found == by_name_.end()) throw file_error{path_, "lacks the tensor '" + name + "'"};
    stored_tensor const& t = *found->second;
    if (t.size() != e.size)
      throw file_error{
          path_, "'" + name + "' has " + std::to_string(t.size()) + " numbers, expected " + std::to_string(e.size)};
    if (e.kind != entry_kind::counter && size_of(t.type) != sizeof(T))
      throw file_error{
          path_, "'" + name + "' is of type " + std::string{name_of(t.type)} + ", another precision than the run's"};
    return t;
  }

  std::filesystem::path const& path_;
  std::unordered_map<std::string_view, stored_tensor const*> by_name_;
  std::vector<move<T>> values_;
  std::vector<move<std::int64_t>> counters_;
};

}  // namespace detail

/// What resume_training has found beside the numbers.
struct resumed_training {
  nlohmann::json progress;  ///< of the loop that wrote the checkpoint
  steps_done steps;         ///< of the optimizer and of the average
};

/// Fills a run's numbers from a training checkpoint of the same configuration. Without `with_optimizer` the momenta
/// stay as they are, and the optimizer may be of another kind than the file's.
///
/// Throws file_error if the file is none, is of another configuration, optimizer or precision, or lacks a tensor;
///        nothing is changed then.
template <class T>
resumed_training resume_training(std::filesystem::path const& path, config const& c, optimizer_kind kind,
                                 training_numbers<T> const& numbers, bool with_optimizer = true) {
  mapped_file const file{path};
  safetensors_content content = read_safetensors(file.bytes(), path);
  detail::take_checksums(content.tensors, content.metadata, path);
  resumed_training out{detail::parse_progress(content.metadata, path), {}};
  detail::require_configuration(c, content.metadata, path);
  if (with_optimizer) detail::require_optimizer(kind, out.progress, path);

  detail::resume_plan<T> plan{content, path};
  for (parameter_entry const& e : numbers.table) {
    plan.add(raw_prefix, e, numbers.state, numbers.counters);
    if (e.kind != entry_kind::counter) plan.add(ema_prefix, e, numbers.average, {});
    if (e.kind != entry_kind::parameter || !with_optimizer) continue;
    plan.add(detail::momentum_prefix, e, numbers.momentum, {});
    if (!numbers.second.empty()) plan.add(detail::second_prefix, e, numbers.second, {});
  }
  out.steps.optimizer = detail::progress_number(out.progress, "optimizer_steps", 0, detail::most_steps, path);
  out.steps.average = detail::progress_number(out.progress, "ema_steps", 0, detail::most_steps, path);
  plan.require_checksums();
  plan.run();
  return out;
}

}  // namespace dm2
