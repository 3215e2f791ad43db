// README's whole run.
#include <dm2/demansia.hpp>

int main() {
  dm2::model<dm2::tiny> net{64};
  dm2::initialise(net, 0);  // from seed 0
  dm2::dataset const pictures{"imagenet/train", {.label_maps = "label_top5_train_nfnet"}};
  auto const classes = pictures.class_names();
  dm2::dataset const held_out{"imagenet/val", {.classes = {classes.begin(), classes.end()}}};

  dm2::loader training{pictures, {.batch = 64}, dm2::training_sample_transform(net.image)};
  dm2::loader validation{
      held_out, {.mode = dm2::loading::evaluation, .batch = 64}, dm2::evaluation_sample_transform(net.image)};
  dm2::trainer run{net, {.batch = 64, .accumulate = 16}, training, &validation, dm2::run_folder{"runs/first"}};
  run.run();  // leaves last.safetensors and best.safetensors in runs/first; run.resume(path) before it goes on from one
}
