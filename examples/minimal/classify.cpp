// Classifies a picture: minimal_classify WEIGHTS PICTURE
#include <dm2/demansia.hpp>

#include <cstdio>

// The model of examples/weights/quick.safetensors. dm2::tiny in its place reads the published weights.
constexpr dm2::config quick{.image = {48, 48},
                            .patch = 8,
                            .stem_width = 32,
                            .depth = 4,
                            .dim = 96,
                            .classes = 14,
                            .d_state = 16,
                            .attn_layers = dm2::layers(2),
                            .attn_head_dim = 32,
                            .attn_rotary = 16,
                            .variant = dm2::mixer_variant::bidirectional};

int main(int argc, char** argv) try {
  if (argc != 3) return std::fputs("usage: minimal_classify WEIGHTS PICTURE\n", stderr), 2;
  dm2::model<quick> net;
  dm2::load(net, argv[1]);
  for (auto const& [index, probability] : dm2::classify(net, dm2::read_image(argv[2]), 5))
    std::printf("%4d  %6.2f %%\n", index, 100 * double(probability));
} catch (std::exception const& problem) {
  std::fprintf(stderr, "%s\n", problem.what());
  return 1;
}
