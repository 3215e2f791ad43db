// Every error of the C interface: a status and a message, nothing written, nothing leaked.
#include "c/opened.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <thread>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr std::size_t pixels = 3 * 64 * 64, classes = 10;

/// The call's status is that one, and the last error has the words.
void check_refused(int status, int want, std::string_view words) {
  CHECK(std::string{dm2_status_name(status)} == dm2_status_name(want));
  std::string const text = dm2_last_error();
  CAPTURE(text);
  CHECK(text.find(words) != text.npos);
}

/// Opens a file that has to be refused.
void check_not_opened(std::filesystem::path const& path, dm2_open_options const* options, int want,
                      std::string_view words) {
  dm2_model* model = reinterpret_cast<dm2_model*>(&want);
  check_refused(dm2_open(path.c_str(), options, &model), want, words);
  CHECK(model == nullptr);
}

dm2_open_options with(std::int32_t dm2_open_options::*field, std::int32_t value) {
  dm2_open_options out = DM2_OPEN_OPTIONS;
  out.*field = value;
  return out;
}

}  // namespace

TEST_CASE("C errors: a thread has no last error of another's, and an empty one before the first") {
  check_refused(dm2_describe(nullptr, nullptr), DM2_HANDLE, "dm2_model is NULL");
  std::string other = "not asked";
  std::thread{[&] { other = dm2_last_error(); }}.join();
  CHECK(other.empty());
  CHECK(std::string{dm2_status_name(-1)} == "unknown");
  CHECK(std::string{dm2_status_name(11)} == "unknown");
  CHECK(std::string{dm2_status_name(DM2_INTERNAL)} == "DM2_INTERNAL");
}

TEST_CASE("C errors: files that are missing, no model, damaged or cut are refused by name") {
  scratch_folder const folder;
  std::string const whole = read_raw(golden_file("lightning/epoch=0-step=2-EMA.safetensors"));
  check_not_opened(folder / "none", nullptr, DM2_FILE, "none");
  check_not_opened(golden_file("images/photo.jpg"), nullptr, DM2_FILE, "JPEG");
  write_raw(folder / "empty", "");
  check_not_opened(folder / "empty", nullptr, DM2_FILE, "is empty");
  for (std::size_t const size : {std::size_t{1}, std::size_t{9}, whole.size() / 2, whole.size() - 1}) {
    write_raw(folder / "cut", std::string_view{whole}.substr(0, size));
    check_not_opened(folder / "cut", nullptr, DM2_FILE, "cut");
  }
  std::string damaged = whole;
  damaged[20] = '\xff';
  write_raw(folder / "damaged", damaged);
  check_not_opened(folder / "damaged", nullptr, DM2_FILE, "damaged");
}

TEST_CASE("C errors: weights that are not finite are refused with the tensor's name") {
  scratch_folder const folder;
  auto const net = micro_network();
  auto const& e = *std::find_if(net->table().begin(), net->table().end(),
                                [](parameter_entry const& t) { return t.name == "head.weight"; });
  net->state()[e.offset + 3] = std::numeric_limits<float>::quiet_NaN();
  run::save(*net, folder / "nan.safetensors");
  check_not_opened(folder / "nan.safetensors", nullptr, DM2_NUMBERS, "head.weight");
}

