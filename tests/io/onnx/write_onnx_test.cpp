#include <dm2/io/onnx/write_onnx.hpp>
#include <dm2/io/safetensors_write.hpp>

#include "io/onnx/protobuf_reader.hpp"
#include "io/scratch.hpp"
#include "support/compare.hpp"
#include "support/configurations.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// Random tensors of a model, and what they are views of.
struct random_tensors {
  explicit random_tensors(config const& c) : table{c}, state(table.state_extent()), counters(table.counter_count(), 1) {
    random_source random{3};
    state = random.uniform<float>(state.size(), 0.1, 1);
    detail::add_entry_tensors(tensors, "", table.entries(), std::span<float const>{state},
                              std::span<std::int64_t const>{counters});
  }
  stored_tensor& at(std::string_view name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](stored_tensor const& t) { return t.name == name; });
  }

  model_table table;
  std::vector<float> state;
  std::vector<std::int64_t> counters;
  std::vector<stored_tensor> tensors;
};

/// What `call` says as it throws E.
template <class E>
std::string refusal(std::function<void()> const& call) {
  try {
    call();
  } catch (E const& problem) {
    return problem.what();
  }
  return "nothing was thrown";
}
bool has(std::string const& text, std::string_view part) { return text.find(part) != text.npos; }

/// A file of a graph, with its bytes.
std::string written(detail::onnx_graph const& g, std::map<std::string, std::string> const& metadata) {
  scratch_folder const folder;
  detail::onnx_file_writer{g, folder / "x.onnx", false}(metadata);
  return read_raw(folder / "x.onnx");
}

}  // namespace

TEST_CASE("onnx: a model of one node has the bytes that its definition gives by hand") {
  detail::onnx_graph g{false};
  std::string const x = g.input({"x", detail::onnx_type::float32, {0, 2}});
  g.output("Relu", {x}, {"y", detail::onnx_type::float32, {0, 2}});
  std::string const port =
      "\x12\x13\x0A\x11\x08\x01\x12\x0D\x0A\x07\x12\x05"
      "batch"
      "\x0A\x02\x08\x02";
  std::string const want =
      std::string{
          "\x08\x08\x12\x03"
          "dm2"
          "\x1A\x05"} +
      version_text +
      "\x42\x02\x10\x11"            // opset 17
      "\x72\x06\x0A\x01k\x12\x01v"  // metadata
      "\x3A\x54"                    // the graph, 84 bytes
      "\x0A\x12\x0A\x01x\x12\x01y\x1A\x04Relu\x22\x04Relu"
      "\x12\x0A"
      "DeMansia 2"
      "\x5A\x18\x0A\x01x" +
      port + "\x62\x18\x0A\x01y" + port;
  CHECK(written(g, {{"k", "v"}}) == want);
}

TEST_CASE("onnx: constants and attributes have the bytes that their definitions give by hand") {
  using namespace std::string_literals;
  detail::onnx_graph g{false};
  (void)g.numbers(std::vector<double>{1, -2}, {2});
  (void)g.nodes("Op", {"x"}, 1, {{"axis", std::int64_t{-1}}, {"pads", std::vector<std::int64_t>{0, 300}}});
  std::string const file = written(g, {});
  CHECK(file.find("\x2A\x17\x08\x02\x10\x01\x42\x07numbers\x4A\x08\x00\x00\x80\x3F\x00\x00\x00\xC0"s) != file.npos);
  CHECK(file.find("\x2A\x14\x0A\x04"s
                  "axis\x18\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01\xA0\x01\x02"s) != file.npos);
  CHECK(file.find("\x2A\x0E\x0A\x04pads\x40\x00\x40\xAC\x02\xA0\x01\x07"s) != file.npos);
}

