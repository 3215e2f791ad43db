/// @file
/// A model's compiled-in code and the same from a shared object, in turn.
///
///     dm2_run_time_speed [BACKEND [SAMPLES [OBJECT]]]      cpu, 400, that of the user's cache
///
/// BACKEND is cpu, cuda-bf16, ...; the model is the first that is compiled in for it. First logits and three steps of
/// training are compared bit by bit. Then pairs of samples, each of 10 ms or more, are timed in turn, the one that goes
/// first by turns as well: on a CPU the time of the one thread that computes, with a GPU the clock's. Printed are the
/// medians, the median of the pairs' ratios, and the 95 % interval of that median by the ranks of a binomial
/// distribution, which asks nothing of how the noise is distributed. Returns 1 where a bit differs.
///
/// OBJECT is a shared object that was compiled elsewhere: by the compiler that compiled this program, as its bits and
/// its speed are the compiler's.
///
/// Of a GPU's backend the distance of the logits from the compiled-in CPU code's is printed too. Where nothing is
/// compiled in for it (cuda-tf32), that is all, of the CPU's first model.
#include <dm2/data/batch.hpp>
#include <dm2/model/parameter_table.hpp>
#include <dm2/run/models.hpp>
#include <dm2/train/initialise.hpp>

#include "../tests/support/noisy_batch.hpp"
#include "../tests/support/random.hpp"
#ifdef DM2_EXAMPLES_CUDA
#include "../examples/support/gpu.hpp"
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <time.h>

namespace {

using namespace dm2;

constexpr int size_of_batch = 8;
constexpr double shortest_sample = 0.010;

/// Evaluations of one batch of noise.
class inference {
 public:
  explicit inference(run::model_code const& code)
      : net_{code.make_network(size_of_batch, 1)},
        pictures_{test::noisy_batch(code.configuration(), size_of_batch, 1).pictures},
        logits_(std::size_t(size_of_batch) * std::size_t(code.configuration().classes)) {
    initialise(code.configuration(), net_->table(), net_->state(), net_->counters(), 7);
    for (parameter_entry const& e : net_->table())  // an initial head is zero, and so would be its logits
      if (e.name == "head.weight")
        std::ranges::copy(test::random_source{3}.normal<float>(e.size), net_->state().data() + e.offset);
  }
  void operator()() { net_->forward(pictures_, logits_); }
  [[nodiscard]] std::span<float const> numbers() const { return logits_; }

 private:
  std::unique_ptr<run::network> net_;
  std::vector<float> pictures_, logits_;
};

/// Steps of training on one batch of noise, each waited for.
class training {
 public:
  explicit training(run::model_code const& code) : batch_{test::noisy_batch(code.configuration(), size_of_batch, 2)} {
    run::training_request request;
    request.batch = size_of_batch;
    request.threads = 1;
    request.options.steps.batch = size_of_batch;
    request.options.steps.accumulate = 1;
    state_ = code.make_training(request);
    auto const numbers = std::get<training_numbers<float>>(state_->numbers());
    initialise(code.configuration(), numbers.table, numbers.state, numbers.counters, 3);
    state_->restart_average();
    state_->push();
  }
  void operator()() {
    state_->micro_batch(batch_, {0, 1, 0, 1}, 1);
    state_->finish_round(1, {0, std::int64_t(step_), step_}, false);
    state_->finish_step(1e-4);
    (void)state_->next_result(true);
    ++step_;
  }
  [[nodiscard]] std::span<float const> numbers() {
    state_->pull();
    return std::get<training_numbers<float>>(state_->numbers()).state;
  }

 private:
  batch batch_;
  std::unique_ptr<training_state> state_;
  std::size_t step_ = 0;
};

/// Seconds of a sample: so many calls.
class stopwatch {
 public:
  explicit stopwatch(run::backend b) : clock_{b == run::backend::cpu ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC} {}

  double operator()(std::function<void()> const& call, int calls) const {
    double const begin = now();
    for (int i = 0; i < calls; ++i) call();
    return now() - begin;
  }

