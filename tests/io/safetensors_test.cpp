#include <dm2/io/safetensors.hpp>
#include <dm2/io/safetensors_write.hpp>
#include <dm2/io/tensor_file.hpp>

#include "io/refusal.hpp"
#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <vector>

using dm2::dtype;
using dm2::stored_tensor;
using namespace dm2::test;

namespace {
std::string file_of(std::string const& header, std::string const& data) {
  return raw(static_cast<std::uint64_t>(header.size())) + header + data;
}
std::string refused(std::string const& header, std::size_t data_bytes) {
  std::string const file = file_of(header, std::string(data_bytes, '\1'));
  return refusal("f", [&] { (void)dm2::read_safetensors(std::as_bytes(std::span{file}), "f"); });
}
/// A header of one tensor "t".
std::string one(std::string const& type, std::string const& shape, std::string const& offsets) {
  return R"({"t":{"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}
template <class T>
stored_tensor tensor(std::string name, dtype type, std::vector<T> const& values, std::vector<std::int64_t> shape,
                     std::vector<std::int64_t> strides) {
  return {std::move(name), type, std::move(shape), std::move(strides),
          reinterpret_cast<std::byte const*>(values.data())};
}
}  // namespace

TEST_CASE("safetensors: a header written by hand is read as it says") {
  std::string const file =
      file_of(R"({"__metadata__":{"k":"v"},"b":{"dtype":"I16","shape":[2,1],"data_offsets":[8,12]},)"
              R"("a":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
              R"("none":{"dtype":"F32","shape":[0,3],"data_offsets":[8,8]}}  )",
              raw(2.5) + raw<std::int16_t>(-3) + raw<std::int16_t>(4));
  auto const got = dm2::read_safetensors(std::as_bytes(std::span{file}), "f");
  REQUIRE(got.tensors.size() == 3);
  CHECK(got.tensors[0].name == "b");  // the header's order
  CHECK(got.tensors[0].shape == std::vector<std::int64_t>{2, 1});
  CHECK(dm2::to_vector<int>(got.tensors[0]) == std::vector<int>{-3, 4});
  CHECK(dm2::to_vector<double>(got.tensors[1]) == std::vector<double>{2.5});
  CHECK(got.tensors[2].size() == 0);
  CHECK(got.metadata == std::map<std::string, std::string>{{"k", "v"}});
}

TEST_CASE("safetensors: sizes that do not fit are refused by tensor") {
  CHECK(contains(refused(one("F32", "[2]", "[0,8]"), 7), "'t': data_offsets [0, 8] do not lie in 7 bytes"));
  CHECK(contains(refused(one("F32", "[3]", "[0,8]"), 8), "shape [3] of F32 does not take the 8 bytes"));
  CHECK(contains(refused(one("F32", "[1]", "[8,4]"), 8), "data_offsets [8, 4] do not lie"));
  CHECK(contains(refused(one("F32", "[4294967296,4294967296]", "[0,8]"), 8), "does not take the 8 bytes"));
  CHECK(contains(refused(one("F64", "[2305843009213693953]", "[0,8]"), 8), "does not take the 8 bytes"));  // 2^61 + 1
  CHECK(contains(refused(one("F32", "[-1]", "[0,8]"), 8), "holds -1, not a size"));
  CHECK(contains(refused(one("F32", "[2.0]", "[0,8]"), 8), "holds 2.0, not a size"));
  CHECK(contains(refused(one("F32", "[18446744073709551615]", "[0,8]"), 8), "not a size"));
  CHECK(contains(refused(one("F32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2]", "[0,8]"), 8), "more than 16 numbers"));
  CHECK(contains(refused(one("F32", "[2]", "[0,8,8]"), 8), "more than 2 numbers"));
  CHECK(contains(refused(one("F32", "[2]", "[0]"), 8), "data_offsets [0] do not lie"));
  CHECK(contains(refused(one("F32", "2", "[0,8]"), 8), "no array 'shape'"));
  CHECK(contains(refused(one("X8", "[8]", "[0,8]"), 8), "dtype \"X8\", which is not supported"));
  CHECK(contains(refused(one("F8_E4M3", "[7]", "[0,8]"), 8), "shape [7] of F8_E4M3 does not take the 8 bytes"));
}

