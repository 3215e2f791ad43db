// Hashes of what a small model computes: logits, and weights after a short training, each a line "case, what, hash".
// scripts/compare_results compiles this file, as it is here, against the headers of two revisions, so it uses only what
// both have.
//
// DM2_RESULT_CASE is the number of a case. DM2_RESULT_CUDA: on a GPU, or its emulation, in every precision.
#include <dm2/core/random.hpp>
#include <dm2/model/model.hpp>
#include <dm2/train/step_engine.hpp>

#if DM2_RESULT_CUDA
#include <dm2/cuda/model.cuh>
#include <dm2/cuda/step_engine.cuh>
#endif

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#ifndef DM2_RESULT_CASE
#define DM2_RESULT_CASE 0
#endif

namespace {

struct result_case {
  char const* name;
  dm2::config configuration;
};

// Together they have each field away from its default, and each form of the mixer. The script counts the lines with a
// name.
constexpr result_case cases[] = {
    {"published",
     {.image = {64, 64},
      .depth = 4,
      .dim = 32,
      .classes = 10,
      .headdim = 16,
      .d_state = 16,
      .attn_layers = dm2::layers(2),
      .attn_heads = 2,
      .attn_head_dim = 24,
      .attn_rotary = 16}},
    {"bidirectional",
     {.image = {64, 64},
      .stem_width = 8,
      .depth = 4,
      .dim = 32,
      .classes = 10,
      .headdim = 16,
      .d_state = 16,
      .attn_layers = dm2::layers(2),
      .attn_heads = 2,
      .attn_head_dim = 24,
      .attn_rotary = 24,
      .variant = dm2::mixer_variant::bidirectional}},
    {"groups and MLP",
     {.image = {48, 32},
      .patch = 8,
      .stem_width = 16,
      .depth = 3,
      .dim = 48,
      .mlp_dim = 128,
      .classes = 7,
      .headdim = 24,
      .d_state = 16,
      .groups = 2,
      .attn_layers = dm2::layers(1),
      .attn_heads = 2,
      .attn_head_dim = 24,
      .attn_rotary = 8}},
    {"no convolutions",
     {.image = {8, 12},
      .patch = 4,
      .channels = 1,
      .stem_width = 3,
      .depth = 2,
      .dim = 6,
      .classes = 5,
      .headdim = 3,
      .d_state = 5,
      .d_conv = 1,
      .attn_layers = dm2::layers(0),
      .attn_heads = 1,
      .attn_head_dim = 7,
      .attn_rotary = 0,
      .attn_d_conv = 0}},
    {"narrow",
     {.image = {8, 4},
      .patch = 4,
      .stem_width = 4,
      .depth = 2,
      .dim = 5,
      .mlp_dim = 3,
      .classes = 2,
      .expand = 1,
      .headdim = 1,
      .d_state = 1,
      .d_conv = 5,
      .groups = 5,
      .attn_layers = dm2::layers(),
      .variant = dm2::mixer_variant::bidirectional}},
    {"attention only",
     {.image = {6, 2},
      .patch = 2,
      .stem_width = 2,
      .depth = 2,
      .dim = 4,
      .mlp_dim = 6,
      .classes = 3,
      .headdim = 4,
      .d_state = 2,
      .attn_layers = dm2::layers(0, 1),
      .attn_heads = 3,
      .attn_head_dim = 5,
      .attn_rotary = 4,
      .attn_d_conv = 2}},
    {"many tokens",
     {.image = {48, 32},
      .patch = 2,
      .stem_width = 4,
      .depth = 2,
      .dim = 8,
      .classes = 3,
      .headdim = 4,
      .d_state = 3,
      .groups = 2,
      .attn_layers = dm2::layers(1),
      .attn_heads = 1,
      .attn_head_dim = 4,
      .attn_rotary = 4,
      .eps = 1e-6}},
    {"Tiny's widths", {.depth = 2, .attn_layers = dm2::layers(1)}},
};
constexpr dm2::config C = cases[DM2_RESULT_CASE].configuration;

/// FNV-1a over the bytes; throws where a number is not finite, since then equal hashes say little.
template <class T>
std::uint64_t hash_of(std::span<T const> values) {
  std::uint64_t h = 0xcbf29ce484222325;
  for (T const v : values)
    if (!std::isfinite(v)) throw std::runtime_error{"a result is not finite"};
  for (std::byte const b : std::as_bytes(values)) h = (h ^ std::uint64_t(b)) * 0x100000001b3;
  return h;
}

void report(std::string const& what, std::uint64_t hash) {
  std::printf("%s\t%s\t%016llx\n", cases[DM2_RESULT_CASE].name, what.c_str(), static_cast<unsigned long long>(hash));
  std::fflush(stdout);
}

/// Uniform in [-1, 1), the same with every standard library.
class numbers {
 public:
  explicit numbers(std::uint64_t seed) : engine_{seed} {}
  float operator()() { return float(engine_() >> 40) / float(1 << 23) - 1; }
  template <class T>
  void fill(std::span<T> to, float scale, float mean = 0) {
    for (T& v : to) v = T(mean + scale * (*this)());
  }

