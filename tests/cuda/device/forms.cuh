/// @file
/// Which kernels a device takes for a network, from the operations' own conditions.
#pragma once

#include <dm2/cuda/attention_core_backward.cuh>
#include <dm2/cuda/heads.cuh>
#include <dm2/cuda/mixer_core.cuh>
#include <dm2/cuda/mixer_core_backward.cuh>
#include <dm2/cuda/project_add_norm.cuh>
#include <dm2/cuda/project_add_norm_backward.cuh>
#include <dm2/cuda/ssd.cuh>
#include <dm2/cuda/ssd_backward.cuh>
#include <dm2/cuda/stem.cuh>
#include <dm2/cuda/stem_train.cuh>
#include <dm2/model/config.hpp>

#include <array>
#include <cstddef>
#include <string>
#include <type_traits>

namespace dm2::test::forms {

/// A kind of device: what a choice looks at.
struct device_kind {
  char const* names;
  int major, minor, multiprocessors;
  int block, multiprocessor;  ///< KB of shared memory
};

/// NVIDIA's figures, CUDA C++ Programming Guide, "Technical specifications per compute capability".
inline constexpr device_kind device_kinds[] = {{"A100", 8, 0, 108, 163, 164},
                                               {"RTX 3090, A40", 8, 6, 82, 99, 100},
                                               {"RTX 4090, L40S", 8, 9, 128, 99, 100},
                                               {"H100, H200", 9, 0, 132, 227, 228}};

inline cuda::device_properties properties_of(device_kind const& kind) {
  cuda::device_properties p{cuda::current_device()};
  p.major = kind.major, p.minor = kind.minor, p.multiprocessors = kind.multiprocessors;
  p.shared_per_block = kind.block * 1024, p.shared_per_sm = kind.multiprocessor * 1024;
  return p;
}

/// A form by the word for it, and whether its products are the tensor cores'.
struct form {
  std::string name;
  bool tensor;
  friend bool operator==(form const&, form const&) = default;
};

/// The forms of one network's operations.
struct network_forms {
  static constexpr std::array operations{"stem",           "stem, training", "mixer core",  "scan backward",
                                         "attention core", "its backward",   "projections", "heads"};
  std::array<form, operations.size()> of;
};

/// Where every operand is at a multiple of 16 bytes, in a graph of many pictures.
template <config C, cuda::precision P>
class chooser {
  using T = cuda::element<P>;
  using S = sizes<C>;
  static constexpr bool tf32 = P == cuda::precision::tf32;

 public:
  explicit chooser(device_kind const& kind) : device_{properties_of(kind)} {}

  [[nodiscard]] network_forms all() const {
    return {
        {stem(), stem_training(), mixer(), scan_backward(), attention(), attention_backward(), projections(), heads()}};
  }

 private:
  static constexpr int length = S::length;
  static constexpr std::size_t rows = std::size_t{50432};  ///< as 256 pictures of 197 tokens

  [[nodiscard]] bool holds(std::size_t bytes) const { return bytes <= std::size_t(device_.shared_per_block); }

