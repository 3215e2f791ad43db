// Damaged and malicious files: reading one either gives tensors or throws file_error, touches no byte outside the file
// (which the sanitizers watch) and takes no memory that the file's own size does not justify.
#include <dm2/io/tensor_file.hpp>

#include "io/make_torch.hpp"
#include "io/scratch.hpp"
#include "support/allocation_counter.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <random>
#include <string>
#include <utility>
#include <vector>

using namespace dm2::test;
using namespace std::string_literals;

namespace {

/// Bytes that reading may take for each byte of the file, frees not subtracted: a one-byte opcode may make a value (16
/// bytes), a stack entry and a mark (4 each, thrice that while a vector grows); a tensor named in 5 bytes, about 250.
constexpr std::size_t per_byte = 128, fixed = 20'000;

/// Whether the file is read; false where it is refused. Anything but file_error fails the test, and so does a tensor
/// that names more elements than the file could hold.
bool readable(std::filesystem::path const& path, std::string const& bytes) {
  write_raw(path, bytes);
  allocation_counter const taken;
  try {
    dm2::tensor_file const file{path};
    CHECK(taken.bytes() <= per_byte * bytes.size() + fixed);
    std::size_t elements = 0;
    for (dm2::stored_tensor const& t : file.tensors()) {
      REQUIRE(t.size() <= bytes.size());
      for (double v : dm2::to_vector<double>(t)) elements += v == v ? 1 : 0;
    }
    return elements <= bytes.size() * file.tensors().size();
  } catch (dm2::file_error const&) {
    CHECK(taken.bytes() <= per_byte * bytes.size() + fixed);
    return false;
  }
}

std::string small_safetensors() {
  std::string const header = R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
                             R"("b":{"dtype":"BOOL","shape":[3],"data_offsets":[16,19]}})";
  return raw<std::uint64_t>(header.size()) + header + std::string(19, '\1');
}
std::string const two_weights = dict(text("w") + tensor("HalfStorage", "0", 6, 1, {2, 2}, {1, 3}) + text("n") +
                                     tensor("LongStorage", "1", 1, 0, {}, {}));
std::vector<std::string> const two_storages{std::string(12, '\x3C'), std::string(8, '\0')};

std::string small_checkpoint() {
  auto const averages =
      list(tensor("HalfStorage", "0", 6, 0, {2, 2}, {2, 1}) + tensor("LongStorage", "1", 1, 0, {}, {}));
  return make_torch_zip(dict(text("state_dict") + two_weights + text("callbacks") +
                             dict(text("EMA") + dict(text("ema_weights") + averages)) + text("hyper_parameters") +
                             dict(text("depth") + "K\3")),
                        two_storages);
}
struct good_file {
  char const* name;
  std::string bytes;
};
std::vector<good_file> good_files() {
  return {{"safetensors", small_safetensors()},
          {"zip", make_torch_zip(two_weights, two_storages)},
          {"zip64", make_zip({{"a/data.pkl", proto + two_weights + "."},
                              {"a/data/0", two_storages[0]},
                              {"a/data/1", two_storages[1]}},
                             {.zip64 = true})},
          {"legacy", make_torch_legacy(two_weights, two_storages, {6, 1})},
          {"checkpoint", small_checkpoint()},
          {"zip.pt", read_raw(golden_file("token_labels/zip.pt"))},
          {"legacy.pt", read_raw(golden_file("token_labels/legacy.pt"))}};
}

/// `unit`, `count` times.
std::string repeated(std::string const& unit, std::size_t count) {
  std::string out;
  out.reserve(unit.size() * count);
  for (std::size_t i = 0; i < count; ++i) out += unit;
  return out;
}

/// A three-letter key, the i-th, and the value that the memo has under 1.
std::string shared_entry(std::size_t i) {
  std::string const key{char('a' + i % 26), char('a' + i / 26 % 26), char('a' + i / 676 % 26)};
  return "\x8c\x03" + key + "h\1";
}

/// Files of about `size` bytes in which many values share one that is as large as they are together.
std::vector<good_file> files_that_share(std::size_t size) {
  std::string shared;
  for (std::size_t i = 0; shared.size() < size / 2; ++i) shared += shared_entry(i);
  std::size_t const count = size / 14;
  std::string entries, averages;
  for (std::size_t i = 0; i < count; ++i) {
    entries += shared_entry(i);
    averages +=
        "\x8c\x06"
        "ema" +
        shared_entry(i).substr(2);
  }
  std::string const long_text = text(std::string(size / 2, 'x')), plain_dict = "}q\1(" + text("k") + "N" + "u0";
  std::string const big_dict = "}q\1(" + repeated(text("step") + "K\1", size / 24) + "u0";
  auto const weights = text("state_dict") + two_weights;
  auto const checkpoint = [&](std::string const& rest) {
    return make_torch_zip("}(" + weights + rest + "u", two_storages);
  };
  std::string const module = std::string(size / 2, 'm');
  return {
      {"callbacks that share a dict", checkpoint(text("callbacks") + big_dict + "}(" + entries + "u")},
      {"averages that share a dict", checkpoint(text("x") + big_dict + "N" + averages)},
      {"hyper_parameters that share a text",
       checkpoint(text("hyper_parameters") + long_text + "q\1" + "0}(" + entries + "u")},
      {"keys that share a text", checkpoint(text("x") + long_text + "q\1" + "0}(" + repeated("h\1N", count) + "u")},
      {"averages of one refused class", checkpoint(text("ema") + "c" + module + "\nC\nq\1" + "0}(" + averages + "u")},
      {"weights that share a dict", checkpoint(text("x") + big_dict + "}(" + entries + "u")},
      {"a state dict of shared plain values",
       make_torch_zip("}(" + text("state_dict") + "}(" + text("a") + big_dict + "N" + entries + "uu", {})},
      {"tensors that share a storage",
       make_torch_zip(tensor("ByteStorage", "0", std::int64_t(size / 2), 0, {std::int64_t(size / 2)}, {1}) + "q\1" +
                          "0}(" + entries + "u",
                      {std::string(size / 2, 'x')})},
      {"a name of many components",
       make_torch_zip("}(" + text(repeated("a.", size / 4)) + tensor("ByteStorage", "0", 1, 0, {}, {}) + "u", {"x"})}};
}
}  // namespace