TEST_CASE("C errors: open refuses null pointers, sizes, numbers out of range and configurations by name") {
  dm2_model* model = nullptr;
  check_refused(dm2_open(nullptr, nullptr, &model), DM2_ARGUMENT, "path is NULL");
  check_refused(dm2_open(micro_file.c_str(), nullptr, nullptr), DM2_ARGUMENT, "model is NULL");
  for (std::size_t const size : {std::size_t{0}, sizeof(dm2_open_options) - 1, sizeof(dm2_open_options) + 8}) {
    dm2_open_options options = DM2_OPEN_OPTIONS;
    options.size = size;
    check_not_opened(micro_file, &options, DM2_ARGUMENT, "dm2_open_options.size is " + std::to_string(size));
  }
  auto options = with(&dm2_open_options::device, 3);
  check_not_opened(micro_file, &options, DM2_ARGUMENT, "device is 3, expected 0 to 2");
  options = with(&dm2_open_options::precision, -1);
  check_not_opened(micro_file, &options, DM2_ARGUMENT, "precision is -1");
  options = with(&dm2_open_options::precision, DM2_PRECISION_BF16);
  check_not_opened(micro_file, &options, DM2_DEVICE, "the CPU computes in fp32");
  options = with(&dm2_open_options::weights, 7);
  check_not_opened(micro_file, &options, DM2_ARGUMENT, "weights is 7");
  options = with(&dm2_open_options::threads, 1025);
  check_not_opened(micro_file, &options, DM2_ARGUMENT, "threads is 1025");
  options = with(&dm2_open_options::reserved, 1);
  check_not_opened(micro_file, &options, DM2_ARGUMENT, "reserved is 1");
  options = DM2_OPEN_OPTIONS;
  for (auto const& [text, words] : {std::pair{"huge", "'huge' is neither"}, std::pair{"{\"depth\": \"x\"}", "depth"},
                                    std::pair{"{\"no_field\": 1}", "no_field"}, std::pair{"[1]", "neither"},
                                    std::pair{"{\"base\": \"huge\"}", "base 'huge' is none of tiny"}}) {
    options.configuration = text;
    check_not_opened(micro_file, &options, DM2_ARGUMENT, words);
  }
}

TEST_CASE("C errors: a configuration without code is refused, and says what would compile it") {
  scratch_folder const folder;
  dm2_trainer_options options{};
  options.size = sizeof options;
  REQUIRE(dm2_trainer_defaults(&options) == DM2_OK);
  std::string const cache = folder / "cache";
  options.configuration = R"({"base": "micro", "classes": 23})";
  options.cache_folder = cache.c_str();
  dm2_trainer* trainer = nullptr;
  check_refused(dm2_trainer_open(&options, &trainer), DM2_CODE, "compile = 1");
  CHECK(trainer == nullptr);
  CHECK_FALSE(std::filesystem::exists(cache));
}

TEST_CASE("C errors: closed, foreign and null handles are found out") {
  dm2_model* model = nullptr;
  REQUIRE(dm2_open(micro_file.c_str(), nullptr, &model) == DM2_OK);
  REQUIRE(dm2_close(model) == DM2_OK);
  float numbers[classes];
  dm2_prediction best[1];
  char const* text = nullptr;
  dm2_description d{};
  dm2_tensor t{};
  int foreign = 0;
  for (dm2_model* const handle : {model, reinterpret_cast<dm2_model*>(&foreign), static_cast<dm2_model*>(nullptr)}) {
    std::string_view const words = handle == nullptr ? "is NULL" : "not an open dm2_model";
    check_refused(dm2_describe(handle, &d), DM2_HANDLE, words);
    check_refused(dm2_class_name(handle, 0, &text), DM2_HANDLE, words);
    check_refused(dm2_tensor_at(handle, 0, &t), DM2_HANDLE, words);
    check_refused(dm2_notice(handle, 0, &text), DM2_HANDLE, words);
    check_refused(dm2_classify_encoded(handle, "x", 1, 1, best), DM2_HANDLE, words);
    check_refused(dm2_classify_pixels(handle, nullptr, 1, 1, 0, 1, best), DM2_HANDLE, words);
    check_refused(dm2_input_encoded(handle, "x", 1, numbers, 1), DM2_HANDLE, words);
    check_refused(dm2_input_pixels(handle, nullptr, 1, 1, 0, numbers, 1), DM2_HANDLE, words);
    check_refused(dm2_forward(handle, numbers, 1, numbers, 1), DM2_HANDLE, words);
    check_refused(dm2_features(handle, numbers, 1, numbers, 1), DM2_HANDLE, words);
    check_refused(dm2_patches(handle, numbers, 1, numbers, 1, numbers, 1), DM2_HANDLE, words);
    check_refused(dm2_save(handle, "x"), DM2_HANDLE, words);
    check_refused(dm2_export_onnx(handle, "x", nullptr), DM2_HANDLE, words);
    check_refused(dm2_export_hub(handle, "x", nullptr), DM2_HANDLE, words);
    if (handle != nullptr) check_refused(dm2_close(handle), DM2_HANDLE, words);
  }
  CHECK(dm2_close(nullptr) == DM2_OK);
}

