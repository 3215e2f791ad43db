/// @file
/// A thread's own ring in shared memory, filled ahead of its use.
///
/// Loads under way take no registers, and no thread waits for another: it reads what it has copied itself.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstdint>

namespace dm2::cuda::detail {

/// Stages of `Places` times V numbers of T for each lane of a warp, which has memory of its own. Every lane goes
/// through
///     start(place, ...) ..., commit()   Stages - 1 times
///     wait(), start(place, ...) ..., commit(), take(place) ..., release()   for each stage that it reads
/// with stages of no copies at the end.
template <class T, int V, int Places, int Stages>
class own_ring {
 public:
  using numbers = vector_numbers<T, V>;
  static constexpr int each = V * int(sizeof(T)), stage = Places * 32 * each;
  static constexpr int bytes = Stages * stage;  ///< of a warp's shared memory
  static_assert(Stages >= 2, "dm2::cuda::detail::own_ring: nothing is ahead");

  /// The address is hidden: the compiler makes it anew for every stage else, which is five instructions.
  __device__ explicit own_ring(unsigned char* warps_own) : own_{warps_own + threadIdx.x % 32 * unsigned(each)} {
    if constexpr (each >= 4) {
      in_ = int(shared_address(own_));
      hide(in_);
      out_ = in_, end_ = in_ + bytes;
    }
  }

  /// Starts the copy of V numbers; zeros where `valid` is false, and `from` is not read then.
  __device__ void start(int place, T const* from, bool valid) const {
    if constexpr (each >= 4)
      copy_async<each>(std::uint32_t(in_) + std::uint32_t(place * (32 * each)), from, valid);
    else  // too small for a copy beside the thread's own work
      *reinterpret_cast<numbers*>(own_ + in_ + place * (32 * each)) = numbers::load_if(valid, from);
  }
  __device__ void commit() {
    commit_copies();
    in_ = next(in_);
  }
  /// Waits for the oldest stage.
  __device__ void wait() const { wait_copies<Stages - 2>(); }
  [[nodiscard]] __device__ numbers take(int place) const {
    if constexpr (each >= 4) {
      std::uint32_t words[each / 4];
      load_shared(words, std::uint32_t(out_) + std::uint32_t(place * (32 * each)));
      numbers x;
      __builtin_memcpy(&x, words, sizeof x);
      return x;
    } else {
      return *reinterpret_cast<numbers const*>(own_ + out_ + place * (32 * each));
    }
  }
  __device__ void release() { out_ = next(out_); }

 private:
  [[nodiscard]] __device__ int next(int at) const { return at + stage == end_ ? end_ - bytes : at + stage; }
  unsigned char* own_;
  int in_ = 0, out_ = 0, end_ = bytes;  ///< addresses of shared memory, or counted from own_
};

}  // namespace dm2::cuda::detail
