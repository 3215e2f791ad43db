/// @file
/// JSON text that comes from a file: parsed with a limit of depth.
#pragma once

#include <nlohmann/json.hpp>

#include <string_view>

namespace dm2::detail {

/// The deepest nesting of JSON that is read from a file. nlohmann's copies and dumps recurse, a level each 100 bytes of
/// stack and more: text of 40 KB could end a program.
inline constexpr int max_json_depth = 64;

/// Whether brackets outside of strings nest at most max_json_depth deep, and no byte is NUL. At a NUL nlohmann's parser
/// stops as if the text ended.
[[nodiscard]] constexpr bool is_plain_json_text(std::string_view text) noexcept {
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char const c = text[i];
    if (c == '\0') return false;
    if (quoted && c == '\\')
      ++i;
    else if (c == '"')
      quoted = !quoted;
    else if (!quoted && (c == '{' || c == '['))
      depth += 1;
    else if (!quoted && (c == '}' || c == ']'))
      depth -= 1;
    if (depth > max_json_depth) return false;
  }
  return true;
}

/// The value that `text` stands for; a discarded one (is_discarded) where it is no JSON, or nested too deep.
template <class Json = nlohmann::json>
[[nodiscard]] Json parse_json(std::string_view text) {
  if (!is_plain_json_text(text)) return Json(Json::value_t::discarded);
  return Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
}

}  // namespace dm2::detail