TEST_CASE("onnx: half precision rounds weights to the nearest, and refuses those over 65504 by name") {
  detail::onnx_graph g{true};
  (void)g.weights(std::vector<double>{1.5, -65504}, {2}, "w");
  CHECK(g.constants().back().type == detail::onnx_type::float16);
  CHECK(std::memcmp(g.constants().back().data.data(), "\x00\x3E\xFF\xFB", 4) == 0);
  CHECK(has(refusal<std::range_error>([&] { (void)g.weights(std::vector<double>{65520}, {1}, "in_proj"); }),
            "in_proj: 65520"));
}

TEST_CASE("onnx: equal shapes and masks are there once, weights of different layers apart") {
  detail::onnx_graph g{false};
  std::vector<double> const one{1, 0};
  CHECK(g.integers({1, 2}) == g.integers({1, 2}));
  CHECK(g.integers({1, 2}) != g.integers({2, 1}));
  CHECK(g.weights(one, {2}, "mask") == g.weights(one, {2}, "mask"));
  CHECK(g.weights(one, {2}, "w") != g.weights(one, {2}, "w"));
  CHECK(g.weights(one, {2}, "mask") != g.weights(one, {1, 2}, "mask"));
}

TEST_CASE("onnx: every value of a model is defined before it is taken, and every constant has its bytes") {
  scratch_folder const folder;
  for (config const& c : {little, wide, bidirectional}) {
    random_tensors const model{c};
    write_onnx(c, model.tensors, {.half = c.groups == 2, .features = true, .patches = true, .chunk = 3}, folder / "x");
    std::string const bytes = read_raw(folder / "x");
    protobuf_message const file{bytes}, graph = file.message(7);
    std::set<std::string_view> known, nodes;
    for (auto const& constant : graph.messages(5)) {
      CHECK(known.insert(constant.text(8)).second);
      std::int64_t elements = 1;
      for (std::int64_t const extent : constant.numbers(1)) elements *= extent;
      std::int64_t const type = constant.number(2), width = type == 1 ? 4 : type == 10 ? 2 : type == 7 ? 8 : 0;
      CHECK(std::int64_t(constant.text(9).size()) == elements * width);
    }
    for (auto const& input : graph.messages(11)) CHECK(known.insert(input.text(1)).second);
    for (auto const& node : graph.messages(1)) {
      for (std::string_view const from : node.texts(1)) CHECK_MESSAGE(known.contains(from), std::string{from});
      for (std::string_view const to : node.texts(2)) CHECK(known.insert(to).second);
      CHECK(nodes.insert(node.text(3)).second);
    }
    for (auto const& output : graph.messages(12)) CHECK(known.contains(output.text(1)));
    CHECK(graph.messages(12).size() == 3);
  }
}

TEST_CASE("onnx: configuration, class names and input are the file's metadata") {
  scratch_folder const folder;
  random_tensors const model{little};
  write_onnx(little, model.tensors,
             {.input = onnx_input::bytes, .class_names = {"a", "b", "c", "d"}, .metadata = {{"author", "me"}}},
             folder / "x");
  std::string const bytes = read_raw(folder / "x");
  std::map<std::string_view, std::string_view> metadata;
  protobuf_message const file{bytes};
  for (auto const& entry : file.messages(14)) metadata[entry.text(1)] = entry.text(2);
  CHECK(metadata.size() == 4);
  CHECK(to_json(config_from_json(detail::parse_json(metadata["config"]))) == to_json(little));
  CHECK(metadata["class_names"] == R"(["a","b","c","d"])");
  CHECK(metadata["author"] == "me");
  CHECK(metadata["input"] ==
        R"({"layout":"NHWC","range":"0..255","mean":[0.485,0.456,0.406],"std":[0.229,0.224,0.225]})");
}

