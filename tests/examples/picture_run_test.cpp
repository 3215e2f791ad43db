// How classify and evaluate run a model over picture files: examples/support/picture_run.hpp.
#include "../examples/support/picture_run.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory_resource>
#include <numeric>
#include <span>
#include <stdexcept>
#include <vector>

using namespace dm2;
using namespace dm2::example;

namespace {

constexpr config thumbnails{.image = {8, 12}, .patch = 4, .classes = 1};

float sum_of(std::span<std::uint8_t const> bytes) {
  return float(std::accumulate(bytes.begin(), bytes.end(), std::uint64_t{0}));
}

/// A model whose only logit is the sum of a picture's bytes, read as late as an interface of two buffers allows.
class summing final : public dm2::run::classifier {
 public:
  explicit summing(int batch) {
    for (auto& s : slots_) s.resize(std::size_t(batch) * pixels());
  }
  [[nodiscard]] config const& configuration() const override { return thumbnails; }
  [[nodiscard]] std::span<std::uint8_t> staging() override { return slots_[submitted_ % 2]; }
  void submit(int count) override {
    if (submitted_ - taken_ == 2) throw std::logic_error{"three batches"};
    auto& sums = sums_[submitted_ % 2];
    sums.clear();
    for (std::size_t i = 0; i < std::size_t(count); ++i)
      sums.push_back(sum_of(std::span{slots_[submitted_ % 2]}.subspan(i * pixels(), pixels())));
    ++submitted_;
  }
  [[nodiscard]] dm2::run::batch_results take() override {
    if (submitted_ == taken_) throw std::logic_error{"nothing to take"};
    return {sums_[taken_++ % 2], {}};
  }

 private:
  std::array<std::vector<std::uint8_t>, 2> slots_;
  std::array<std::vector<float>, 2> sums_;
  std::size_t submitted_ = 0, taken_ = 0;
};

/// Hands every encoded picture back to the host.
class refusing_decoder final : public raw_decoder {
 public:
  int refused = 0;
  [[nodiscard]] std::span<int const> decode(raw_pictures& raw) override {
    places_.clear();
    for (std::size_t i = 0; i < raw.tasks.size(); ++i)
      if (raw.tasks[i].encoded) places_.push_back(int(i));
    refused += int(places_.size());
    return places_;
  }

 private:
  std::vector<int> places_;
};

/// The same of raw pictures: its logit is the number of a task's bytes, which are there until they are submitted.
class counting_raw final : public dm2::run::classifier {
 public:
  explicit counting_raw(int batch) : batch_{batch} {}
  [[nodiscard]] config const& configuration() const override { return thumbnails; }
  [[nodiscard]] std::span<std::uint8_t> staging() override { throw std::logic_error{"finished pictures"}; }
  void submit(int) override { throw std::logic_error{"finished pictures"}; }
  [[nodiscard]] raw_pictures* raw_staging() override {
    raw_pictures& raw = raw_[staged_++ % raw_.size()];
    raw.prepare(batch_, crop(), 0, *std::pmr::new_delete_resource());
    return &raw;
  }
  [[nodiscard]] raw_decoder* decoder() override { return &decoder_; }
  [[nodiscard]] int refused() const { return decoder_.refused; }
  void submit_raw(raw_pictures& from, int count) override {
    if (submitted_ - taken_ == 2) throw std::logic_error{"three batches"};
    auto& sums = sums_[submitted_++ % 2];
    sums.clear();
    for (std::size_t i = 0; i < std::size_t(count); ++i) {
      picture_task const& t = from.tasks[i];
      std::size_t const bytes = 3 * std::size_t(t.part.height) * std::size_t(t.part.width);
      sums.push_back(sum_of({reinterpret_cast<std::uint8_t const*>(from.memory.get() + t.offset), bytes}));
    }
  }
  [[nodiscard]] dm2::run::batch_results take() override {
    if (submitted_ == taken_) throw std::logic_error{"nothing to take"};
    return {sums_[taken_++ % 2], {}};
  }