TEST_CASE("C errors: null pointers and indices of an open model are refused, and nothing is written") {
  opened const model;
  char const* text = "kept";
  dm2_description d{};
  check_refused(dm2_describe(model, nullptr), DM2_ARGUMENT, "dm2_description is NULL");
  check_refused(dm2_describe(model, &d), DM2_ARGUMENT, "dm2_description.size is 0");
  check_refused(dm2_class_name(model, 0, nullptr), DM2_ARGUMENT, "name is NULL");
  check_refused(dm2_class_name(model, 0, &text), DM2_ARGUMENT, "class name 0 of 0");
  check_refused(dm2_tensor_at(model, 0, nullptr), DM2_ARGUMENT, "dm2_tensor is NULL");
  dm2_tensor t{};
  check_refused(dm2_tensor_at(model, 0, &t), DM2_ARGUMENT, "dm2_tensor.size is 0");
  t.size = sizeof t;
  check_refused(dm2_tensor_at(model, 100000, &t), DM2_ARGUMENT, "tensor 100000 of ");
  CHECK(t.name == nullptr);
  check_refused(dm2_notice(model, 100000, &text), DM2_ARGUMENT, "notice 100000 of ");
  check_refused(dm2_notice(model, 0, nullptr), DM2_ARGUMENT, "line is NULL");
  CHECK(std::string{text} == "kept");
  check_refused(dm2_save(model, nullptr), DM2_ARGUMENT, "path is NULL");
  check_refused(dm2_save(model, "/nowhere/at/all.safetensors"), DM2_FILE, "/nowhere/at/all.safetensors");
}

TEST_CASE("C errors: pictures that are none, k and buffers of other sizes are refused, and nothing is written") {
  opened const model;
  std::string const bytes = read_raw(golden_file("images/photo.jpg"));
  dm2_prediction best[classes + 1] = {{-7, -7.0f}};
  for (char const* const name : {"bad_bomb.png", "bad_empty.png", "bad_text.jpg", "bad_truncated.jpg"}) {
    CAPTURE(name);
    std::string const bad = read_raw(golden_file("images") / name);
    check_refused(dm2_classify_encoded(model, bad.data(), bad.size(), 5, best), DM2_PICTURE, "picture");
  }
  for (std::size_t size = 0; size < bytes.size(); size += 97)
    CHECK(dm2_classify_encoded(model, std::string{bytes, 0, size}.data(), size, 1, best) == DM2_PICTURE);
  check_refused(dm2_classify_encoded(model, nullptr, 0, 5, best), DM2_ARGUMENT, "bytes is NULL");
  check_refused(dm2_classify_encoded(model, bytes.data(), bytes.size(), 5, nullptr), DM2_ARGUMENT, "best is NULL");
  for (int const k : {-1, 0, 11})
    check_refused(dm2_classify_encoded(model, bytes.data(), bytes.size(), k, best), DM2_ARGUMENT,
                  "k is " + std::to_string(k) + ", expected 1 to 10");
  std::uint8_t const pixel[3]{};
  check_refused(dm2_classify_pixels(model, nullptr, 1, 1, 0, 1, best), DM2_ARGUMENT, "pixels is NULL");
  check_refused(dm2_classify_pixels(model, pixel, 0, 1, 0, 1, best), DM2_ARGUMENT, "height is 0");
  check_refused(dm2_classify_pixels(model, pixel, 1, -1, 0, 1, best), DM2_ARGUMENT, "width is -1");
  check_refused(dm2_classify_pixels(model, pixel, 1, 1, 2, 1, best), DM2_SIZE, "stride is 2");
  CHECK(best[0].index == -7);
  CHECK(dm2_classify_pixels(model, pixel, 1, 1, 0, 1, best) == DM2_OK);
}

