/// @file
/// What is to be compiled: sources, commands, and the text that tells it from all others.
#pragma once

#include <dm2/core/compiler.hpp>

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace dm2::run {

/// A generated source file.
struct unit {
  std::string name;                       ///< a plain file name with its extension: "forward.cpp", "train.cu"
  std::string text;                       ///< its content
  std::vector<std::string> compile = {};  ///< in place of the request's words, where this one needs others
};

/// A shared object to be made of units.
struct build_request {
  std::string title;     ///< for people: "tiny, 384 x 384, 37 classes, CPU"
  std::string identity;  ///< the whole text of what the object depends on; two objects of one identity are the same
  std::vector<unit> units = {};             ///< its sources
  std::vector<std::string> compile = {};    ///< the compiler and its flags; `-c IN -o OUT` is added
  std::vector<std::string> link = {};       ///< the words to which `-o OUT OBJECTS...` is added
  std::vector<std::string> libraries = {};  ///< words behind the objects
  /// Called before compiling, and again before the result is kept: throws where the headers or the compiler are not
  /// those that the identity tells of (any more).
  std::function<void()> check = {};
};

namespace detail {

/// Throws std::invalid_argument where a unit's name would lead out of its folder or be taken for a flag, where two
/// units have one name, or where nothing is to be compiled.
inline void require_request(build_request const& r) {
  auto const refuse = [&r](std::string const& what) {
    throw std::invalid_argument{"build_request \"" + r.title + "\": " + what};
  };
  if (r.units.empty() || r.link.empty()) refuse("has no units or no words to link with");
  for (unit const& u : r.units) {
    bool const plain =
        u.name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == u.name.npos &&
        !u.name.starts_with('.') && !u.name.starts_with('-');
    if (!plain || (!u.name.ends_with(".cpp") && !u.name.ends_with(".cu")))
      refuse("unit \"" + u.name + "\" is no plain name that ends in .cpp or .cu");
    if (u.compile.empty() && r.compile.empty()) refuse("unit \"" + u.name + "\" has no words to compile with");
    for (unit const& other : r.units)
      if (&other != &u && other.name == u.name) refuse("two units are called \"" + u.name + "\"");
  }
}

}  // namespace detail
}  // namespace dm2::run