 private:
  int batch_;
  refusing_decoder decoder_;
  std::array<raw_pictures, 3> raw_;
  std::array<std::vector<float>, 2> sums_;
  std::size_t staged_ = 0, submitted_ = 0, taken_ = 0;
};

std::vector<picture_entry> golden_pictures() {
  std::array<std::filesystem::path, 2> const paths{DM2_GOLDEN_DIR "/images", DM2_GOLDEN_DIR "/images/gone.png"};
  return gather_pictures(paths);
}

}  // namespace

TEST_CASE("picture_run: every picture has its own result, in order, whatever the batch and the threads") {
  auto const entries = golden_pictures();
  REQUIRE(entries.size() == 17);
  for (int const batch : {1, 2, 5, 17, 64})
    for (int const workers : {1, 3, 0}) {
      summing net{batch};
      std::size_t next = 0, good = 0, bad = 0;
      run_speed const speed = run_pictures(
          net, entries, batch, workers, [&](picture_batch const& b, dm2::run::batch_results const& results) {
            CHECK(b.first == next);
            CHECK(std::size_t(b.good) == results.logits.size());
            std::size_t at = 0;
            for (std::size_t i = 0; i < b.entries.size(); ++i) {
              CHECK(b.entries[i].path == entries[next++].path);
              if (!b.entries[i].error.empty()) {
                ++bad;
                continue;
              }
              picture const p = evaluation_transform(read_image(b.entries[i].path), net.crop());
              CHECK(results.logits[at++] == sum_of(p.pixels));
              ++good;
            }
          });
      CHECK(next == entries.size());
      CHECK(good == 12);
      CHECK(bad == 5);
      CHECK(speed.pictures == 12);
      CHECK(speed.waiting <= speed.seconds);
    }
}

namespace {

/// Runs the golden pictures, and checks each one's result and place. `decodes`: those that a device may decode are left
/// to one, which hands them back.
void run_raw(int batch, int workers, bool decodes) {
  auto const entries = golden_pictures();
  counting_raw net{batch};
  std::size_t next = 0, good = 0;
  auto const use = [&](picture_batch const& b, dm2::run::batch_results const& results) {
    CHECK(b.first == next);
    std::size_t at = 0;
    for (picture_entry const& entry : b.entries) {
      CHECK(entry.path == entries[next++].path);
      if (!entry.error.empty()) continue;
      picture const p = read_image(entry.path);
      picture_task const t = plan_evaluation(p.height, p.width, net.crop(), evaluation_resize(net.crop()));
      CHECK(results.logits[at++] == sum_of(dm2::detail::copy_box(p, t.part).pixels));
      ++good;
    }
  };
  run_pictures(net, entries, batch, workers, use, {}, {true, decodes});
  CHECK(next == entries.size());
  CHECK(good == 12);
#ifdef DM2_WITH_JPEG
  CHECK((net.refused() > 0) == decodes);
#endif
}

}  // namespace

TEST_CASE("picture_run: raw pictures are each in their place, in order, also where whole batches are bad") {
  for (int const batch : {1, 2, 5, 64})
    for (int const workers : {1, 3, 0})
      for (bool const decodes : {false, true}) run_raw(batch, workers, decodes);
}

TEST_CASE("picture_run: what the use of a result throws ends the run, and no thread is left behind") {
  auto const entries = golden_pictures();
  summing net{2};
  int calls = 0;
  CHECK_THROWS_AS(run_pictures(net, entries, 2, 2,
                               [&](picture_batch const&, dm2::run::batch_results const&) {
                                 if (++calls == 2) throw std::runtime_error{"enough"};
                               }),
                  std::runtime_error);
  CHECK(calls == 2);
}

TEST_CASE("picture_run: no pictures are no work") {
  summing net{4};
  run_speed const speed =
      run_pictures(net, {}, 4, 2, [](picture_batch const&, dm2::run::batch_results const&) { FAIL("used"); });
  CHECK(speed.pictures == 0);
  CHECK(speed.rate() == 0);
}
