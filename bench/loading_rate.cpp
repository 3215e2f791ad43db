/// @file
/// How fast the host loads a folder's or a set's pictures.
///
/// There is no network; its threads' time is told by stage.
///
///     dm2_loading_rate PICTURES [MAPS [THREADS...]]     training and evaluation, finished on the host and left raw
#include <dm2/data/loader.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory_resource>
#include <string>
#include <vector>

namespace {

using namespace dm2;

/// Memory that is taken once and written once, as a device's pinned memory is, so that no page is missing later.
class touched_memory final : public std::pmr::memory_resource {
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    void* const p = std::pmr::new_delete_resource()->allocate(bytes, alignment);
    std::fill_n(static_cast<char*>(p), bytes, char{1});
    return p;
  }
  void do_deallocate(void* p, std::size_t bytes, std::size_t alignment) override {
    std::pmr::new_delete_resource()->deallocate(p, bytes, alignment);
  }
  [[nodiscard]] bool do_is_equal(memory_resource const& o) const noexcept override { return this == &o; }
};

void measure(dataset const& set, loading mode, bool raw, int threads) {
  touched_memory memory;
  bool const trains = mode == loading::training;
  loader from{set,
              {.mode = mode, .batch = 256, .threads = threads, .seed = 1, .label_maps = trains},
              trains ? training_sample_transform({224, 224}) : evaluation_sample_transform({224, 224})};
  if (raw) from.leave_raw(memory);
  from.start(0);
  std::size_t pictures = 0, first = 0;
  auto begin = std::chrono::steady_clock::now();
  loading_times before;
  while (batch const* const b = from.next()) {
    pictures += std::size_t(b->size);
    if (first == 0) {  // what comes before is the threads' start
      first = pictures;
      begin = std::chrono::steady_clock::now();
      before = from.times();
    }
  }
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  loading_times const t = from.times() - before;
  double const n = double(pictures - first), each = 1e3 / n;
  std::printf("| %s, %s | %d | %.0f | %.3f | %.3f | %.3f | %.3f |\n", trains ? "training" : "evaluation",
              raw ? "raw" : "finished", worker_count(threads), n / seconds, t.reading * each, t.decoding * each,
              t.transforming * each, t.sum() * each);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs("dm2_loading_rate PICTURES [MAPS [THREADS...]]\n", stderr);
    return 2;
  }
  try {
    dataset const set{argv[1], {.label_maps = argc > 2 ? argv[2] : ""}};
    std::vector<int> threads;
    for (int i = 3; i < argc; ++i) threads.push_back(std::atoi(argv[i]));
    if (threads.empty()) threads.push_back(0);
    std::puts(
        "| | threads | pictures/s | reading, ms | decoding | transforming | all "
        "|\n|---|---:|---:|---:|---:|---:|---:|");
    for (int const n : threads)
      for (loading const mode : {loading::training, loading::evaluation})
        for (bool const raw : {false, true}) measure(set, mode, raw, n);
  } catch (std::exception const& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    return 1;
  }
  return 0;
}