TEST_CASE("hostile files: whole files are read, and every truncation of one is refused") {
  scratch_folder const folder;
  for (good_file const& file : good_files()) {
    CAPTURE(std::string{file.name});
    std::string const& bytes = file.bytes;
    CHECK(readable(folder / "f", bytes));
    std::size_t const step = bytes.size() > 2000 ? 7 : 1;
    std::size_t wrong = 0;
    for (std::size_t size = 0; size < bytes.size(); size += step)
      wrong += readable(folder / "f", bytes.substr(0, size)) ? 1 : 0;
    CHECK(wrong == 0);
  }
}

TEST_CASE("hostile files: a changed byte anywhere is read or refused, never worse") {
  scratch_folder const folder;
  std::mt19937 engine{20240607};
  auto const random = [&] { return static_cast<unsigned>(engine()); };
  for (good_file const& file : good_files()) {
    CAPTURE(std::string{file.name});
    std::string const& bytes = file.bytes;
    std::size_t refused = 0, tries = 0;
    auto const attempt = [&](std::size_t at, unsigned value) {
      std::string changed = bytes;
      changed[at] = static_cast<char>(value);
      refused += readable(folder / "f", changed) ? 0 : 1;
      ++tries;
    };
    if (bytes.size() <= 2000)
      for (std::size_t at = 0; at < bytes.size(); ++at)
        for (unsigned value :
             {0x00u, 0xFFu, static_cast<unsigned>(static_cast<unsigned char>(bytes[at])) ^ (1u << random() % 8),
              random() % 256u})
          attempt(at, value);
    else
      for (int i = 0; i < 1500; ++i) attempt(i % 3 == 0 ? random() % bytes.size() : random() % 330, random() % 256);
    CHECK(refused > tries / 100);  // else the changes did not reach anything
  }
}

TEST_CASE("hostile files: several changed bytes at once") {
  scratch_folder const folder;
  std::mt19937 random{7};
  for (good_file const& file : good_files()) {
    CAPTURE(std::string{file.name});
    std::string const& bytes = file.bytes;
    for (int i = 0; i < 500; ++i) {
      std::string changed = bytes;
      for (unsigned k = 0; k < 2 + random() % 6; ++k)
        changed[random() % changed.size()] = static_cast<char>(random() % 256);
      (void)readable(folder / "f", changed);
    }
  }
}