TEST_CASE("safetensors: overlaps, holes and bytes after the end are refused") {
  auto const two = [](std::string const& a, std::string const& b) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}";
  };
  CHECK(refused(two("[0,4]", "[2,6]"), 6) == "safetensors: tensor data overlap at byte 2");
  CHECK(refused(two("[0,4]", "[0,4]"), 4) == "safetensors: tensor data overlap at byte 0");
  CHECK(refused(two("[6,10]", "[0,4]"), 10) == "safetensors: tensor data leave a hole at byte 6");
  CHECK(refused(two("[4,8]", "[0,4]"), 9) == "safetensors: the tensors take 8 bytes, the file holds 9");
  CHECK(refused("{}", 1) == "safetensors: the tensors take 0 bytes, the file holds 1");
}

TEST_CASE("safetensors: headers that are not what they should be are refused") {
  std::string const entry = R"("t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  CHECK(contains(refused("{" + entry + "," + entry + "}", 0), "names 't' twice"));
  CHECK(contains(refused(R"({"t":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}})", 0),
                 "has 'dtype' twice"));
  CHECK(contains(refused("[]", 0), "not a JSON object"));
  CHECK(contains(refused("17", 0), "not a JSON object"));
  CHECK(contains(refused(R"({"t":[1,2]})", 0), "'t' is not a JSON object"));
  CHECK(contains(refused(R"({"t":{"dtype":"U8","shape":[[0]],"data_offsets":[0,0]}})", 0), "nested too deep"));
  CHECK(contains(refused(R"({"__metadata__":{"a":{"b":"c"}}})", 0), "nested too deep"));
  CHECK(contains(refused(R"({"__metadata__":{"a":1}})", 0), "metadata 'a' is not a string"));
  CHECK(contains(refused("{\"\xFF\":1}", 0), "not valid JSON"));
  CHECK(contains(refused("{" + entry, 0), "not valid JSON"));
  std::string const longer = raw<std::uint64_t>(100'000'001) + "{}", past = raw<std::uint64_t>(3) + "{}";
  auto const read = [](std::string const& s) { (void)dm2::read_safetensors(std::as_bytes(std::span{s}), "f"); };
  CHECK(contains(refusal("f", [&] { read(longer); }), "over the limit of 100 MB"));
  CHECK(contains(refusal("f", [&] { read(past); }), "a header of 3 bytes in a file of 10 bytes"));
  CHECK(contains(refusal("f", [&] { read("1234567"); }), "shorter than the 8 bytes"));
}

TEST_CASE("safetensors: headers that the format's reference reads are read") {
  std::string const entry = R"("t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  auto const read = [](std::string const& header) {
    std::string const file = file_of(header, "\7");
    auto const got = dm2::read_safetensors(std::as_bytes(std::span{file}), "f");
    REQUIRE(got.tensors.size() == 1);
    CHECK(got.tensors[0].shape == std::vector<std::int64_t>{1});
    return got.metadata;
  };
  CHECK(read(R"({"__metadata__":null,)" + entry + "}").empty());
  CHECK(read("{" + entry + R"(,"__metadata__":null})").empty());
  CHECK(read(R"({"__metadata__":{},)" + entry + "}").empty());
  CHECK(read("{" + entry + "} \t\r\n").empty());
  for (char const* more : {"1", "null", "\"x\"", "[[1,[2]]]", R"({"dtype":"F32","q":[{"shape":[9]}]})"}) {
    CAPTURE(std::string{more});
    CHECK(
        read(R"({"t":{"dtype":"U8","later":)" + std::string{more} + R"(,"shape":[1],"data_offsets":[0,1]}})").empty());
  }
}

TEST_CASE("safetensors: tensors of types that are not read are left out and named, their bytes accounted for") {
  scratch_folder const folder;
  auto const write = [&](std::string const& more, std::size_t bytes) {
    write_raw(folder / "f", file_of("{" + more + R"("t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                                    "\7" + std::string(bytes, '\0')));
  };
  write(R"("x":{"dtype":"F8_E5M2","shape":[3],"data_offsets":[1,4]},)"
        R"("c":{"dtype":"C64","shape":[1],"data_offsets":[4,12]},)"
        R"("h":{"dtype":"F4","shape":[4],"data_offsets":[12,14]},)",
        13);
  dm2::tensor_file const file{folder / "f"};
  CHECK(file.tensors().size() == 1);
  REQUIRE(file.notices().size() == 3);
  CHECK(file.notices()[0] == "'x' has dtype \"F8_E5M2\", which is not supported: it is left out");
  write_raw(folder / "f", file_of(one("C64", "[1]", "[0,8]"), std::string(8, '\0')));
  CHECK(contains(refusal(folder / "f", [&] { dm2::tensor_file{folder / "f"}; }),
                 "holds no tensor that can be read: 't'"));
}

