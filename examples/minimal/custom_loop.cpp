// A training loop of one's own, from the parts of which dm2::trainer is made: minimal_custom_loop PICTURES WEIGHTS
#include <dm2/demansia.hpp>

#include <cstdio>
#include <exception>
#include <filesystem>

namespace {

/// For the pictures of make_shapes: 14 classes, 48 x 48.
constexpr dm2::config mine{.image = {48, 48},
                           .patch = 8,
                           .stem_width = 16,
                           .depth = 2,
                           .dim = 48,
                           .classes = 14,
                           .headdim = 24,
                           .d_state = 16,
                           .attn_layers = dm2::layers(1),
                           .attn_heads = 2,
                           .attn_head_dim = 24,
                           .attn_rotary = 12};

void train(std::filesystem::path const& folder, std::filesystem::path const& weights) {
  constexpr int batch = 28, epochs = 6;
  dm2::dataset const pictures{folder};
  dm2::loader samples{pictures, {.batch = batch}, dm2::training_sample_transform(mine.image, {.operations = 0})};
  dm2::model<mine> net{batch};
  dm2::initialise(net, 0);  // from seed 0
  dm2::optimizer rule{net, {.kind = dm2::optimizer_kind::adamw, .weight_decay = 0.05, .beta2 = 0.999}};
  dm2::ema average{net, 0.99, true};
  dm2::training_pass pass{net, batch};
  dm2::sparse_targets<float> targets{mine.classes};
  for (int epoch = 0; epoch < epochs; ++epoch) {
    double loss = 0;
    samples.start(unsigned(epoch));
    while (dm2::batch const* const b = samples.next()) {
      targets.clear();
      for (int const label : b->labels) targets.add(label, dm2::sizes<mine>::tokens);
      pass.clear_gradients();
      pass.forward(b->pictures);
      loss += pass.loss(targets.rows());
      pass.backward();
      rule.step(net, pass.gradients(), 2e-3);
      average.step(net);
    }
    std::printf("epoch %d  loss %.4f\n", epoch + 1, loss / double(samples.batches()));
  }
  average.swap(net);  // the averages are what is kept
  dm2::save(net, weights);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: minimal_custom_loop PICTURES WEIGHTS\n"), 2;
  try {
    train(argv[1], argv[2]);
  } catch (std::exception const& problem) {
    return std::fprintf(stderr, "%s\n", problem.what()), 1;
  }
  return 0;
}
