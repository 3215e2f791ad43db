// Readers of pictures.
#include <dm2/data/decode.hpp>
#ifdef DM2_WITH_STB
#include <dm2/data/decode/stb.hpp>
#endif

#include "fuzz/support.hpp"
#include "fuzz/targets.hpp"

#include <span>
#include <vector>

namespace dm2::fuzz {
namespace {

constexpr decode_options limits{.max_pixels = std::uint64_t{1} << 20, .max_scans = 20};

template <class Decode>
bool decodes(std::span<std::byte const> bytes, Decode const& decode) {
  return reads(name, [&] {
    picture const p = decode(bytes, name, limits);
    if (p.height < 1 || p.width < 1 || p.pixels.size() != std::size_t(p.height) * p.stride())
      finding("a picture of another size than its pixels");
    unsigned sum = 0;  // memory that nobody has written is the memory sanitizer's to find
    for (auto const v : p.pixels) sum += v;
    if (sum == ~0u) finding("never");
  });
}

bool read(std::span<std::byte const> bytes) { return decodes(bytes, decode_image); }
#ifdef DM2_WITH_STB
bool stb(std::span<std::byte const> bytes) { return decodes(bytes, decode_stb); }
#endif

}  // namespace

std::vector<target> picture_targets() {
  std::vector<target> out{{"png", read}, {"jpeg", read}};
#ifdef DM2_WITH_STB
  out.push_back({"stb_png", stb});
  out.push_back({"stb_jpeg", stb});
#endif
  return out;
}

}  // namespace dm2::fuzz
