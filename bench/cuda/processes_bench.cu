// Training steps of Tiny on one GPU and on several, with data on the device: pictures/s, the exchange's part, and a
// hash of the weights, which has to be the same for every number of GPUs.
//
//   processes_bench [STEPS] [BATCH] [MICRO_BATCHES]     60 steps of 4 x 256
//
// Starts a process for each GPU. Rows: a step of MICRO_BATCHES over 1, 2, 4 ... GPUs, then one of MICRO_BATCHES for
// each.
#include <dm2/cuda/comm/nccl.cuh>
#include <dm2/cuda/step_engine.cuh>

#include "cuda/device_report.cuh"
#include "cuda/timing.cuh"
#include "cuda/training_case.cuh"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace dm2;
using namespace dm2::bench;

struct request {
  int steps, batch, micro_batches, processes;
};

/// The network of one process, and the micro-batches that are its own, on its device.
template <config C, cuda::precision P>
class member {
 public:
  member(request const& r, communicator& processes)
      : request_{r},
        processes_{processes},
        net_{r.batch},
        rounds_{net_, processes, r.micro_batches},
        rule_{net_, rounds_, optimizer_options{}, r.micro_batches, 1} {
    std::vector<float> state(state_extent<C>);
    fill_random<C>(state.data());
    copy(net_.ctx(), state.data(), state.size(), net_.state());
    copy(net_.ctx(), state.data(), state.size(), rule_.average());
    net_.round_copies();
    for (int m = processes.rank(); m < r.micro_batches; m += processes.size()) {
      auto& in = *inputs_.emplace_back(std::make_unique<cuda::training_input>(
          r.batch, std::size_t(sizes<C>::pixels),
          cuda::target_options{sizes<C>::stem.grid_height(), sizes<C>::stem.grid_width(), 0.1,
                               crop_convention::published}));
      in.fill(random_batch<C>(r.batch, unsigned(m + 1)), {2, 9, 3, 8});
      in.upload(net_.stream().get());
    }
    net_.ctx().plan([&] { micro_batch(*inputs_[0]); });
    net_.stream().synchronize();
    for (auto const& in : inputs_) graphs_.emplace_back(net_.stream(), [&] { micro_batch(*in); });
  }

  void step(std::int64_t number) {
    processes_.at_step(number - 1);
    rule_.begin(number);
    int const world = processes_.size();
    for (int done = 0; done < request_.micro_batches; done += world) {
      int const count = std::min(world, request_.micro_batches - done);
      if (processes_.rank() < count) graphs_[std::size_t(done / world)].launch(net_.stream().get());
      rule_.finish_round(count, std::size_t(done));
    }
    rule_.step(number, 1e-4, 0.9999);
    if (number > 1) static_cast<void>(rule_.ready(true)), check(rule_.read(std::size_t(request_.micro_batches)));
  }
  /// Waits for the last step.
  void finish() {
    static_cast<void>(rule_.ready(true));
    check(rule_.read(std::size_t(request_.micro_batches)));
  }
  /// Of weights, momentum and averages.
  std::uint64_t hash() {
    std::uint64_t h = 0xcbf29ce484222325;  // FNV-1a, a number at a time
    rounds_.share("momentum", rule_.first());
    rounds_.share("average", rule_.average());
    std::vector<std::uint32_t> bits(state_extent<C>);
    for (float* const from : {net_.state(), rule_.first(), rule_.average()}) {
      net_.stream().synchronize();
      dm2::cuda::check(cudaMemcpy(bits.data(), from, bits.size() * sizeof(float), cudaMemcpyDeviceToHost), "hash");
      for (std::uint32_t const b : bits) h = (h ^ b) * 0x100000001b3;
    }
    return h;
  }
  /// Waits for everything.
  void synchronize() { net_.stream().synchronize(); }

 private:
  void micro_batch(cuda::training_input const& in) {
    cuda::token_loss_options options;
    options.scale = 1.0 / request_.micro_batches;
    options.check = rule_.check_of();
    rounds_.before_forward();
    net_.forward(in.pictures(), in.box());
    rounds_.after_forward();
    net_.loss(in.maps(), in.box(), rule_.sums(), options);
    net_.backward(in.pictures(), in.box(), nullptr);
  }
  static void check(cuda::step_outcome const& o) { training<C, P>::check(o); }

