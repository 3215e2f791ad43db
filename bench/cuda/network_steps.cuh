/// @file
/// The operations of an evaluation, with their bytes and products.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/device/stream.cuh>
#include <dm2/cuda/inference/trunk.cuh>
#include <dm2/model/blocks.hpp>

#include "cuda/timing.cuh"
#include "support/bytes.hpp"
#include "support/flops.hpp"
#include "support/random_model.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace dm2::bench {

/// An operation that an evaluation runs `times` times.
struct network_step {
  std::string name;
  int times;
  double bytes;  ///< as support/bytes.hpp counts
  double flops;  ///< as support/flops.hpp counts
  std::function<void()> run;
};

/// An evaluation of configuration C on random parameters and pictures.
template <config C, cuda::precision P = cuda::precision::bf16>
class network_steps {
 public:
  using T = cuda::element<P>;
  using bytes_type = cuda::byte_pictures<C.channels>;
  static_assert(C.mlp_dim == 0, "dm2::bench::network_steps: without MLP blocks");

  /// early: kernels start early, as in the model.
  explicit network_steps(int batch, bool early = false)
      : batch_{batch},
        pictures_{std::size_t(batch) * sizes<C>::pixels},
        weights_memory_{measured<weights_type>()},
        memory_{measured<plan_type>(batch)},
        logits_memory_{std::size_t(batch) * C.classes * sizeof(float)},
        weights_{viewed<weights_type>(weights_memory_)},
        plan_{viewed<plan_type>(memory_, batch)},
        steps_{ctx_, weights_, plan_} {
    std::vector<float> state(state_extent<C>);
    fill_random<C>(state.data());
    weights_.fill(ctx_, state);
    if (early) ctx_.allow_early_starts();  // fill() has waited
    ctx_.plan([&] { run(); });
    run();
    stream_.synchronize();
  }
  network_steps(network_steps const&) = delete;
  network_steps& operator=(network_steps const&) = delete;

  [[nodiscard]] cuda::stream const& stream() const { return stream_; }
  [[nodiscard]] bytes_type input() const {
    constexpr float mean[3]{0.485f, 0.456f, 0.406f}, deviation[3]{0.229f, 0.224f, 0.225f};
    return bytes_type::normalised(pictures_.data(), mean, deviation);
  }
  [[nodiscard]] float const* logits() const { return reinterpret_cast<float const*>(logits_memory_.data()); }

  /// Everything, in the network's order.
  void run() {
    run_each([](std::string const&) { return 1; });
  }
  /// The same, each operation as often as times(its name in steps()) says: only times are of use then.
  template <class F>
  void run_each(F const& times) {
    for (int i = times("stem"); i > 0; --i) stem();
    dm2::detail::walk_trunk<C>(counted<F>{steps_, times});
    for (int i = times("heads"); i > 0; --i) heads();
  }

  /// Each kind of operation, in the order in which they first come. Their times add up to an evaluation.
  [[nodiscard]] std::vector<network_step> steps() {
    std::vector<network_step> out;
    auto const add = [&](std::string const& name, double bytes, double flops, std::function<void()> run) {
      for (network_step& s : out)
        if (s.name == name) return void(++s.times);
      out.push_back({name, 1, bytes, flops * batch_, std::move(run)});
    };
    evaluation_bytes<C> const bytes{double(batch_), sizeof(T)};
    add("stem", bytes.stem(), stem_flops(sizes<C>::stem), [this] { stem(); });
    dm2::detail::with_block<C>(0, [&]<class B>() {
      add(first_name, bytes.first(widths_of<C>(0)), product_flops(length, B::wide, C.dim),
          [this] { steps_.template first<B>(); });
    });
    for (int k = 0; k < C.depth; ++k)
      dm2::detail::with_block<C>(k, [&]<class B>() {
        core_widths const own = widths_of<C>(k);
        add(label<B>() + " core", bytes.core(own), core_flops<B>(), [this, k] { steps_.template core<B>(k); });
        double const out = product_flops(length, C.dim, B::inner);
        if (k + 1 == C.depth) return add(last_name, bytes.last(own), out, [this, k] { steps_.template last<B>(k); });
        dm2::detail::with_block<C>(k + 1, [&]<class N>() {
          add(join_name<B, N>(), bytes.project_add_norm(own, widths_of<C>(k + 1)),
              out + product_flops(length, N::wide, C.dim), [this, k] { steps_.template join<B, N>(k); });
        });
      });
    add("heads", bytes.heads(), head_flops<C>(), [this] { heads(); });
    return out;
  }

 private:
  using weights_type = cuda::detail::inference_weights<C, P>;
  using plan_type = cuda::detail::inference_plan<C, P>;
  static constexpr double length = sizes<C>::length;
  static constexpr char const *first_name = "first norm, projection", *last_name = "projection, addition, last norm";
  template <class B>
  static constexpr bool is_mixer = std::is_same_v<B, dm2::detail::mixer_block<C>>;

  template <class X, class... A>
  static std::size_t measured(A... arguments) {
    arena ruler;
    X const x{ruler, arguments...};
    return ruler.used();
  }
  template <class X, class... A>
  static X viewed(cuda::device_memory const& memory, A... arguments) {
    arena a{memory.data(), memory.size()};
    return X{a, arguments...};
  }
  template <class B>
  static std::string label() {
    return is_mixer<B> ? "mixer" : "attention";
  }
  template <class B, class N>
  static std::string join_name() {
    return "project_add_norm, " + label<B>() + " to " + label<N>();
  }
  /// The trunk's steps, each so often.
  template <class F>
  struct counted {
    cuda::detail::inference_steps<C, P>& steps;
    F const& times;
    template <class B>
    void first() {
      for (int i = times(first_name); i > 0; --i) steps.template first<B>();
    }
    template <class B>
    void core(int k) {
      for (int i = times(label<B>() + " core"); i > 0; --i) steps.template core<B>(k);
    }
    template <class B, class N>
    void join(int k) {
      for (int i = times(join_name<B, N>()); i > 0; --i) steps.template join<B, N>(k);
    }
    template <class B>
    void last(int k) {
      for (int i = times(last_name); i > 0; --i) steps.template last<B>(k);
    }
  };
  template <class B>
  static double core_flops() {
    return is_mixer<B> ? mixer_core_flops(sizes<C>::mixer, length) : attention_core_flops(sizes<C>::attention, length);
  }
  void stem() {
    using tokens = token_layer<C>;
    auto const p = weights_.view().tokens();
    cuda::stem_tokens(ctx_, input(), weights_.stem, get<tokens::cls_token>(p), get<tokens::pos_embed>(p),
                      dm2::rows<float, C.dim, space::device>{plan_.residual, plan_.count});
  }
  void heads() {
    cuda::detail::inference_heads(ctx_, weights_, plan_,
                                  dm2::rows<float, C.classes, space::device>{
                                      reinterpret_cast<float*>(logits_memory_.data()), std::size_t(batch_)});
  }

  int batch_;
  cuda::stream stream_;
  cuda::context<P> ctx_{stream_.get()};
  random_array<std::uint8_t> pictures_;
  cuda::device_memory weights_memory_, memory_, logits_memory_;
  weights_type weights_;
  plan_type plan_;
  cuda::detail::inference_steps<C, P> steps_;
};

}  // namespace dm2::bench
