/// @file
/// The instructions that only a Hopper (sm_90a) has, each under a name: barriers in shared memory that count bytes,
/// copies of tiles by tensor maps, products of a warpgroup, and the exchange of registers between warpgroups.
///
/// A tile of 64 columns of 16-bit numbers (or 32 floats) is copied "swizzled": row r has 128 bytes, and its piece of 16
/// bytes number c stands at c ^ (r % 8). Tiles so laid out are aligned to 1024 bytes.
///
/// Fragments of wgmma.m64nNk16, warp w of the warpgroup, lane l, g = l / 4, t = l % 4 (PTX ISA, "Register Fragments for
/// wgmma.mma_async.m64nNk16"): those of mma.sync.m16n8k16 for rows 16 w to 16 w + 15, column tile after column tile, so
/// that accumulators 8 k to 8 k + 7, rounded, are the fragment of step k of a next product.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/tma.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

/// Whether the code being compiled may use these instructions: false in every pass but sm_90a's, the host's among them.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
inline constexpr bool hopper_code = true;
#else
inline constexpr bool hopper_code = false;
#endif

/// Whether what the device would run of `kernel` was compiled for sm_90a. The kernel declares shared memory, no multiple
/// of the 1 KB that the system takes, where hopper_code holds and nowhere else: compiled for plain sm_90, or by the
/// driver from PTX, it has none.
template <class... Parameters>
bool has_hopper_code(char const* name, void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, reinterpret_cast<void const*>(kernel)), name);
  return attributes.sharedSizeBytes % 1024 != 0;
}

/// A barrier of 8 bytes at `at` whose phases end when `count` arrivals and all expected bytes are there.
__device__ inline void init_phases(std::uint32_t at, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}
/// Before the block's barrier that follows init_phases: other threads and copies see the barriers.
__device__ inline void publish_phases() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void arrive(std::uint32_t at) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
/// Arrives, and has the phase wait for `bytes` more.
__device__ inline void arrive_expecting(std::uint32_t at, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
/// Waits for the end of the phase of this parity: 0 the first one; before the first one, 1 has ended.
__device__ inline void wait_phase(std::uint32_t at, unsigned parity) {
  unsigned done = 0;
  do {
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(at), "r"(parity)
                 : "memory");
  } while (done == 0);
}

/// Starts the copy of the map's tile from (row, column) to shared memory; zeros outside the matrix. The tile's bytes
/// arrive at the barrier.
__device__ inline void load_box(std::uint32_t to, tensor_map const& map, int row, int column, std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
/// Starts the copy of a tile from shared memory; what lies outside the matrix is left out. Writers have called
/// fence_copies and met this thread at a barrier before.
__device__ inline void store_box(tensor_map const& map, int row, int column, std::uint32_t from) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map),
               "r"(column), "r"(row), "r"(from)
               : "memory");
}
/// Ends a group of this thread's store_box.
__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Waits until at most N groups of this thread's have yet to read shared memory.
template <int N>
__device__ inline void wait_stores() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
/// Orders this thread's accesses to shared memory before copies and products that are started after the next barrier.
__device__ inline void fence_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/// Fetches a map ahead of its use.
__device__ inline void prefetch_map(tensor_map const& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

/// Gives up registers of a thread beyond N; the whole warpgroup calls it.
template <int N>
__device__ inline void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
/// Takes registers that other warpgroups have given up, N of a thread in all.
template <int N>
__device__ inline void claim_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/// A swizzled tile as a product's operand: groups of 8 rows, 1024 bytes apart.
__device__ inline std::uint64_t product_operand(std::uint32_t at) {
  return std::uint64_t{(at & 0x3ffffu) >> 4} | std::uint64_t{1} << 16 | std::uint64_t{1024 >> 4} << 32 |
         std::uint64_t{1} << 62;
}
/// The operand 16 columns further, `steps` times; at most 3 of a tile.
__device__ inline std::uint64_t further(std::uint64_t operand, int steps) { return operand + std::uint64_t(2 * steps); }

/// Keeps the compiler from moving what it does with accumulators across this point.
template <int N>
__device__ __forceinline__ void hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
/// Keeps the compiler from moving loads across this point.
__device__ inline void keep_order() { asm volatile("" ::: "memory"); }
/// Before a product, after other instructions have touched its registers.
__device__ inline void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/// Ends a group of products.
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most N groups are under way: then the others' operands may be overwritten.
template <int N>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// The accumulators as an instruction names them, and as the compiler does.
#define DM2_NAMES_36                                               \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17," \
  "%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35"
#define DM2_NAMES_96                                                                                 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"           \
  "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71," \
  "%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define DM2_FOUR(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define DM2_TWELVE(d, i) DM2_FOUR(d, i), DM2_FOUR(d, i + 4), DM2_FOUR(d, i + 8)
#define DM2_36(d) DM2_TWELVE(d, 0), DM2_TWELVE(d, 12), DM2_TWELVE(d, 24)
#define DM2_96(d) \
  DM2_36(d), DM2_TWELVE(d, 36), DM2_TWELVE(d, 48), DM2_TWELVE(d, 60), DM2_TWELVE(d, 72), DM2_TWELVE(d, 84)
#define DM2_WIDE_PRODUCT(type)                                                                                        \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\nwgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type \
               " {" DM2_NAMES_96 "}, %96, %97, p, 1, 1, 0, 0;\n}"                                                     \
               : DM2_96(d)                                                                                            \
               : "l"(a), "l"(b), "r"(1))
#define DM2_CHUNK_PRODUCT(type)                                                                                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %41, 0;\nwgmma.mma_async.sync.aligned.m64n72k16.f32." type "." type \
               " {" DM2_NAMES_36 "}, {%36,%37,%38,%39}, %40, p, 1, 1, 0;\n}"                                         \
               : DM2_36(d)                                                                                           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)))

/// d [64, 192] += a b^T, of 16 columns of both operands in shared memory. d is there after wait_products and hold.
template <class T>
__device__ __forceinline__ void multiply_wide(float (&d)[96], std::uint64_t a, std::uint64_t b) {
  static_assert(is_half<T>, "dm2::cuda::detail::multiply_wide<T>: T must have 16 bits");
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    DM2_WIDE_PRODUCT("bf16");
  else
    DM2_WIDE_PRODUCT("f16");
}
/// d [64, 72] = a b^T, or += where `add` holds, a in registers that stay as they are until the product is there.
template <class T>
__device__ __forceinline__ void multiply_chunk(float (&d)[36], std::uint32_t const (&a)[4], std::uint64_t b, bool add) {
  static_assert(is_half<T>, "dm2::cuda::detail::multiply_chunk<T>: T must have 16 bits");
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    DM2_CHUNK_PRODUCT("bf16");
  else
    DM2_CHUNK_PRODUCT("f16");
}

#undef DM2_CHUNK_PRODUCT
#undef DM2_WIDE_PRODUCT
#undef DM2_96
#undef DM2_36
#undef DM2_TWELVE
#undef DM2_FOUR
#undef DM2_NAMES_96
#undef DM2_NAMES_36

}  // namespace dm2::cuda::detail
