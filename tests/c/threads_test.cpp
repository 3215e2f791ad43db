// The C interface from several threads: two handles at a time, one handle for two, one closed under a call.
#include "c/opened.hpp"

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr std::size_t pixels = 3 * 64 * 64, classes = 10;

/// `count` forwards of one input, all of which have to give `want`. Returns how many did not.
int wrong_forwards(dm2_model* model, std::vector<float> const& in, std::vector<float> const& want, int count) {
  int wrong = 0;
  std::vector<float> out(classes);
  for (int i = 0; i < count; ++i) {
    bool const ok = dm2_forward(model, in.data(), 1, out.data(), classes) == DM2_OK && out == want;
    wrong += ok ? 0 : 1;
  }
  return wrong;
}

}  // namespace

TEST_CASE("C: two threads with two handles, and with one, get what one thread gets") {
  opened const first, second;
  std::vector<float> const one = noise(pixels, 1), other = noise(pixels, 2);
  std::vector<float> of_one(classes), of_other(classes);
  REQUIRE(dm2_forward(first, one.data(), 1, of_one.data(), classes) == DM2_OK);
  REQUIRE(dm2_forward(first, other.data(), 1, of_other.data(), classes) == DM2_OK);
  for (dm2_model* const mine : {static_cast<dm2_model*>(second), static_cast<dm2_model*>(first)}) {
    int wrong = -1;
    std::thread thread{[&] { wrong = wrong_forwards(mine, other, of_other, 20); }};
    int const here = wrong_forwards(first, one, of_one, 20);
    thread.join();
    CHECK(here == 0);
    CHECK(wrong == 0);
  }
}

TEST_CASE("C: threads that open, use and close at a time disturb nobody, and errors are each thread's own") {
  std::vector<int> failures(2, -1);
  auto const life = [](int& count) {
    count = 0;
    std::vector<float> const in(pixels);
    std::vector<float> out(classes);
    for (int i = 0; i < 5; ++i) {
      dm2_model* model = nullptr;
      dm2_open_options options = DM2_OPEN_OPTIONS;
      options.threads = 1;
      count += dm2_open(micro_file.c_str(), &options, &model) == DM2_OK ? 0 : 1;
      count += dm2_forward(model, in.data(), 1, out.data(), classes) == DM2_OK ? 0 : 1;
      count += dm2_forward(model, in.data(), 1, out.data(), 1) == DM2_SIZE ? 0 : 1;
      count += std::string{dm2_last_error()}.find("got 1 numbers") == std::string::npos ? 1 : 0;
      count += dm2_close(model) == DM2_OK ? 0 : 1;
    }
  };
  std::thread thread{[&] { life(failures[1]); }};
  life(failures[0]);
  thread.join();
  CHECK(failures[0] == 0);
  CHECK(failures[1] == 0);
}

TEST_CASE("C: a handle that is closed while another thread's calls go on is refused from then on, and harmless") {
  dm2_model* model = nullptr;
  REQUIRE(dm2_open(micro_file.c_str(), nullptr, &model) == DM2_OK);
  std::vector<float> const in = noise(pixels, 3);
  int last = DM2_OK;
  std::atomic<int> calls = 0;
  std::thread thread{[&] {
    std::vector<float> out(classes);
    for (; last == DM2_OK; ++calls) last = dm2_forward(model, in.data(), 1, out.data(), classes);
  }};
  for (int tries = 0; tries < 2000 && calls < 2; ++tries) std::this_thread::sleep_for(std::chrono::milliseconds{10});
  CHECK(dm2_close(model) == DM2_OK);
  thread.join();
  CHECK(last == DM2_HANDLE);
  CHECK(calls >= 3);  // two that went well, and the refused one
}
