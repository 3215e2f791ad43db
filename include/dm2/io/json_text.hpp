/// @file
/// JSON text that comes from a file: parsed with limits of depth and length. Nothing else of dm2 parses such text.
#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <type_traits>

namespace dm2::detail {

/// The deepest nesting of JSON that is read from a file. nlohmann's copies and dumps recurse, a level each 100 bytes of
/// stack and more: text of 40 KB could end a program.
inline constexpr int max_json_depth = 64;

/// The longest JSON text that is read from a file, in bytes: a value takes up to 30 bytes of memory for each of them. A
/// million class names of 12 letters fit.
inline constexpr std::size_t max_json_bytes = std::size_t{16} << 20;

/// How deep brackets outside of strings nest.
[[nodiscard]] constexpr int json_depth(std::string_view text) noexcept {
  int depth = 0, deepest = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char const c = text[i];
    if (quoted && c == '\\')
      ++i;
    else if (c == '"')
      quoted = !quoted;
    else if (!quoted && (c == '{' || c == '['))
      depth += 1;
    else if (!quoted && (c == '}' || c == ']'))
      depth -= 1;
    if (depth > deepest) deepest = depth;
  }
  return deepest;
}

/// Whether text that begins as a JSON array or object does is nested too deep.
[[nodiscard]] constexpr bool is_deep_json_text(std::string_view text) noexcept {
  return !text.empty() && (text.front() == '[' || text.front() == '{') && json_depth(text) > max_json_depth;
}

/// The most colons in text that becomes an ordered_json. That one looks through all keys for each new key, and so takes
/// time by the square of their number: 4 s for 60,000.
inline constexpr std::ptrdiff_t max_ordered_json_keys = 4096;

/// The value that `text` stands for; a discarded one (is_discarded) where it is no JSON, too long, nested too deep, or
/// has too many keys for an ordered_json.
template <class Json = nlohmann::json>
[[nodiscard]] Json parse_json(std::string_view text) {
  // nlohmann's parser takes a NUL byte for the text's end
  bool const plain = text.size() <= max_json_bytes && text.find('\0') == text.npos;
  constexpr bool ordered = std::is_same_v<Json, nlohmann::ordered_json>;
  bool const many = ordered && std::count(text.begin(), text.end(), ':') > max_ordered_json_keys;
  if (!plain || many || json_depth(text) > max_json_depth) return Json(Json::value_t::discarded);
  return Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
}

/// parse_json by events, for what is too large to be held: `callback` sees each of nlohmann's events, sets its own
/// limits, and discards what it has taken. `text` may hold no NUL byte. Throws nlohmann::json::exception.
template <class Callback>
[[nodiscard]] nlohmann::json parse_json_events(std::string_view text, Callback& callback) {
  // by reference: the parser copies its callback
  return nlohmann::json::parse(text.begin(), text.end(),
                               [&callback](int depth, nlohmann::json::parse_event_t event, nlohmann::json& value) {
                                 return callback(depth, event, value);
                               });
}

}  // namespace dm2::detail