  request request_;
  communicator& processes_;
  cuda::training_network<C, P> net_;
  cuda::training_rounds<C, P> rounds_;
  cuda::training_rule<C, P> rule_;
  std::vector<std::unique_ptr<cuda::training_input>> inputs_;
  std::vector<cuda::graph> graphs_;
};

template <config C, cuda::precision P>
void run(request const& r, communicator& processes) {
  member<C, P> m{r, processes};
  int const warm_up = std::min(5, r.steps / 2);
  std::int64_t number = 0;
  while (number < warm_up) m.step(++number);
  m.synchronize();
  processes.barrier("begin");
  auto const begin = std::chrono::steady_clock::now();
  while (number < r.steps) m.step(++number);
  m.finish();
  m.synchronize();
  double const seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::uint64_t const hash = m.hash();
  std::vector<std::uint64_t> all(std::size_t(processes.size()));
  processes.gather("hash", std::span<std::uint64_t const>{&hash, 1}, std::span{all});
  if (std::count(all.begin(), all.end(), hash) != processes.size())
    throw std::runtime_error{"the processes have different weights"};
  if (processes.rank() != 0) return;
  double const each = seconds / (r.steps - warm_up), pictures = double(r.batch) * r.micro_batches;
  std::printf("| %d | %d x %d | %.3f | %.0f | %.0f | %016llx |\n", r.processes, r.micro_batches, r.batch, 1e3 * each,
              pictures / each, pictures / each / r.processes, static_cast<unsigned long long>(hash));
  std::fflush(stdout);
}

/// One process for each GPU; returns whether all went well.
bool on_gpus(request const& r, bool connected) {
  std::string folder = "/tmp/dm2-processes-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) return false;
  std::vector<pid_t> children;
  for (int rank = 0; rank < r.processes; ++rank) {
    pid_t const child = ::fork();
    if (child != 0) {
      children.push_back(child);
      continue;
    }
    try {
      cuda::check(cudaSetDevice(rank), "device");
      std::optional<cuda::nccl_communicator> gpus;
      if (connected)
        gpus.emplace(
            cuda::nccl_options{.meeting = {.run = folder, .rank = rank, .size = r.processes, .file = folder + "/id"},
                               .board = folder + "/board"});
      run<tiny, cuda::precision::bf16>(r, gpus ? static_cast<communicator&>(*gpus) : one_process());
      gpus.reset();
      std::_Exit(0);
    } catch (std::exception const& e) {
      std::fprintf(stderr, "process %d: %s\n", rank, e.what());
      std::_Exit(1);
    }
  }
  bool well = true;
  for (pid_t const child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    well = well && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  std::filesystem::remove_all(folder);
  return well;
}

int count_gpus() {
  int pipe_of[2], count = 0;
  if (::pipe(pipe_of) != 0) return 0;
  pid_t const child = ::fork();  // a process that has used CUDA cannot fork others that do
  if (child == 0) {
    print_device();
    std::fflush(stdout);
    if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
    static_cast<void>(!::write(pipe_of[1], &count, sizeof count));
    std::_Exit(0);
  }
  static_cast<void>(!::read(pipe_of[0], &count, sizeof count));
  ::waitpid(child, nullptr, 0);
  return count;
}

}  // namespace

int main(int argc, char** argv) {
  auto const number = [&](int i, int otherwise) { return argc > i ? std::atoi(argv[i]) : otherwise; };
  request r{number(1, 60), number(2, 256), number(3, 4), 1};
  int const gpus = count_gpus();
  std::printf("| GPUs | step | ms | pictures/s | a GPU | hash |\n|---:|---|---:|---:|---:|---|\n");
  std::fflush(stdout);
  bool well = on_gpus(r, false) && on_gpus(r, true);  // alone; alone, by way of NCCL
  for (r.processes = 2; well && r.processes <= std::min(gpus, r.micro_batches); r.processes *= 2)
    well = on_gpus(r, true);
  int const each = r.micro_batches;
  for (r.processes = 2; well && r.processes <= gpus; r.processes *= 2) {
    r.micro_batches = each * r.processes;
    well = on_gpus(r, true);
  }
  return well ? 0 : 1;
}