TEST_CASE("onnx: external weights are whole pages apart, and those that are inside otherwise") {
  scratch_folder const folder;
  random_tensors const model{bidirectional};
  write_onnx(bidirectional, model.tensors, {}, folder / "inside");
  write_onnx(bidirectional, model.tensors, {.external_data = true}, folder / "outside");
  CHECK(folder.files() == 3);
  std::string const inside = read_raw(folder / "inside"), outside = read_raw(folder / "outside");
  std::string const data = read_raw(folder / "outside.data");
  auto const own = protobuf_message{inside}.message(7).messages(5),
             other = protobuf_message{outside}.message(7).messages(5);
  REQUIRE(own.size() == other.size());
  std::size_t end = 0, count = 0;
  for (std::size_t i = 0; i < own.size(); ++i) {
    if (own[i].text(9).size() < 1024) {
      CHECK(own[i].text(9) == other[i].text(9));
      continue;
    }
    ++count;
    CHECK(other[i].number(14) == 1);
    std::map<std::string_view, std::string> place;
    for (auto const& entry : other[i].messages(13)) place[entry.text(1)] = entry.text(2);
    CHECK(place["location"] == "outside.data");
    std::size_t const offset = std::stoul(place["offset"]), length = std::stoul(place["length"]);
    CHECK(offset % 4096 == 0);
    CHECK(offset >= end);
    end = offset + length;
    REQUIRE(end <= data.size());
    CHECK(std::string_view{data}.substr(offset, length) == own[i].text(9));
  }
  CHECK(count > 10);
  CHECK(end == data.size());
}

TEST_CASE("onnx: tensors that are not the model's are told by name, with both sizes, and nothing is written") {
  scratch_folder const folder;
  write_raw(folder / "x", "old");
  auto const said = [&](random_tensors const& model) {
    return refusal<std::invalid_argument>([&] { write_onnx(little, model.tensors, {}, folder / "x"); });
  };
  random_tensors missing{little}, other{little}, none{little};
  missing.at("layers.1.mixer.in_proj.weight").name = "layers.1.mixer.in_proj.waight";
  CHECK(has(said(missing), "missing: layers.1.mixer.in_proj.weight [12, 6]"));
  stored_tensor& t = other.at("head.weight");
  t.shape = {6, 4};
  CHECK(has(said(other), "head.weight is [6, 4] in the file, [4, 6] in the program"));
  none.tensors.clear();
  CHECK(has(said(none), "differences"));
  CHECK(read_raw(folder / "x") == "old");
  CHECK(folder.files() == 1);
}

TEST_CASE("onnx: a file that is not the model is told by its name") {
  scratch_folder const folder;
  random_tensors other{little};
  other.at("head.weight").shape = {6, 4};
  other.at("head.weight").strides = {4, 1};
  write_safetensors(folder / "other.safetensors", other.tensors);
  tensor_file const file{folder / "other.safetensors"};
  std::string const said = refusal<file_error>([&] { write_onnx(little, file, {}, folder / "x"); });
  CHECK(said.starts_with((folder / "other.safetensors").string()));
  CHECK(has(said, "head.weight is [6, 4] in the file, [4, 6] in the program"));
  CHECK(folder.files() == 1);
}

TEST_CASE("onnx: options that make no sense are refused") {
  scratch_folder const folder;
  random_tensors const model{little};
  auto const said = [&](onnx_options const& o) {
    return refusal<std::invalid_argument>([&] { write_onnx(little, model.tensors, o, folder / "x"); });
  };
  CHECK(has(said({.chunk = -1}), "onnx_options::chunk is -1"));
  CHECK(has(said({.class_names = {"a"}}), "got 1 names, the model has 4 classes"));
  CHECK(has(said({.metadata = {{"config", ""}}}), "the key 'config' is dm2's own"));
  onnx_options flat;
  flat.statistics.std[1] = 0;
  CHECK(has(said(flat), "onnx_options::statistics.std is 0"));
  config grey = little;
  grey.channels = 1;
  random_tensors const other{grey};
  CHECK(has(refusal<std::invalid_argument>(
                [&] { write_onnx(grey, other.tensors, {.input = onnx_input::bytes}, folder / "x"); }),
            "the model's picture has 1"));
  config broken = little;
  broken.patch = 3;
  CHECK(has(refusal<std::invalid_argument>([&] { write_onnx(broken, model.tensors, {}, folder / "x"); }), "patch"));
  CHECK(folder.files() == 0);
}