 private:
  [[nodiscard]] double now() const {
    ::timespec t{};
    ::clock_gettime(clock_, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
  }
  ::clockid_t clock_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

/// The 95 % interval of a median.
std::pair<double, double> interval(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  double const n = double(values.size()), half = 0.98 * std::sqrt(n);
  auto const at = [&](double rank) { return values[std::size_t(std::clamp(rank, 0.0, n - 1))]; };
  return {at(std::floor(n / 2 - half)), at(std::ceil(n / 2 + half))};
}

void time_in_turn(char const* what, stopwatch const& watch, std::function<void()> const& here,
                  std::function<void()> const& loaded, int samples) {
  int calls = 1;
  while (watch(here, calls) < shortest_sample) calls *= 2;
  std::vector<double> first, second, ratios;
  for (int i = 0; i < samples; ++i) {
    double a = 0, b = 0;
    if (i % 2 == 0) a = watch(here, calls);
    b = watch(loaded, calls);
    if (i % 2 != 0) a = watch(here, calls);
    first.push_back(a / calls);
    second.push_back(b / calls);
    ratios.push_back(b / a);
  }
  auto const [low, high] = interval(ratios);
  std::printf(
      "| %s | %.4f | %.4f | %+.3f %% | %+.3f to %+.3f %% | %+.3f %% | %d x %d |\n", what, 1e3 * median(first),
      1e3 * median(second), 100 * (median(ratios) - 1), 100 * (low - 1), 100 * (high - 1),
      100 * (*std::min_element(second.begin(), second.end()) / *std::min_element(first.begin(), first.end()) - 1),
      samples, calls);
}

template <class Work>
bool compare(char const* what, run::model_code const& here, run::model_code const& loaded, int samples) {
  Work a{here}, b{loaded};
  for (int i = 0; i < 3; ++i) {
    a();
    b();
  }
  auto const x = a.numbers(), y = b.numbers();
  bool const same = std::equal(x.begin(), x.end(), y.begin(), y.end());
  bool const any = std::any_of(x.begin(), x.end(), [](float v) { return v != 0 && std::isfinite(v); });
  if (!same || !any) {
    std::printf("%s: %s\n", what, same ? "nothing but zeros" : "other bits than the compiled-in model's");
    return false;
  }
  time_in_turn(what, stopwatch{here.backend()}, std::ref(a), std::ref(b), samples);
  return true;
}

/// The first model that is compiled in for a backend; null where none is.
run::model_code const* first_compiled_in(run::backend b) {
  for (run::model_code const* const code : run::compiled_in())
    if (code->backend() == b) return code;
  return nullptr;
}

/// Distance of the logits from the CPU's, relative to their norm. Returns false where they are not a number or far off.
bool compare_with_cpu(run::model_code const& loaded) {
  run::model_code const* const cpu = run::find_compiled_in(loaded.configuration(), run::backend::cpu);
  if (cpu == nullptr) throw std::invalid_argument{"the model is not compiled in for the CPU"};
  inference a{*cpu}, b{loaded};
  a();
  b();
  double norm = 0, distance = 0;
  for (std::size_t i = 0; i < a.numbers().size(); ++i) {
    double const x = a.numbers()[i], y = b.numbers()[i];
    norm += x * x;
    distance += (x - y) * (x - y);
  }
  double const relative = std::sqrt(distance / norm);
  std::printf("logits of %s: %.2e from the CPU's, relative\n",
              run::title_of(loaded.configuration(), loaded.backend()).c_str(), relative);
  return relative < 2e-2;
}

int run_all(int argc, char** argv) {
  auto const backend = run::find_backend(argc > 1 ? argv[1] : "cpu");
  int const samples = argc > 2 ? std::atoi(argv[2]) : 400;
  if (!backend || samples < 10 || argc > 4) throw std::invalid_argument{"see the first lines of run_time_speed.cpp"};
  run::model_code const* const here = first_compiled_in(*backend);
  run::model_code const* const told = here != nullptr ? here : first_compiled_in(run::backend::cpu);
  if (told == nullptr) throw std::invalid_argument{"no model is compiled in"};
  run::find_options o;
  o.compiled_in = false;
  o.say = [](std::string const& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
#ifdef DM2_EXAMPLES_CUDA
  if (*backend != run::backend::cpu) o.architecture = example::gpu_architecture();
#endif
  run::model_code const& loaded =
      argc > 3 ? run::load_code(argv[3]) : run::find_code(told->configuration(), *backend, o);
  if (loaded.backend() != *backend || to_json(loaded.configuration()) != to_json(told->configuration()))
    throw std::invalid_argument{"the object is of another model or backend"};
  bool good = *backend == run::backend::cpu || compare_with_cpu(loaded);
  if (here == nullptr) return good ? 0 : 1;
  std::printf(
      "%s, batch %d\n\n| | compiled in, ms | loaded, ms | median of ratios | 95 %% | fastest | samples x calls |\n"
      "|---|---:|---:|---:|---:|---:|---:|\n",
      run::title_of(here->configuration(), *backend).c_str(), size_of_batch);
  good = compare<inference>("forward", *here, loaded, samples) && good;
  if (run::trains(*backend)) good = compare<training>("step", *here, loaded, samples) && good;
  return good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_all(argc, argv);
  } catch (std::exception const& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    return 2;
  }
}