  [[nodiscard]] form stem() const {
    using namespace cuda::detail::stem;
    using L = layouts<S::stem, T>;
    using G = geometry<S::stem>;
    if constexpr (L::tensor_planes && L::tensor_projection) {
      bool const hopper = device_.major == 9 && G::hidden == 64;
      if (holds(conv1_block<G>::shared_bytes) && holds(conv3_block<G, conv3_small>::shared_bytes) &&
          holds(project_block<G::depth, S::stem.dim, project_many_small<S::stem.dim>>::shared_bytes))
        return {hopper                                              ? "`wgmma`"
                : holds(conv3_block<G, conv3_wide>::shared_bytes)   ? "`mma`, wide"
                : holds(conv3_block<G, conv3_medium>::shared_bytes) ? "`mma`, medium"
                                                                    : "`mma`, small",
                true};
    }
    if constexpr (L::float_tiles) return {tf32 ? "`mma` TF32" : "tiles", tf32};
    return {"plain", false};
  }
  [[nodiscard]] form stem_training() const {
    if (cuda::detail::stem_train::tensor_fits<S::stem, T>(device_, nullptr))
      return {device_.major == 9 ? "`wgmma`" : "`mma`", true};
    return products("gathered, cuBLASLt");
  }
  [[nodiscard]] form mixer() const {
    namespace room = cuda::detail::mixer_core;
    if constexpr (room::traits<T, S::mixer>::possible) {
      if (room::packed_taken<T, S::mixer, room::best_way<T>(false)>(device_, length))
        return {"one segment, packed", true};
      if (room::whole_fits<T, S::mixer>(device_, length)) return {"one segment", true};
      if (room::segments_fit<T, S::mixer>(device_))
        return {"segments of " + std::to_string(16 * room::segment_tiles<T, S::mixer>(device_, length)), true};
    }
    return composed();
  }
  /// The mixer one operation after the other, by its scan.
  [[nodiscard]] form composed() const {
    namespace room = cuda::detail::ssd;
    using way = room::chosen_form;
    if constexpr (S::mixer.headdim <= 128 && S::mixer.d_state <= 256)
      switch (room::choose_form<S::mixer, T>(length, true, scan_form::automatic, device_, 256)) {
        case way::tiled:
          return {tf32 ? "composed, `mma` TF32" : "composed, tiles", tf32};
        case way::quadratic:
          return {"composed, quadratic", true};
        case way::chunked:
          return {"composed, chunks", true};
        case way::recurrence:
          break;
      }
    return {"composed, recurrence", false};
  }
  [[nodiscard]] form scan_backward() const {
    namespace room = cuda::detail::ssd;
    room::backward_operands<S::mixer, T> p{};
    p.length = length, p.sequences = p.set_size = 1;
    p.x_stride = p.dy_stride = p.dx_stride = S::d_inner;
    p.b_stride = p.c_stride = p.db_stride = p.dc_stride = S::mixer.groups * S::mixer.d_state;
    constexpr int widest = cuda::detail::mixer_core::backward_plan<S::mixer, T>::widest;
    if (cuda::detail::mixer_core::scan_convolves<S::mixer, T, widest>(nullptr, length, device_))
      return {"quadratic, convolves", true};
    return room::with_backward_form<tf32>(p, device_, [](auto chosen) -> form {
      using F = decltype(chosen);
      if constexpr (std::is_same_v<F, room::backward_quadratic<S::mixer, T>>) return {"quadratic", true};
      if constexpr (std::is_same_v<F, room::backward_chunked<S::mixer, T>>) return {"chunks", true};
      if constexpr (std::is_same_v<F, room::backward_tiled<S::mixer, T, tf32>>)
        return {tf32 ? "`mma` TF32" : "tiles", tf32};
      return {"chunks of float", false};
    });
  }
  [[nodiscard]] form attention() const {
    namespace room = cuda::detail::attention_core;
    if constexpr (room::tensor_fits<T>(S::attention))
      if (room::make_plan<room::traits<S::attention, T>>(device_, 256, length).capacity != 0) return {"resident", true};
    if constexpr (room::streams<T>(S::attention))
      if (holds(room::streamed_traits<S::attention, T>::bytes)) return {"streamed", true};
    return composed_attention();
  }
  [[nodiscard]] form attention_backward() const {
    if (resident_backward<5>() || resident_backward<13>()) return {"resident", true};
    namespace room = cuda::detail::attention_core;
    if constexpr (room::streams<T>(S::attention))
      if (holds(room::streamed_traits<S::attention, T>::keys_bytes)) return {"streamed", true};
    return composed_attention();
  }
  [[nodiscard]] static form composed_attention() {
    if (cuda::detail::attention_core::tile_traits<S::attention, tf32>::tf32) return {"composed, `mma` TF32", true};
    return {"composed", false};
  }
  template <int Groups>
  [[nodiscard]] bool resident_backward() const {
    namespace room = cuda::detail::attention_core;
    if constexpr (room::backward_fits<S::attention, T, Groups>()) {
      using traits = room::backward_traits<S::attention, T, Groups>;
      return length <= traits::tokens && holds(traits::bytes);
    }
    return false;
  }
  /// From a mixer to the next, forward.
  [[nodiscard]] form projections() const {
    namespace room = cuda::detail::project_add_norm;
    constexpr int K = 2 * S::d_inner, N = S::projected;
    using hopper = room::hopper_traits<T, C.dim, K, N, 0>;
    if constexpr (hopper::possible)
      if (device_.major == 9 && device_.minor == 0 && holds(hopper::bytes)) return {"`wgmma`", true};
    if (room::tensor_fits<T, C.dim, K, N, 0>(device_, rows)) return {"`mma`", true};
    return products("cuBLASLt");
  }
  [[nodiscard]] form heads() const {
    namespace room = cuda::detail::heads;
    if constexpr (room::fits<T>(C.dim))
      if (holds(room::traits<T, C.classes, C.dim, 2>::bytes)) return {"`mma`", true};
    return products("cuBLASLt");
  }
  /// What the library takes: tensor cores but in float.
  [[nodiscard]] static form products(std::string name) { return {std::move(name), P != cuda::precision::fp32}; }

  cuda::device_properties device_;
};

}  // namespace dm2::test::forms