TEST_CASE("C errors: forward, features, patches and input name a buffer of another size, and leave it alone") {
  opened const model;
  std::vector<float> const in(2 * pixels);
  std::vector<float> out(40000, 3.0f), other(out);
  std::string const bytes = read_raw(golden_file("images/photo.jpg"));
  for (std::size_t const count : {std::size_t{0}, classes - 1, classes + 1, 2 * classes})
    check_refused(dm2_forward(model, in.data(), 1, out.data(), count), DM2_SIZE,
                  "logits: got " + std::to_string(count) + " numbers, expected 10");
  check_refused(dm2_features(model, in.data(), 2, out.data(), 7), DM2_SIZE, "features: got 7");
  check_refused(dm2_patches(model, in.data(), 1, out.data(), 9, other.data(), 160), DM2_SIZE, "cls: got 9");
  check_refused(dm2_patches(model, in.data(), 1, out.data(), 10, other.data(), 159), DM2_SIZE, "patches: got 159");
  check_refused(dm2_input_encoded(model, bytes.data(), bytes.size(), out.data(), pixels - 1), DM2_SIZE, "input: got");
  for (std::size_t const batch : {std::size_t{0}, std::size_t{1} << 31, ~std::size_t{0}})
    check_refused(dm2_forward(model, in.data(), batch, out.data(), 10), DM2_ARGUMENT, "batch is ");
  check_refused(dm2_forward(model, nullptr, 1, out.data(), 10), DM2_ARGUMENT, "pictures is NULL");
  check_refused(dm2_forward(model, in.data(), 1, nullptr, 10), DM2_ARGUMENT, "logits is NULL");
  check_refused(dm2_input_encoded(model, bytes.data(), bytes.size(), nullptr, pixels), DM2_ARGUMENT, "input is NULL");
  CHECK(std::all_of(out.begin(), out.end(), [](float v) { return v == 3.0f; }));
  CHECK(std::all_of(other.begin(), other.end(), [](float v) { return v == 3.0f; }));
}

TEST_CASE("C errors: an export with options that make no sense, or to nowhere, is refused, and nothing is written") {
  opened const model;
  scratch_folder const folder;
  std::string const path = folder / "m.onnx", hub = folder / "hub";
  auto const refused = [&](dm2_export_options const& options, std::string_view words) {
    check_refused(dm2_export_onnx(model, path.c_str(), &options), DM2_ARGUMENT, words);
    check_refused(dm2_export_hub(model, hub.c_str(), &options), DM2_ARGUMENT, words);
  };
  check_refused(dm2_export_onnx(model, nullptr, nullptr), DM2_ARGUMENT, "path is NULL");
  check_refused(dm2_export_hub(model, nullptr, nullptr), DM2_ARGUMENT, "folder is NULL");
  for (std::size_t const size : {std::size_t{0}, sizeof(dm2_export_options) - 1, sizeof(dm2_export_options) + 8}) {
    dm2_export_options options = DM2_EXPORT_OPTIONS;
    options.size = size;
    refused(options, "dm2_export_options.size is " + std::to_string(size));
  }
  dm2_export_options options = DM2_EXPORT_OPTIONS;
  options.input = 3;
  refused(options, "input is 3, expected 0 to 2");
  options = DM2_EXPORT_OPTIONS;
  options.chunk = -1;
  refused(options, "chunk is -1");
  for (auto const& [name, words] : {std::pair<char const*, char const*>{nullptr, "class_names[...] is NULL"},
                                    std::pair<char const*, char const*>{"\xff", "not UTF-8"}}) {
    std::vector<char const*> names(classes, "name");
    names.back() = name;
    options = DM2_EXPORT_OPTIONS;
    options.class_names = names.data();
    refused(options, words);
  }
  CHECK(std::filesystem::is_empty(folder.path()));
  check_refused(dm2_export_onnx(model, "/nowhere/at/all.onnx", nullptr), DM2_FILE, "/nowhere/at/all.onnx");
  check_refused(dm2_export_onnx(model, "", nullptr), DM2_FILE, "");
  write_raw(folder / "file", "");
  check_refused(dm2_export_hub(model, (folder / "file").c_str(), nullptr), DM2_FILE, "file");
}

TEST_CASE("C errors: a weight that half precision has not is refused with the tensor's name") {
  scratch_folder const folder;
  auto const net = micro_network();
  auto const& e = *std::find_if(net->table().begin(), net->table().end(),
                                [](parameter_entry const& t) { return t.name == "head.weight"; });
  net->state()[e.offset + 3] = 1e6f;
  run::save(*net, folder / "large.safetensors");
  opened const model{folder / "large.safetensors"};
  dm2_export_options options = DM2_EXPORT_OPTIONS;
  options.half = 1;
  std::string const path = folder / "m.onnx";
  check_refused(dm2_export_onnx(model, path.c_str(), &options), DM2_NUMBERS, "head");
  CHECK_FALSE(std::filesystem::exists(path));
  options.half = 0;
  CHECK(dm2_export_onnx(model, path.c_str(), &options) == DM2_OK);
}