TEST_CASE("safetensors: a NUL in the header is no JSON, wherever it stands") {
  std::string const entry = R"({"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})";
  for (std::size_t at : {std::size_t{1}, std::size_t{3}, entry.size() - 1, entry.size()}) {
    std::string header = entry;
    header.insert(at, 1, '\0');
    CHECK(contains(refused(header + "}{", 0),
                   "the header is not valid JSON: a NUL byte at byte " + std::to_string(at + 8)));
  }
}

TEST_CASE("safetensors: what is written is read back bit for bit, aligned, in the order given") {
  scratch_folder const folder;
  std::vector<std::uint8_t> const bytes{1, 2, 3};
  std::vector<double> const wide{0.1, -0.0, 1e-310};
  std::vector<std::uint16_t> const brain{0x7FC1, 1, 0x3F80, 9};
  std::vector<float> grid(100 * 300);
  std::iota(grid.begin(), grid.end(), 0.5f);
  std::vector<stored_tensor> const tensors{
      tensor("bytes", dtype::u8, bytes, {3}, {1}), tensor("wide", dtype::f64, wide, {3, 1}, {1, 1}),
      tensor("brain", dtype::bf16, brain, {2, 2}, {2, 1}), tensor("turned", dtype::f32, grid, {300, 100}, {1, 300}),
      tensor("empty", dtype::i64, wide, {0, 5}, {5, 1})};
  std::map<std::string, std::string> const metadata{{"format", "pt"}, {"text", "quote \" and \xC3\xA9"}};
  dm2::write_safetensors(folder / "f", tensors, metadata);
  dm2::tensor_file const file{folder / "f"};
  CHECK(file.format() == dm2::file_format::safetensors);
  CHECK(file.metadata() == metadata);
  REQUIRE(file.tensors().size() == tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    stored_tensor const &got = file.tensors()[i], &want = tensors[i];
    CHECK(got.name == want.name);
    CHECK(got.type == want.type);
    CHECK(got.shape == want.shape);
    CHECK(reinterpret_cast<std::uintptr_t>(got.data) % dm2::size_of(got.type) == 0);
    std::size_t const size = got.size() * dm2::size_of(got.type);
    if (want.contiguous())
      CHECK(std::string(reinterpret_cast<char const*>(got.data), size) ==
            std::string(reinterpret_cast<char const*>(want.data), size));
  }
  CHECK(dm2::to_vector<float>(file.at("turned")) == dm2::to_vector<float>(tensors[3]));
  CHECK(dm2::to_vector<float>(file.at("turned"))[1] == 300.5f);
}

TEST_CASE("safetensors: a name given twice, reserved or not UTF-8 is not written, and the old file stays") {
  scratch_folder const folder;
  write_raw(folder / "f", "old");
  std::vector<float> const v{1};
  for (char const* name : {"same", "__metadata__", "\xFF"}) {
    std::vector<stored_tensor> const tensors{tensor("same", dtype::f32, v, {1}, {1}),
                                             tensor(name, dtype::f32, v, {1}, {1})};
    CHECK_THROWS_AS(dm2::write_safetensors(folder / "f", tensors), dm2::file_error);
  }
  CHECK(read_raw(folder / "f") == "old");
  CHECK(folder.files() == 1);
}

TEST_CASE("tensor_file: a safetensors header whose length begins as a pickle does is still one") {
  scratch_folder const folder;
  std::string header = one("U8", "[1]", "[0,1]");
  header.resize(0x280, ' ');
  write_raw(folder / "f", file_of(header, "\7"));
  CHECK(dm2::to_vector<int>(dm2::tensor_file{folder / "f"}.at("t")) == std::vector<int>{7});
}
