/// @file
/// Writes a run's numbers, pictures and texts as TensorBoard event files.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/encode_png.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/io/crc32c.hpp>
#include <dm2/io/protobuf_writer.hpp>
#include <dm2/train/host_name.hpp>
#include <dm2/train/log/append_file.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace dm2 {

namespace detail {

inline constexpr std::string_view event_file_prefix = "events.out.tfevents.";

/// Seconds since 1970 for the next event file of `folder`: now, or one more than the newest file's. TensorBoard reads a
/// folder's files in the order of their names, and a resumed run's must come last.
[[nodiscard]] inline std::int64_t next_event_time(std::filesystem::path const& folder) {
  using namespace std::chrono;
  std::int64_t time = duration_cast<seconds>(system_clock::now().time_since_epoch()).count();
  std::error_code problem;
  for (std::filesystem::directory_iterator i{folder, problem}, end; !problem && i != end; i.increment(problem)) {
    std::string const name = i->path().filename().string();
    if (!name.starts_with(event_file_prefix)) continue;
    std::int64_t other = 0;
    char const* const digits = name.data() + event_file_prefix.size();
    auto const read = std::from_chars(digits, name.data() + name.size(), other);
    if (read.ec == std::errc{} && other < 9'999'999'999) time = std::max(time, other + 1);
  }
  if (problem) throw file_error{folder, "cannot be listed: " + problem.message()};
  return time;
}

/// A new event file's path.
[[nodiscard]] inline std::filesystem::path event_file_path(std::filesystem::path const& folder) {
  std::error_code problem;
  std::filesystem::create_directories(folder, problem);
  if (problem) throw file_error{folder, "cannot be created: " + problem.message()};
  std::array<char, 24> time;
  std::snprintf(time.data(), time.size(), "%010lld", static_cast<long long>(next_event_time(folder)));
  return folder / (std::string{event_file_prefix} + time.data() + "." + host_name());
}

}  // namespace detail

/// Writes `folder`/events.out.tfevents.TIME.HOST, a new file for each object: records of a 64-bit length, its masked
/// CRC-32C, an Event message and that one's masked CRC-32C. Each record is with the operating system when the call
/// returns. Numbers are stored as floats (Summary.Value.simple_value), which every version of TensorBoard shows as
/// scalars.
///
/// A tag is the name of a curve; what stands before its first '/' groups curves.
///
/// Throws file_error from every member if the file cannot be written.
class tensorboard_log {
 public:
  /// Creates `folder` and the file. With `resume_after`, what earlier files of the folder hold of later steps is
  /// forgotten by TensorBoard when it reads this one (SessionLog.START).
  explicit tensorboard_log(std::filesystem::path const& folder, std::optional<std::int64_t> resume_after = std::nullopt)
      : file_{detail::event_file_path(folder), append_file::mode::create} {
    detail::protobuf_writer version = begin(0);
    version.text(file_version, "brain.Event:2");
    write(version.data());
    if (!resume_after) return;
    detail::protobuf_writer start, event = begin(*resume_after + 1);
    start.integer(1, 1);  // SessionLog.status = START
    event.message(session_log, start);
    write(event.data());
  }

  /// The event file.
  [[nodiscard]] std::filesystem::path const& path() const noexcept { return file_.path(); }

  /// A point of the curve `tag`; a NaN is shown as one.
  void scalar(std::string_view tag, std::int64_t step, double value) {
    detail::protobuf_writer entry;
    entry.text(1, tag);
    entry.number(2, static_cast<float>(value));  // simple_value
    summary(step, entry);
  }

  /// A picture, stored as PNG. Throws as encode_png does, too.
  void image(std::string_view tag, std::int64_t step, picture const& p) {
    detail::protobuf_writer stored, entry;
    stored.integer(1, p.height);
    stored.integer(2, p.width);
    stored.integer(3, 3);  // colorspace: RGB
    stored.bytes(4, encode_png(p));
    entry.text(1, tag);
    entry.message(4, stored);  // image
    summary(step, entry);
  }

  /// A text in Markdown, such as a run's configuration.
  void text(std::string_view tag, std::int64_t step, std::string_view markdown) {
    detail::protobuf_writer plugin, metadata, tensor, entry;
    plugin.text(1, "text");  // plugin_name
    metadata.message(1, plugin);
    tensor.integer(1, 7);   // dtype = DT_STRING
    tensor.message(2, {});  // tensor_shape: a scalar
    tensor.text(8, markdown);
    entry.text(1, tag);
    entry.message(8, tensor);
    entry.message(9, metadata);
    summary(step, entry);
  }

 private:
  /// Fields of Event.
  enum : std::uint32_t { wall_time = 1, event_step = 2, file_version = 3, event_summary = 5, session_log = 7 };

  static detail::protobuf_writer begin(std::int64_t step) {
    using namespace std::chrono;
    detail::protobuf_writer event;
    event.number(wall_time, duration<double>(system_clock::now().time_since_epoch()).count());
    if (step != 0)
      event.integer(event_step, step);  // a reader takes an absent number for 0, and protobuf leaves it out
    return event;
  }

  void summary(std::int64_t step, detail::protobuf_writer const& entry) {
    detail::protobuf_writer values, event = begin(step);
    values.message(1, entry);
    event.message(event_summary, values);
    write(event.data());
  }

  void write(std::span<std::byte const> event) {
    record_.clear();
    std::uint64_t const length = event.size();
    append(&length, sizeof length);
    std::uint32_t check = detail::masked_crc32c(record_);
    append(&check, sizeof check);
    append(event.data(), event.size());
    check = detail::masked_crc32c(event);
    append(&check, sizeof check);
    file_.write(record_);
  }

  /// Numbers are little-endian, as every machine that dm2 runs on stores them.
  void append(void const* from, std::size_t count) {
    std::size_t const at = record_.size();
    record_.resize(at + count);
    if (count != 0) std::memcpy(record_.data() + at, from, count);
  }

  append_file file_;
  std::vector<std::byte> record_;
};

}  // namespace dm2
