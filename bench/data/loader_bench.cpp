/// @file
/// The loader, from files or a packed set to batches: a photograph of 500 x 375 through the whole training transform,
/// with label maps.
#include "support/verify.hpp"

#include <dm2/data/loader.hpp>
#include <dm2/data/pack/pack.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <limits>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;
namespace fs = std::filesystem;

constexpr int batch_size = 16;
constexpr image_extent extent{224, 224};

/// 64 links to the golden photograph and to a golden label map, in a folder that goes with it. All are one file in
/// memory: no disk is measured.
class photo_folder {
 public:
  photo_folder() {
    std::string pattern = (fs::temp_directory_path() / "dm2-bench-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error{"cannot make a folder like " + pattern};
    path_ = pattern;
    for (char const* folder : {"images/photo", "maps/photo"}) fs::create_directories(path_ / folder);
    for (int i = 0; i < 64; ++i) {
      std::string const name = "photo/" + std::to_string(i);
      fs::create_symlink(DM2_GOLDEN_DIR "/images/photo.jpg", path_ / "images" / (name + ".jpg"));
      fs::create_symlink(DM2_GOLDEN_DIR "/token_labels/zip.pt", path_ / "maps" / (name + ".pt"));
    }
  }
  photo_folder(photo_folder const&) = delete;
  photo_folder& operator=(photo_folder const&) = delete;
  ~photo_folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  [[nodiscard]] dataset set() const {
    return dataset{path_ / "images", {.label_maps = path_ / "maps", .classes = thousand_names()}};
  }
  /// The same, packed at the first call.
  [[nodiscard]] dataset packed() const {
    if (!is_packed_set(path_ / "set")) pack_pictures(set(), path_ / "set");
    return dataset{path_ / "set", {.label_maps = path_ / "set"}};
  }

 private:
  /// As many classes as the label map may name, `photo` the first.
  static std::vector<std::string> thousand_names() {
    std::vector<std::string> names{"photo"};
    for (int i = 1; i < 1000; ++i) names.push_back("class" + std::to_string(i));
    return names;
  }

  fs::path path_;
};

/// What the pictures are read from.
enum class source { folder, set };

loader make_loader(dataset const& set, loading mode, int threads) {
  loader_options o;
  o.mode = mode;
  o.image = extent;
  o.batch = batch_size;
  o.threads = threads;
  o.label_maps = mode == loading::training;
  o.label_map_classes = 1000;
  return {set, o,
          mode == loading::training ? training_sample_transform(extent)
                                    : evaluation_sample_transform(extent, evaluation_resize(extent))};
}

/// The pictures and label maps of an epoch.
std::vector<float> epoch_values(loader& from) {
  std::vector<float> all;
  from.start(0);
  while (batch const* const b = from.next()) {
    all.insert(all.end(), b->pictures.begin(), b->pictures.end());
    for (label_map_data const& m : b->maps) all.insert(all.end(), m.values.begin(), m.values.end());
  }
  return all;
}

/// 0 where the folder and the set, and two counts of threads, give the same bits, and an epoch's pictures differ.
double disagreement(dataset const& folder, dataset const& set, loading mode, int threads) {
  loader one = make_loader(folder, mode, 1), other = make_loader(set, mode, threads + 1);
  std::vector<float> const want = epoch_values(one);
  if (want != epoch_values(other)) return std::numeric_limits<double>::infinity();
  auto const picture = std::ptrdiff_t(3) * extent.height * extent.width;
  bool const same = std::equal(want.begin(), want.begin() + picture, want.begin() + picture);
  return want.size() > 64 * std::size_t(picture) - 1 && same == (mode == loading::evaluation) ? 0 : 1;
}

/// Counts pictures/s, and pictures/s of one processor's time: what they would be were the machine otherwise idle.
void load(benchmark::State& state, loading mode, source from_what) {
  static photo_folder const photos;
  dataset const set = from_what == source::set ? photos.packed() : photos.set();
  int const threads = int(state.range(0));
  std::string const key =
      std::to_string(int(mode)) + "/" + std::to_string(int(from_what)) + "/" + std::to_string(threads);
  if (!verified(state, key, 0, [&] { return disagreement(photos.set(), set, mode, threads); })) return;
  loader from = make_loader(set, mode, threads);
  std::uint32_t epoch = 0;
  std::size_t pictures = 0;
  std::clock_t const begin = std::clock();
  for (auto _ : state) {
    from.start(epoch++);
    while (batch const* const b = from.next()) pictures += std::size_t(b->size);
  }
  double const processor = double(std::clock() - begin) / CLOCKS_PER_SEC;
  state.counters["pictures/s"] = benchmark::Counter(double(pictures), benchmark::Counter::kIsRate);
  state.counters["pictures/s/core"] = double(pictures) / processor;
}

}  // namespace

BENCHMARK_CAPTURE(load, training, loading::training, source::folder)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK_CAPTURE(load, training_set, loading::training, source::set)
    ->ArgName("threads")
    ->Arg(1)
    ->Arg(2)
    ->UseRealTime();
BENCHMARK_CAPTURE(load, evaluation, loading::evaluation, source::folder)
    ->ArgName("threads")
    ->Arg(1)
    ->Arg(2)
    ->UseRealTime();
BENCHMARK_CAPTURE(load, evaluation_set, loading::evaluation, source::set)
    ->ArgName("threads")
    ->Arg(1)
    ->Arg(2)
    ->UseRealTime();
