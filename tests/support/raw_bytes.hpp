/// @file
/// Numbers as the bytes that files hold.
#pragma once

#include <string>

namespace dm2::test {

/// The bytes of a number, little-endian.
template <class T>
std::string raw(T value) {
  return {reinterpret_cast<char const*>(&value), sizeof value};
}

}  // namespace dm2::test
