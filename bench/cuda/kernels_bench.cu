// Every operation of the CUDA backend, a table with a row for each: forward, backward, and the stem's kernels in
// training one by one.
//
//   dm2_cuda_kernels_bench                   Tiny and Small at batch 256
//   dm2_cuda_kernels_bench --filter=ROOM     what lies in cuda/ROOM: --filter=mixer_core; a part of a name will do
//   dm2_cuda_kernels_bench --once            each once, without times, for a profiler
#include "cuda/kernels/blocks.cuh"
#include "cuda/kernels/ends.cuh"
#include "cuda/kernels/stem_train.cuh"
#include "cuda/kernels/table.cuh"

#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>

namespace {

using namespace dm2;
using namespace dm2::bench;

kernel_options options_of(int argc, char** argv) {
  kernel_options o;
  for (std::string_view const a : std::vector<std::string_view>(argv + 1, argv + argc))
    if (constexpr std::string_view filter = "--filter="; a.starts_with(filter))
      o.filter = a.substr(filter.size());
    else if (a == "--once")
      o.once = true;
    else
      throw std::runtime_error{"usage: dm2_cuda_kernels_bench [--filter=ROOM] [--once]"};
  return o;
}

template <config C>
void run(kernel_table& table, char const* name, int batch) {
  table.begin(name, batch);
  end_kernels<C>{table, batch}.run();
  if (table.wants("stem_train")) stem_train_kernels<sizes<C>::stem>{table, batch}.run();
  block_kernels<C>{table, batch}.run();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    kernel_options const o = options_of(argc, argv);
    kernel_table table{o};
    if (!o.once) {
      std::puts(
          "Bytes are those of operands and results, each once, FLOPs those of bench/support/flops.hpp; a backward");
      std::puts("counts twice its forward's products. The roofline is the longer of bytes / copy and FLOPs / product.");
    }
    run<tiny>(table, "Tiny", 256);
    run<small>(table, "Small", 256);
    if (table.rows() == 0) throw std::runtime_error{"no room is called " + std::string{o.filter}};
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