TEST_CASE("hostile files: long runs of opcodes take memory in proportion") {
  scratch_folder const folder;
  std::string names;
  for (int i = 0; i < 20'000; ++i)
    names += "\x8c\x03" + std::string{char('a' + i % 26), char('a' + i / 26 % 26), char('a' + i / 676)} + "h\1";
  for (std::string const& unit :
       {"]"s, "}"s, "("s, "N"s, ")"s, "K\1"s, "K\1\x85"s, "]K\1a"s, "}K\1K\1s"s, "N\x94"s, "]q\1"s, "NQ"s, "ca\nb\n"s,
        "ca\nb\n)R"s, "ccollections\nOrderedDict\n)R"s, "]q\1h\1a0"s}) {
    std::string body;
    while (body.size() < 100'000) body += unit;
    CAPTURE(unit);
    (void)readable(folder / "f", make_torch_zip(body, {}));
    (void)readable(folder / "f", make_torch_zip("(" + body + "t", {}));
    (void)readable(folder / "f", make_torch_zip("}(X\20\0\0\0hyper_parameters"s + "]q\1(" + body + "eu", {}));
  }
  // one tensor of the highest rank under 17,576 names (those after them repeat: cut there), and 50,000 times in a list
  std::vector<std::int64_t> const ones(16, 1);
  CHECK_FALSE(readable(folder / "f", make_torch_zip(tensor("ByteStorage", "0", 1, 0, ones, ones) + "q\1" + "0](" +
                                                        repeated("h\1", 50'000) + "e",
                                                    {"x"})));
  CHECK_FALSE(readable(folder / "f", make_torch_zip(tensor("ByteStorage", "0", 1, 0, ones, ones) + "q\1" + "0}(" +
                                                        names.substr(0, 7 * 17'576) + "u",
                                                    {"x"})));
}

TEST_CASE("hostile files: headers and shared values that promise much take memory in proportion") {
  scratch_folder const folder;
  auto const header = [&](std::string const& text) {
    return readable(folder / "f", raw<std::uint64_t>(text.size()) + text);
  };
  for (std::string const& unit : {"["s, "[],"s, "0,"s, "{},"s, "\"a\","s, "{\"a\":"s}) {
    std::string body;
    while (body.size() < 100'000) body += unit;
    CAPTURE(unit);
    CHECK_FALSE(header("{\"t\":" + body));
    CHECK_FALSE(header("{\"t\":{\"shape\":[" + body));
  }
  CHECK_FALSE(readable(folder / "f", raw<std::uint64_t>(99'999'999) + "{}"));
  CHECK_FALSE(header(R"({"t":{"dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,1152921504606846976]}})"));
  std::string doubling = "]q\1";
  for (char level = 2; level < 60; ++level)
    doubling += "0](h" + std::string{char(level - 1)} + "h" + char(level - 1) + "eq" + level;
  CHECK_FALSE(readable(folder / "f", make_torch_zip("}(" + text("hyper_parameters") + doubling + "u", {})));
  CHECK_FALSE(
      readable(folder / "f", make_torch_zip(tensor("ByteStorage", "0", 1, 0, {std::int64_t{1} << 40}, {0}), {"x"})));
}

TEST_CASE("hostile files: time grows with the size of a file, however much its values share") {
  scratch_folder const folder;
  auto const seconds = [&](std::string const& bytes) {
    double best = 1e9;
    for (int i = 0; i < 3; ++i) {
      std::clock_t const begin = std::clock();  // the processor's time: other programs take none of it
      (void)readable(folder / "f", bytes);
      best = std::min(best, double(std::clock() - begin) / CLOCKS_PER_SEC);
    }
    return best;
  };
  std::vector<good_file> const small = files_that_share(100'000), large = files_that_share(800'000);
  for (std::size_t i = 0; i < small.size(); ++i) {
    CAPTURE(std::string{small[i].name});
    double const one = seconds(small[i].bytes), eight = seconds(large[i].bytes);
    // square growth would be 64 times; the constant is for what a cold cache adds
    CHECK(eight < 24 * one + 0.05);
    CHECK(one < 3);  // 0.6 s under a sanitizer on a busy machine; before there were limits, 200 KB took 17
  }
}

TEST_CASE("hostile files: no exception of a library leaves without the file's name") {
  scratch_folder const folder;
  for (std::string const& global : {"cos\nsy\xFFst\n"s, "c\xFF\n\xFF\n"s,
                                    "ctorch\ndevi\xFF"
                                    "ce\n"s}) {
    auto const hyper = text("hyper_parameters") + dict(text("depth") + global + text("b\xFF") + "K\1");
    CHECK(readable(folder / "f", make_torch_zip("}(" + text("state_dict") + two_weights + hyper + "u", two_storages)));
    CHECK_FALSE(readable(folder / "f", make_torch_zip("}(" + hyper + "u", {})));
  }
}

TEST_CASE("hostile files: metadata of deeply nested JSON are refused by their key") {
  scratch_folder const folder;
  auto const file = [&](std::size_t depth) {
    std::string const nested = repeated("[", depth) + repeated("]", depth);
    std::string const header = R"({"__metadata__":{"config":"{\"depth\":)" + nested +
                               R"(}"},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})";
    write_raw(folder / "f", raw<std::uint64_t>(header.size()) + header);
    return folder / "f";
  };
  CHECK_NOTHROW(dm2::tensor_file{file(60)});
  for (std::size_t const depth : {std::size_t{64}, std::size_t{1000}, std::size_t{100'000}})
    CHECK_THROWS_WITH_AS(dm2::tensor_file{file(depth)}, doctest::Contains("'config' is JSON nested more than 64 deep"),
                         dm2::file_error);
}

TEST_CASE("hostile files: JSON of many keys takes time by their number, ordered or not") {
  std::string text = "{";
  for (int i = 0; i < 60'000; ++i) text += (i == 0 ? "\"f" : ",\"f") + std::to_string(i) + "\":1";
  text += "}";
  std::clock_t const begin = std::clock();
  CHECK(dm2::detail::parse_json(text).size() == 60'000);
  CHECK(dm2::detail::parse_json<nlohmann::ordered_json>(text).is_discarded());
  // A sanitizer on a busy machine takes 1 s; each key beside all before it would be 1.8 billion comparisons.
  CHECK(double(std::clock() - begin) / CLOCKS_PER_SEC < 6);
  CHECK(dm2::detail::parse_json<nlohmann::ordered_json>(R"({"b":1,"a":2})").dump() == R"({"b":1,"a":2})");
}