 private:
  std::mt19937_64 engine_;
};

/// Parameters at which every term of the network matters.
template <class T>
void fill_state(std::span<T> state, std::span<dm2::parameter_entry const> table) {
  numbers random{1};
  for (dm2::parameter_entry const& e : table) {
    if (e.kind == dm2::entry_kind::counter) continue;
    bool const scale = e.name.find("norm") != std::string_view::npos && e.rank == 1,
               variance = e.name.ends_with("_var");
    float const spread = e.rank >= 2 ? std::sqrt(3 / float(e.size / std::size_t(e.shape[0]))) : 0.3f;
    random.fill(state.subspan(e.offset, e.size), variance || scale ? 0.3f : spread, variance || scale ? 1.f : 0.f);
  }
}

/// A micro-batch with the soft targets of label maps, or without.
dm2::batch random_batch(int count, std::uint64_t seed, bool maps) {
  numbers random{seed};
  dm2::batch b;
  b.height = C.image.height;
  b.width = C.image.width;
  b.resize(count, maps);
  random.fill(std::span{b.pictures}, 1);
  for (std::size_t i = 0; i < std::size_t(count); ++i) {
    b.labels[i] = int(i + seed) % C.classes;
    b.crops[i] = {0.1, 0.2, 0.6, 0.7};
    if (!maps) continue;
    std::vector<float> points(2 * 5 * 6 * 6);
    random.fill(std::span{points}.first(points.size() / 2), 2, 5);
    for (std::size_t k = points.size() / 2; k < points.size(); ++k) points[k] = float((k + i) % C.classes);
    b.maps[i] = {6, 6, points};
  }
  return b;
}

template <class Context>
void evaluate(std::string const& where, Context context) {
  constexpr int count = 3;
  dm2::model<C, Context> net{count, std::move(context)};
  fill_state(net.state(), net.table());
  using scalar = std::remove_cvref_t<decltype(net.state()[0])>;
  std::vector<scalar> pictures(std::size_t(count) * dm2::sizes<C>::pixels), logits(std::size_t(count) * C.classes);
  numbers{2}.fill(std::span{pictures}, 1);
  net.forward(pictures, logits);
  report(where + ", logits", hash_of(std::span<scalar const>{logits}));
  std::vector<scalar> patches(logits.size() * dm2::sizes<C>::tokens);
  net.forward_patches(pictures, logits, patches);
  report(where + ", patches' logits", hash_of(std::span<scalar const>{patches}));
}

/// A micro-batch, whose end older versions do not have as a call of its own.
template <class Engine>
void micro_batch(Engine& engine, dm2::batch const& b, dm2::mix_box box, dm2::step_place at) {
  if constexpr (requires { engine.finish_round(1, at); }) {
    engine.micro_batch(b, box, 0.5);
    engine.finish_round(1, at);
  } else {
    engine.micro_batch(b, box, 0.5, at);
  }
}

/// Three steps of two micro-batches.
template <class Context>
void train(std::string const& where, Context context, dm2::optimizer_options const& options) {
  constexpr int count = 3, grid_h = dm2::sizes<C>::stem.grid_height(), grid_w = dm2::sizes<C>::stem.grid_width();
  dm2::model<C, Context> net{count, std::move(context)};
  fill_state(net.state(), net.table());
  dm2::optimizer<C, Context> rule{options};
  dm2::ema<C, Context> average{net, 0.9};
  dm2::step_engine<C, Context> engine{net, rule, average, {.batch = count, .accumulate = 2}};
  engine.push();
  std::vector<double> losses;
  auto const read = [&](bool wait) {
    while (auto const result = engine.next_result(wait))
      losses.insert(losses.end(), result->losses.begin(), result->losses.end());
  };
  for (int step = 0; step < 3; ++step) {
    for (int micro = 0; micro < 2; ++micro)
      micro_batch(engine, random_batch(count, std::uint64_t(10 + 2 * step + micro), micro == 0),
                  micro == 0 ? dm2::mix_box{0, grid_h, 0, (grid_w + 1) / 2} : dm2::mix_box{},
                  {0, step, std::size_t(2 * step + micro)});
    engine.finish_step(1e-3);
    read(false);
  }
  read(true);
  engine.pull();
  auto const values = [](auto span) { return std::span<std::remove_cvref_t<decltype(span[0])> const>{span}; };
  report(where + ", losses", hash_of(std::span<double const>{losses}));
  report(where + ", weights", hash_of(values(net.state())));
  report(where + ", averages", hash_of(values(average.state())));
  report(where + ", first moments", hash_of(values(rule.momentum())));
}

/// Lion with what the published run has, and AdamW with clipping.
template <class MakeContext>
void training_results(std::string const& where, MakeContext const& context) {
  if constexpr (C.channels == 3) {
    using enum dm2::optimizer_kind;
    bool const published = C.variant == dm2::mixer_variant::published;
    train(where + ", Lion", context(), {.kind = lion, .shared_pairs = published});
    train(where + ", AdamW", context(), {.kind = adamw, .weight_decay = 0.05, .clip_norm = 1});
  }
}

#if DM2_RESULT_CUDA
template <dm2::cuda::precision P>
void on_device(std::string const& name) {
  auto const context = [] { return dm2::cuda::context<P>{}; };
  evaluate(name, context());
  if constexpr (P == dm2::cuda::precision::bf16 || P == dm2::cuda::precision::fp32) training_results(name, context);
}
#endif

}  // namespace

int main() {
  try {
#if DM2_RESULT_CUDA
    using enum dm2::cuda::precision;
    on_device<bf16>("bf16");
    on_device<fp16>("fp16");
    on_device<fp32>("fp32");
#else
    auto const context = [] { return dm2::cpu::context<float>{2}; };
    evaluate("float", context());
    training_results("float", context);
#endif
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s: %s\n", cases[DM2_RESULT_CASE].name, e.what());
    return 1;
  }
}
