#include <dm2/model/model_table.hpp>

#include <doctest/doctest.h>

#include "support/configurations.hpp"

#include <stdexcept>
#include <string>
#include <utility>

using namespace dm2;
using namespace dm2::test;

namespace {

template <config C>
struct of {
  static constexpr config configuration = C;
};
inline constexpr config deep{.depth = 12, .attn_layers = layers(0, 10), .attn_d_conv = 0};
inline constexpr config deepest{.image = {32, 64}, .depth = 64, .mlp_dim = 5, .classes = 1, .attn_layers = layers(63)};

/// The entries are those of a table, names by content and not by place.
void check_same(std::span<parameter_entry const> got, std::span<parameter_entry const> want) {
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    parameter_entry const &g = got[i], &w = want[i];
    CAPTURE(std::string{w.name});
    CHECK(g.name == w.name);
    CHECK(g.name.data() != w.name.data());
    CHECK(g.shape == w.shape);
    CHECK(g.rank == w.rank);
    CHECK(g.offset == w.offset);
    CHECK(g.size == w.size);
    CHECK(g.kind == w.kind);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("model table: at run time every entry is the compiled table's", G, of<tiny>, of<published_small>,
                   of<micro>, of<example::quick>, of<wide>, of<bidirectional>, of<slim>, of<small_config>, of<little>,
                   of<deep>, of<deepest>) {
  constexpr config C = G::configuration;
  model_table const table{C};
  check_same(table.entries(), parameter_table<C>);
  CHECK(table.state_extent() == state_extent<C>);
  CHECK(table.parameter_count() == parameter_count<C>);
  CHECK(table.counter_count() == counter_count<C>);
  CHECK(table.configuration().dim == C.dim);
}

TEST_CASE("model table: the names live as long as the table, wherever it is moved") {
  model_table first{wide};
  char const* const name = first.entries().back().name.data();
  model_table second{std::move(first)};
  CHECK(second.entries().back().name.data() == name);
  first = model_table{micro};
  check_same(second.entries(), parameter_table<wide>);
  check_same(first.entries(), parameter_table<micro>);
  first = std::move(second);
  check_same(first.entries(), parameter_table<wide>);
}

TEST_CASE("model table: a configuration that breaks a rule is refused with the rule's sentence") {
  config wrong = tiny;
  wrong.headdim = 50;
  CHECK_THROWS_WITH_AS(model_table{wrong}, "dm2::config: expand * dim must be a multiple of headdim",
                       std::invalid_argument);
}
