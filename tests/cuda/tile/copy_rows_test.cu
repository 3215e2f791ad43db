#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/tile/copy_rows.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/random.hpp"

#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::cuda::detail;
using namespace dm2::test;

namespace {

constexpr int columns = 24, pitch = columns * 2 + 16;

/// out [count, columns] = the rows that come to shared memory; the pads behind them must stay as they were. Tile: by
/// copy_tile, of 17 rows.
template <bool Tile>
__global__ void copy_out(row_source<__half> source, int first, int count, __half* out, int* touched) {
  unsigned char* const shared = dynamic_shared();
  for (int i = int(threadIdx.x); i < count * pitch; i += int(blockDim.x)) shared[i] = 0x5a;
  __syncthreads();
  if constexpr (Tile)
    copy_tile<columns, 17, 32>(shared_address(shared), pitch, source, first, int(threadIdx.x));
  else
    copy_rows<columns>(shared_address(shared), pitch, source, first, count, int(threadIdx.x), int(blockDim.x));
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  for (int i = int(threadIdx.x); i < count * columns; i += int(blockDim.x))
    out[i] = reinterpret_cast<__half const*>(shared + i / columns * pitch)[i % columns];
  if (threadIdx.x != 0) return;
  *touched = 0;
  for (int r = 0; r < count; ++r)
    for (int i = columns * 2; i < pitch; ++i) *touched += shared[r * pitch + i] != 0x5a;
}

/// `rows` rows of `there` columns in a matrix that is 40 wide; the copy begins at its column 8.
void check_copy(int rows, int there, int first, int count, int threads) {
  CAPTURE(rows);
  CAPTURE(there);
  CAPTURE(first);
  CAPTURE(count);
  CAPTURE(threads);
  constexpr int width = 40;
  auto const in = rounded<__half>(random_source{unsigned(rows)}.normal(std::size_t(rows) * width, 1));
  device_array<__half> const matrix{in};
  device_array<__half> out{std::size_t(count) * columns};
  device_array<int> touched{1};
  row_source<__half> const source{matrix.data() + 8, width, rows, there};
  auto* const kernel = count == 17 && threads == 32 ? copy_out<true> : copy_out<false>;
  cuda::detail::launch("copy", kernel, {1u, threads, std::size_t(count) * pitch}, nullptr, source, first, count,
                       out.data(), touched.data());
  std::vector<double> want;
  for (int r = first; r < first + count; ++r)
    for (int c = 0; c < columns; ++c)
      want.push_back(r >= 0 && r < rows && c < there ? in[std::size_t(r * width + 8 + c)] : 0.);
  CHECK(out.read() == want);
  CHECK(out.margins_untouched());
  CHECK(touched.read() == std::vector<double>{0});
}

}  // namespace

TEST_CASE("copy_rows: rows and columns that are there arrive, what is outside is zeros, and nothing else is written") {
  for (int const threads : {32, 64, 96})
    for (int const count : {1, 7, 15, 16, 17}) {
      check_copy(40, columns, 3, count, threads);
      check_copy(5, columns, -2, count, threads);
      check_copy(1, 16, 0, count, threads);
      check_copy(16, 8, 16, count, threads);  // no row at all
    }
}
