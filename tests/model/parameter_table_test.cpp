#include <dm2/model/parameter_table.hpp>

#include <doctest/doctest.h>

#include "support/configurations.hpp"
#include "support/golden.hpp"

#include <set>
#include <string>
#include <string_view>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

template <config C>
struct golden_table {
  static constexpr config configuration = C;
  static std::string file() {
    if (C.variant == mixer_variant::bidirectional) return "model_bidirectional.safetensors";
    return C.mlp_dim != 0 ? "model_wide.safetensors" : "model_micro.safetensors";
  }
};

/// The state dict's names, in the file's order.
std::vector<std::string> stored_names(golden const& g) {
  std::vector<std::string> names;
  for (auto const& t : g.file().tensors())
    if (t.name.rfind("param/", 0) == 0) names.push_back(t.name.substr(6));
  return names;
}

}  // namespace

TEST_CASE_TEMPLATE("parameter_table: names, order and shapes are the reference's state dict, counters included", G,
                   golden_table<micro>, golden_table<wide>, golden_table<bidirectional>) {
  golden const g{G::file()};
  auto const& table = parameter_table<G::configuration>;
  auto const names = stored_names(g);
  REQUIRE(names.size() == table.size());
  std::size_t counters = 0;
  for (std::size_t i = 0; i < table.size(); ++i) {
    parameter_entry const& e = table[i];
    CAPTURE(names[i]);
    CHECK(std::string{e.name} == names[i]);
    stored_tensor const& stored = g.tensor("param/" + std::string{e.name});
    REQUIRE(stored.shape.size() == std::size_t(e.rank));
    for (std::size_t k = 0; k < stored.shape.size(); ++k)
      CHECK(std::size_t(stored.shape[k]) == std::size_t(e.shape[k]));
    CHECK((e.kind == entry_kind::counter) == (names[i].find("num_batches_tracked") != std::string::npos));
    CHECK((e.kind == entry_kind::statistic) == (names[i].find("running_") != std::string::npos));
    if (e.kind == entry_kind::counter) CHECK(e.offset == counters++);
  }
  CHECK(counters == counter_count<G::configuration>);
  CHECK(counters == 3);
}

TEST_CASE_TEMPLATE("parameter_table: offsets are multiples of 64, and no two entries share an element", G,
                   golden_table<micro>, golden_table<wide>, golden_table<tiny>) {
  std::size_t next = 0;
  std::set<std::string_view> names;
  for (parameter_entry const& e : parameter_table<G::configuration>) {
    CHECK(names.insert(e.name).second);
    if (e.kind == entry_kind::counter) continue;
    CHECK(e.offset % 64 == 0);
    CHECK(e.offset >= next);
    next = e.offset + e.size;
  }
  CHECK(next <= state_extent<G::configuration>);
  CHECK(state_extent<G::configuration> < next + 64);
}

TEST_CASE("parameter_table: the published models have their published sizes") {
  CHECK(parameter_count<tiny> == 9'514'032);
  CHECK(parameter_count<small> == 32'746'032);
}

TEST_CASE("parameter_table: a network's views stand at the table's offsets") {
  std::vector<double> state(state_extent<wide>);
  network_view<wide, double> const net{state.data()};
  auto const offset = [&](std::string_view name) {
    for (parameter_entry const& e : parameter_table<wide>)
      if (e.name == name) return std::ptrdiff_t(e.offset);
    return std::ptrdiff_t{-1};
  };
  CHECK(get<token_layer<wide>::pos_embed>(net.tokens()).data - state.data() == offset("pos_embed"));
  CHECK(get<stem_layer<wide>::bn3_var>(net.stem()).data - state.data() == offset("patch_embed.bn3.running_var"));
  CHECK(get<head_layer<wide>::aux_bias>(net.head()).data - state.data() == offset("aux_head.bias"));
  CHECK(get<mixer_layer<wide>::conv_bias_b>(net.mixer(2)).data - state.data() ==
        offset("layers.2.mixer.conv1d_b.bias"));
  CHECK(get<attention_layer<wide>::out_proj>(net.attention(1)).data - state.data() ==
        offset("layers.1.mixer.out_proj.weight"));
  CHECK(get<mlp_layer<wide>::fc2>(net.mlp(0)).data - state.data() == offset("layers.0.mlp.fc2.weight"));
  CHECK(get<final_layer<wide>::norm>(net.final()).data - state.data() == offset("norm_f.weight"));
}

TEST_CASE("parameter_table: layers of two digits, and attention without a convolution") {
  constexpr config deep{.depth = 12, .attn_layers = layers(10), .attn_d_conv = 0};
  bool seen = false;
  for (parameter_entry const& e : parameter_table<deep>) {
    seen = seen || e.name == "layers.10.mixer.out_proj.bias";
    CHECK(e.name != "layers.10.mixer.conv1d.weight");
  }
  CHECK(seen);
}
