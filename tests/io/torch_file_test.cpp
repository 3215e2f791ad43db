#include <dm2/io/tensor_file.hpp>

#include "io/make_torch.hpp"
#include "io/refusal.hpp"
#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <string>
#include <vector>

using namespace dm2::test;

namespace {
std::string refused(std::string const& bytes) {
  scratch_folder const folder;
  write_raw(folder / "f", bytes);
  return refusal(folder / "f", [&] { dm2::tensor_file{folder / "f"}; });
}
std::string floats(std::vector<float> const& values) {
  std::string out;
  for (float v : values) out += raw(v);
  return out;
}
std::string const six = floats({0, 1, 2, 3, 4, 5});
}  // namespace

TEST_CASE("torch_file: label maps in every layout are the expected tensor") {
  dm2::tensor_file const expected{golden_file("token_labels/expected.safetensors")};
  auto const want = dm2::to_vector<float>(expected.at("label"));
  for (char const* name : {"token_labels/zip.pt", "token_labels/legacy.pt", "token_labels/contiguous.pt"}) {
    CAPTURE(std::string{name});
    dm2::tensor_file const file{golden_file(name)};
    REQUIRE(file.tensors().size() == 1);
    auto const& t = file.at("tensor");
    CHECK(t.type == dm2::dtype::f16);
    CHECK(t.shape == std::vector<std::int64_t>{2, 5, 18, 18});
    CHECK(t.contiguous() == (std::string{name} == "token_labels/contiguous.pt"));
    CHECK(dm2::to_vector<float>(t) == want);
  }
}

TEST_CASE("torch_file: a file that would run code, and a truncated one, are refused with the reason") {
  auto const bad = [](char const* name) {
    return refusal(golden_file(name), [&] { dm2::tensor_file{golden_file(name)}; });
  };
  CHECK(
      contains(bad("token_labels/bad_code.pt"), "an object of the refused global __builtin__ print; nothing was run"));
  CHECK(contains(bad("token_labels/bad_truncated.pt"), "truncated"));
}

TEST_CASE("torch_file: every element type, with offset and strides, in both formats") {
  struct element {
    char const* storage;
    std::string one, two;
  };
  std::vector<element> const all{{"DoubleStorage", raw(1.0), raw(2.0)},
                                 {"FloatStorage", raw(1.0f), raw(2.0f)},
                                 {"HalfStorage", raw<std::uint16_t>(0x3C00), raw<std::uint16_t>(0x4000)},
                                 {"BFloat16Storage", raw<std::uint16_t>(0x3F80), raw<std::uint16_t>(0x4000)},
                                 {"LongStorage", raw<std::int64_t>(1), raw<std::int64_t>(2)},
                                 {"IntStorage", raw<std::int32_t>(1), raw<std::int32_t>(2)},
                                 {"ShortStorage", raw<std::int16_t>(1), raw<std::int16_t>(2)},
                                 {"CharStorage", raw<std::int8_t>(1), raw<std::int8_t>(2)},
                                 {"ByteStorage", raw<std::uint8_t>(1), raw<std::uint8_t>(2)}};
  scratch_folder const folder;
  for (element const& e : all) {
    char const* const storage = e.storage;
    std::string const &one = e.one, &two = e.two;
    CAPTURE(std::string{storage});
    std::string const bytes = one + one + two + one + one + two;  // [2, 3], read from element 1 as [2, 2] by columns
    std::string const t = tensor(storage, "0", 6, 1, {2, 2}, {1, 3});
    write_raw(folder / "zip", make_torch_zip(t, {bytes}));
    write_raw(folder / "old", make_torch_legacy(t, {bytes}, {6}));
    for (char const* name : {"zip", "old"})
      CHECK(dm2::to_vector<double>(dm2::tensor_file{folder / name}.at("tensor")) == std::vector<double>{1, 1, 2, 2});
  }
  write_raw(folder / "bool", make_torch_zip(tensor("BoolStorage", "0", 2, 0, {2}, {1}), {std::string("\0\1", 2)}));
  CHECK(dm2::to_vector<int>(dm2::tensor_file{folder / "bool"}.at("tensor")) == std::vector<int>{0, 1});
}

TEST_CASE("torch_file: dicts, lists, parameters and tensors with attributes") {
  std::string const t = tensor("FloatStorage", "0", 6, 2, {2}, {1});
  std::string const parameter = global("torch._utils", "_rebuild_parameter") +
                                tuple(t + "\x88" + global("collections", "OrderedDict") + ")R") + "R";
  std::string const attributed =
      global("torch._tensor", "_rebuild_from_type_v2") +
      tuple(global("torch._utils", "_rebuild_tensor_v2") + global("torch", "Tensor") +
            tuple(tuple(text("storage") + global("torch", "FloatStorage") + text("0") + text("cpu") + integer(6)) +
                  "Q" + integer(2) + tuple(integer(2)) + tuple(integer(1)) + "\x89" +
                  global("collections", "OrderedDict") + ")R") +
            dict(text("tag") + "K\1")) +
      "R";
  scratch_folder const folder;
  for (std::string const& value : {t, parameter, attributed}) {
    write_raw(folder / "dict", make_torch_zip(dict(text("b") + value + text("a") + value), {six}));
    dm2::tensor_file const file{folder / "dict"};
    REQUIRE(file.tensors().size() == 2);
    CHECK(file.tensors()[0].name == "b");
    CHECK(dm2::to_vector<float>(file.at("a")) == std::vector<float>{2, 3});
    CHECK(contains(refusal(folder / "dict", [&] { (void)file.at("c"); }), "holds no tensor 'c'"));
  }
  write_raw(folder / "list", make_torch_zip(list(t + t), {six}));
  CHECK(dm2::tensor_file{folder / "list"}.at("1").size() == 2);
  write_raw(folder / "model",
            make_torch_legacy(dict(text("epoch") + "K\1" + text("model") + dict(text("w") + t)), {six}, {6}));
  CHECK(dm2::tensor_file{folder / "model"}.at("w").size() == 2);
}

