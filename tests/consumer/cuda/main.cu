// The README's program on the GPU.
#include <dm2/cuda/model.cuh>
#include <dm2/demansia.hpp>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  dm2::model<dm2::tiny, dm2::cuda::context<>> net;
  dm2::load(net, argv[1]);
  for (auto const& [index, probability] : dm2::classify(net, dm2::read_image(argv[2]), 5))
    std::printf("%4d  %.1f %%\n", index, 100 * probability);
}
