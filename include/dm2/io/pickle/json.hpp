/// @file
/// Plain values of a pickle as JSON: a checkpoint's hyper-parameters.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/bytes.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/io/pickle/globals.hpp>
#include <dm2/io/pickle/value.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>

namespace dm2 {
namespace detail {

/// Values of a pickle may be shared, so that a tree written out from them can be exponentially larger than the file:
/// `budget` counts it down, in bytes of text, 8 a value, 16 an array's, 56 an object's, about a fourth of the memory.
class pickle_to_json {
 public:
  pickle_to_json(std::filesystem::path const& path, std::size_t budget) : path_{path}, budget_{budget} {}

  nlohmann::json operator()(pickle_value v, int depth = 0) {
    spend(8);
    if (depth > max_json_depth) return refused("values nested more than 64 deep");
    switch (v.kind()) {
      case pickle_kind::none:
        return nullptr;
      case pickle_kind::boolean:
        return *v.as_boolean();
      case pickle_kind::integer:
        return *v.as_integer();
      case pickle_kind::floating:
        return *v.as_floating();
      case pickle_kind::text:
        return spend_text(v) && is_utf8(v.raw()) ? nlohmann::json(std::string{v.raw()})
                                                 : refused("text that is not UTF-8");
      case pickle_kind::tuple:
      case pickle_kind::list:
        return array(v, depth);
      case pickle_kind::dict:
        return object(v, depth);
      case pickle_kind::global:
        return global(v);
      case pickle_kind::call:
        return call(v, depth);
      case pickle_kind::refused:
        return refused(v.global_name());
      default:
        return refused(v.describe());
    }
  }

 private:
  void spend(std::size_t bytes) {
    if (bytes > budget_) throw file_error{path_, "pickle: the values would make JSON many times the file's size"};
    budget_ -= bytes;
  }
  /// Pays for a text before it is looked at: many values may share a long one. Always true.
  bool spend_text(pickle_value v) {
    spend(v.raw().size());
    return true;
  }
  nlohmann::json refused(std::string what) {
    spend(64 + what.size());
    return {{"refused", std::move(what)}};
  }

  nlohmann::json array(pickle_value v, int depth) {
    nlohmann::json out = nlohmann::json::array();
    for (std::size_t i = 0; i < v.size(); ++i) {
      spend(8);
      out.push_back((*this)(v[i], depth + 1));
    }
    return out;
  }
  nlohmann::json object(pickle_value v, int depth) {
    spend(32);
    nlohmann::json out = nlohmann::json::object();
    auto const name_text = [this](pickle_value name) {  // of keys that JSON does not have
      if (auto const number = name.as_integer()) return std::to_string(*number);
      if (name.as_text() && spend_text(name) && is_utf8(name.raw())) return std::string{name.raw()};
      std::string other = "(" + name.describe() + ")";
      spend(64 + other.size());
      return other;
    };
    for (std::size_t i = 0; i < v.size(); ++i) {
      auto const [name, value] = v.item(i);
      spend(48);
      out[name_text(name)] = (*this)(value, depth + 1);
    }
    return out;
  }
  nlohmann::json global(pickle_value v) {
    auto const& row = pickle_global_table[v.global_id()];
    if (row.meaning == pickle_global::torch_dtype) return "torch." + std::string{row.name};
    return refused(v.global_name());
  }
  nlohmann::json call(pickle_value v, int depth) {
    bool const device = pickle_global_table[v.global_id()].meaning == pickle_global::device;
    if (device && v.arguments().size() > 0) return (*this)(v.arguments()[0], depth + 1);
    return refused(std::string{pickle_global_table[v.global_id()].name});
  }

  std::filesystem::path const& path_;
  std::size_t budget_;
};

}  // namespace detail

/// `v` as JSON: None null, tuples and lists arrays, dicts objects (integer keys as text), torch.float32 the string
/// "torch.float32", a device its type's name. What is not plain data (tensors, objects of refused globals) or lies
/// deeper than 64 levels becomes an object {"refused": what}; a key that is neither text nor an integer, what it is.
///
/// `budget` bounds the result: bytes of text, 8 to 56 a value, 32 an object; give a small multiple of the pickle's
/// length. Throws file_error past it.
[[nodiscard]] inline nlohmann::json pickle_as_json(pickle_value v, std::filesystem::path const& path,
                                                   std::size_t budget) {
  return detail::pickle_to_json{path, budget}(v);
}

}  // namespace dm2
