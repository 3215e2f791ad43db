// Large files of a few bytes repeated, within a budget of time: what takes longer than its length justifies.
#include "fuzz/support.hpp"
#include "fuzz/targets.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <ctime>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dm2::fuzz {
namespace {

constexpr std::size_t full_size = 100'000;
/// Seconds for full_size bytes, far more than they take: sanitizers slow things down.
constexpr double budget = 10;

/// Which reader gets the file, and what stands around the repeated bytes so that it gets that far.
struct frame {
  std::string_view target, front, back;
  bool header = false;  ///< with safetensors' length in front
};
using namespace std::string_view_literals;
constexpr std::array frames{
    frame{"pickle", "\x80\2}(X\12\0\0\0state_dict}(X\1\0\0\0wNuX\11\0\0\0callbacks}q\1("sv, "uu."sv},
    frame{"pickle", "\x80\2}(X\20\0\0\0hyper_parameters]q\1("sv, "eu."sv},
    frame{"pickle", "\x80\2}q\1("sv, "u."sv},
    frame{"pickle", "\x80\2]q\1("sv, "e."sv},
    frame{"pickle", "\x80\2"sv, "."sv},
    frame{"safetensors", "{"sv, "}"sv, true},
    frame{"safetensors", "{\"__metadata__\":{\"config\":\""sv, "\"}}"sv, true},
    frame{"lightning", "{\"__metadata__\":{\"config\":\"{\\\"depth\\\":"sv,
          "}\"},\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}"sv, true},
    frame{"json", "{\"depth\":"sv, "}"sv},
    frame{"json", ""sv, ""sv},
    frame{"class_list", "a\n"sv, ""sv},
    frame{"csv", "step,loss\n"sv, ""sv},
    frame{"csv", ""sv, ""sv},
    frame{"zip", "PK\3\4"sv, ""sv},
    frame{"png", "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x8\0\0\0\x8\x8\2\0\0\0\x4b\x6d\x29\xdc"sv, ""sv},
    frame{"jpeg", "\xff\xd8"sv, "\xff\xd9"sv},
};

/// The first byte chooses the frame, the rest are repeated; each repetition counts up its bytes of 0xFE, so that names
/// differ.
std::string build(frame const& f, std::span<std::byte const> unit) {
  std::string body{f.front};
  for (std::uint32_t n = 0; body.size() < full_size; ++n) {
    std::uint32_t digits = n;
    for (std::byte const b : unit) {
      bool const counted = b == std::byte{0xFE};
      body += counted ? char('a' + digits % 26) : char(b);
      if (counted) digits /= 26;
    }
  }
  body += f.back;
  if (!f.header) return body;
  std::uint64_t const length = body.size();
  return std::string(reinterpret_cast<char const*>(&length), 8) + body;
}

bool large(std::span<std::byte const> bytes) {
  static std::vector<target> const readers = [] {
    auto out = tensor_targets();
    for (auto const& part : {picture_targets(), text_targets()}) out.insert(out.end(), part.begin(), part.end());
    return out;
  }();
  if (bytes.size() < 2) return false;
  frame const& f = frames[std::to_integer<std::size_t>(bytes[0]) % frames.size()];
  std::string const file = build(f, bytes.subspan(1));
  auto const reader = std::find_if(readers.begin(), readers.end(), [&](target const& t) { return t.name == f.target; });
  std::clock_t const begin = std::clock();  // the processor's time: other programs take none of it
  bool const taken = reader->run(std::as_bytes(std::span{file}));
  double const seconds = double(std::clock() - begin) / CLOCKS_PER_SEC;
  if (seconds > budget * std::max(1.0, double(file.size()) / full_size))
    finding(std::string{f.target} + " took " + std::to_string(seconds) + " s for " + std::to_string(file.size()) +
            " bytes");
  return taken;
}

}  // namespace

std::vector<target> large_targets() { return {{"large", large}}; }

}  // namespace dm2::fuzz
