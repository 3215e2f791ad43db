/// @file
/// Times of work on the device: medians of graph replays.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/device/stream.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

namespace dm2::bench {

/// A point in time in a stream.
class time_point {
 public:
  time_point() { cuda::check(cudaEventCreate(&event_), "event"); }
  time_point(time_point const&) = delete;
  time_point& operator=(time_point const&) = delete;
  ~time_point() { static_cast<void>(cudaEventDestroy(event_)); }
  void record(cudaStream_t s) const { cuda::check(cudaEventRecord(event_, s), "event: record"); }
  [[nodiscard]] double microseconds_since(time_point const& start) const {
    float ms = 0;
    cuda::check(cudaEventSynchronize(event_), "timed work");
    cuda::check(cudaEventElapsedTime(&ms, start.event_, event_), "event: time");
    return double(ms) * 1e3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Median microseconds of one run of `work`, which enqueues in s. A graph holds as many runs as take about half a
/// millisecond, so that what a launch costs does not count; it is replayed for about `budget` microseconds.
template <class F>
double median_us(cuda::stream const& s, F const& work, double budget = 60e3) {
  work();  // outside a graph first: scratch is allocated, attributes are set
  s.synchronize();
  time_point start, stop;
  auto const time = [&](cuda::graph const& g) {
    start.record(s.get());
    g.launch(s.get());
    stop.record(s.get());
    return stop.microseconds_since(start);
  };
  cuda::graph const one{s, work};
  time(one);
  double const once = std::max(time(one), 1.0);
  int const runs = std::clamp(int(500 / once), 1, 100);
  cuda::graph const many{s, [&] {
                           for (int i = 0; i < runs; ++i) work();
                         }};
  std::vector<double> times;
  time(many);
  int const replays = std::clamp(int(budget / (once * runs)), 5, 200);
  for (int i = 0; i < replays; ++i) times.push_back(time(many) / runs);
  std::nth_element(times.begin(), times.begin() + replays / 2, times.end());
  return times[std::size_t(replays / 2)];
}

/// Median microseconds of one call of `work`, which launches in s work that is long enough to time alone.
template <class F>
double median_replay_us(cuda::stream const& s, F const& work, double budget = 300e3) {
  time_point start, stop;
  auto const time = [&] {
    start.record(s.get());
    work();
    stop.record(s.get());
    return stop.microseconds_since(start);
  };
  for (int i = 0; i < 3; ++i) time();
  double const once = std::max(time(), 1.0);
  std::vector<double> times;
  int const replays = std::clamp(int(budget / once), 11, 500);
  for (int i = 0; i < replays; ++i) times.push_back(time());
  std::nth_element(times.begin(), times.begin() + replays / 2, times.end());
  return times[std::size_t(replays / 2)];
}

/// Device memory filled with normal numbers of the given scale, rounded to T.
template <class T>
class random_array {
 public:
  explicit random_array(std::size_t n, float scale = 1, float mean = 0) : memory_{n * sizeof(T)} {
    // A period of 2^20 numbers: the host's generator would take longer than the benchmark.
    std::mt19937_64 engine{n};
    std::normal_distribution<float> draw{mean, scale};
    std::vector<T> host(std::min<std::size_t>(n, 1 << 20));
    for (T& v : host) {
      if constexpr (std::is_integral_v<T>)
        v = T(engine());
      else
        v = cuda::detail::from_float<T>(draw(engine));
    }
    for (std::size_t at = 0; at < n; at += host.size())
      cuda::check(
          cudaMemcpy(data() + at, host.data(), std::min(host.size(), n - at) * sizeof(T), cudaMemcpyHostToDevice),
          "random numbers");
    cuda::check(cudaDeviceSynchronize(), "random numbers");  // a copy may return ahead of its arrival
  }
  [[nodiscard]] T* data() const { return reinterpret_cast<T*>(memory_.data()); }

 private:
  cuda::device_memory memory_;
};

}  // namespace dm2::bench