TEST_CASE("torch_file: views that do not fit their storage are refused") {
  auto const view = [](std::int64_t count, std::int64_t offset, std::vector<std::int64_t> shape,
                       std::vector<std::int64_t> strides) {
    return refused(make_torch_zip(tensor("FloatStorage", "0", count, offset, shape, strides), {six}));
  };
  CHECK(
      contains(view(6, 0, {7}, {1}), "'tensor': shape [7], strides [1], offset 0 do not fit a storage of 6 elements"));
  CHECK(contains(view(6, 1, {2, 3}, {3, 1}), "do not fit"));
  CHECK(contains(view(6, 0, {2, 2}, {5, 1}), "do not fit"));
  CHECK(contains(view(6, 7, {0}, {1}), "do not fit"));
  CHECK(contains(view(6, 0, {1000000}, {0}), "do not fit"));  // one element, named a million times
  CHECK(contains(view(6, 0, {3}, {std::int64_t{1} << 62}), "do not fit"));
  CHECK(contains(view(6, 0, {std::int64_t{1} << 40, std::int64_t{1} << 40}, {0, 0}), "do not fit"));
  CHECK(contains(view(7, 0, {7}, {1}), "storage '0' of 7 F32 has 24 bytes"));
  CHECK(contains(view(std::int64_t{1} << 62, 0, {6}, {1}), "has 24 bytes"));
  CHECK(contains(view(6, -1, {6}, {1}), "damaged offset"));
  CHECK(contains(view(6, 0, {-6}, {1}), "not a number of 0 or more"));
  CHECK(contains(view(6, 0, {6}, {-1}), "not a number of 0 or more"));
  CHECK(contains(view(6, 0, {2, 3}, {1}), "damaged offset, shape or strides"));
  CHECK(
      contains(view(6, 0, std::vector<std::int64_t>(17, 1), std::vector<std::int64_t>(17, 1)), "a tuple of 17 values"));
}

TEST_CASE("torch_file: what else is not readable is refused by name") {
  std::string const t = tensor("FloatStorage", "0", 6, 0, {6}, {1});
  CHECK(contains(refused(make_torch_zip(t, {six}, "big")), "byteorder is 'big'; only little-endian files are read"));
  CHECK(contains(refused(make_torch_legacy(t, {six}, {6}, false)), "little_endian is not True"));
  CHECK(contains(refused(make_torch_zip(t, {})), "storage '0' is not in the file"));
  CHECK(contains(refused(make_torch_zip(tensor("ComplexFloatStorage", "0", 6, 0, {6}, {1}), {six})),
                 "elements of an object of the refused global torch ComplexFloatStorage"));
  CHECK(contains(refused(make_torch_zip(dict(text("epoch") + "K\1" + text("args") + dict("")), {})),
                 "holds no tensor: 'epoch' is an integer, 'args' is a dict"));
  CHECK(contains(refused(make_torch_zip(dict(text("w") + t + text("more") + dict(text("v") + t)), {six})),
                 "'more' is a dict, not a tensor"));
  CHECK(contains(refused(make_torch_zip(dict(text("w") + t + text("w") + t), {six})), "names 'w' twice"));
  CHECK(contains(refused(make_torch_zip(dict(text("w") + global("numpy", "array") + ")R"), {six})),
                 "holds no tensor: 'w' is an object of the refused global numpy array"));
  CHECK(contains(refused(make_torch_zip(dict(text("\xFF") + t), {six})), "has a string as a name"));
  CHECK(contains(refused(make_torch_zip("K\1", {})), "holds an integer, not tensors"));
  CHECK(contains(refused(make_zip({{"a/other", ""}})), "no entry is called data.pkl"));
  CHECK(contains(refused(make_zip({{"a/data.pkl", "N."}, {"b/data.pkl", "N."}})),
                 "more than one entry is called data.pkl"));
  CHECK(contains(refused(make_zip({{"a/data.pkl", "N."}}, {.method = 8})), "is compressed"));
  CHECK(contains(refused(proto + "K\1."), "torch's magic number is missing"));
  CHECK(contains(refused(make_torch_legacy(t, {six}, {7})), "storage '0' of 7 elements passes the end of the file"));
  CHECK(contains(refused("not a tensor file"), "is none of safetensors, torch file and Lightning checkpoint"));
  CHECK(refused("") == "is empty");
}
