// Trains a model on folders of pictures: minimal_train FOLDER EPOCHS
// FOLDER holds train/CLASS/PICTURE and val/CLASS/PICTURE, 14 classes, as make_shapes draws them.
#include <dm2/demansia.hpp>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

constexpr dm2::config mine{.image = {48, 48},
                           .patch = 8,
                           .stem_width = 32,
                           .depth = 4,
                           .dim = 96,
                           .classes = 14,
                           .d_state = 16,
                           .attn_layers = dm2::layers(2),
                           .attn_head_dim = 32,
                           .attn_rotary = 16};

int main(int argc, char** argv) try {
  if (argc != 3) return std::fputs("usage: minimal_train FOLDER EPOCHS\n", stderr), 2;
  std::filesystem::path const folder = argv[1];
  dm2::dataset const pictures{folder / "train"}, held_out{folder / "val"};
  dm2::loader training{pictures, {.batch = 24}, dm2::training_sample_transform(mine.image)};
  dm2::loader validation{
      held_out, {.mode = dm2::loading::evaluation, .batch = 24}, dm2::evaluation_sample_transform(mine.image)};
  dm2::model<mine> net{24};
  dm2::initialise(net, 0);  // from seed 0
  dm2::trainer_options recipe{.batch = 24, .accumulate = 1, .ema_decay = 0.99};
  recipe.rates.epochs = std::atoi(argv[2]);
  recipe.on_epoch = [](dm2::epoch_report const& e) {
    std::printf("epoch %d  loss %.3f  top-1 %.1f %%\n", e.epoch + 1, e.train_loss, 100 * e.validation.accuracy());
  };
  dm2::trainer run{net, recipe, training, &validation, dm2::run_folder{folder / "run"}};
  run.run();  // leaves last.safetensors and best.safetensors in FOLDER/run
} catch (std::exception const& problem) {
  std::fprintf(stderr, "%s\n", problem.what());
  return 1;
}
