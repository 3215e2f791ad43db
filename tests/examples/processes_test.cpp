// How the training program starts its processes and knows itself among them.
#include "../../examples/support/process_place.hpp"
#include "../../examples/support/start_processes.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

using namespace dm2::example;

namespace {

/// Variables of a launcher, gone at the end.
class variables {
 public:
  explicit variables(std::vector<std::pair<char const*, char const*>> const& set) {
    for (auto const& [name, value] : set) {
      ::setenv(name, value, 1);
      names_.push_back(name);
    }
  }
  variables(variables const&) = delete;
  variables& operator=(variables const&) = delete;
  ~variables() {
    for (char const* name : names_) ::unsetenv(name);
  }

 private:
  std::vector<char const*> names_;
};

int run(std::vector<std::vector<std::string>> const& commands, double patience = 10) {
  process_family family;
  for (auto const& words : commands) family.start({words, {{"DM2_TEST_NUMBER", "7"}}});
  return family.wait(patience);
}

}  // namespace

TEST_CASE("started_as: mpirun's and torchrun's variables are read, and nonsense is nobody's") {
  CHECK(started_as().by.empty());
  {
    variables const v{{{"OMPI_COMM_WORLD_SIZE", "8"},
                       {"OMPI_COMM_WORLD_RANK", "5"},
                       {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                       {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}}};
    auto const p = started_as();
    CHECK(p.by == "OMPI_COMM_WORLD_SIZE");
    CHECK(p.by_mpi);
    CHECK(p.rank == 5);
    CHECK(p.size == 8);
    CHECK(p.local_rank == 1);
    CHECK(p.local_size == 4);
  }
  {
    variables const v{{{"WORLD_SIZE", "2"}, {"RANK", "1"}, {"LOCAL_RANK", "3"}}};
    auto const p = started_as();
    CHECK(p.rank == 1);
    CHECK(p.local_rank == 3);
    CHECK(p.local_size == 1);
  }
  std::vector<std::pair<char const*, char const*>> slurm{{"SLURM_STEP_NUM_TASKS", "7"},
                                                         {"SLURM_PROCID", "6"},
                                                         {"SLURM_LOCALID", "2"},
                                                         {"SLURM_NODEID", "1"},
                                                         {"SLURM_STEP_TASKS_PER_NODE", "4,3"}};
  {
    variables const v{slurm};
    auto const p = started_as();
    CHECK(p.by == "SLURM_STEP_NUM_TASKS");
    CHECK(p.rank == 6);
    CHECK(p.size == 7);
    CHECK(p.local_rank == 2);
    CHECK(p.local_size == 3);
    CHECK_FALSE(p.by_mpi);  // srun without --mpi=pmix
    variables const pmix{{{"PMIX_RANK", "6"}}};
    CHECK(started_as().by_mpi);
    variables const torchrun{{{"WORLD_SIZE", "2"}, {"RANK", "1"}, {"LOCAL_RANK", "1"}}};  // that srun has started
    CHECK(started_as().size == 2);
    CHECK_FALSE(started_as().by_mpi);
  }
  std::vector<std::tuple<char const*, char const*, int>> const cases{
      {"2", "0", 2}, {"2(x3)", "2", 2}, {"2(x2),1", "2", 1}, {"2(x2),1", "3", 1},
      {"x", "0", 1}, {"2(x", "0", 1},   {"", "0", 1}};
  for (auto const& [counts, node, size] : cases) {
    slurm[3].second = node;
    slurm[4].second = counts;
    variables const v{slurm};
    CHECK(started_as().local_size == size);
  }
  for (char const* rank : {"2", "-1", "x", "1x", ""}) {
    variables const v{{{"WORLD_SIZE", "2"}, {"RANK", rank}}};
    CHECK(started_as().by.empty());
  }
}

TEST_CASE("gpu_list: numbers and ranges, each once; anything else is refused") {
  CHECK(gpu_list("0") == std::vector{0});
  CHECK(gpu_list("0-3") == std::vector{0, 1, 2, 3});
  CHECK(gpu_list("2,0,5-6") == std::vector{2, 0, 5, 6});
  for (char const* bad :
       {"", "a", "0,", "0-", "3-1", "0,0", "0-2,1", "-1", "0 1", "0;1", "99999999999", "0-1-2", "2000"})
    CHECK_THROWS_AS(static_cast<void>(gpu_list(bad)), usage_error);
}

TEST_CASE("command_to_repeat: the flags that start processes are left out, whichever way they are written") {
  char const* const argv[] = {"train", "data",       "--processes", "4", "-b",
                              "8",     "--gpus=0-1", "--restarts",  "3", "--lr=1"};
  auto const words = command_to_repeat(10, argv);
  CHECK(std::vector<std::string>(words.begin() + 1, words.end()) ==
        std::vector<std::string>{"data", "-b", "8", "--lr=1"});
}

TEST_CASE("process_family: gives its processes their variables, and the code of the first that fails") {
  CHECK(run({{"sh", "-c", "test \"$DM2_TEST_NUMBER\" = 7"}, {"true"}}) == 0);
  CHECK(run({{"true"}, {"sh", "-c", "exit 6"}, {"sh", "-c", "sleep 2; exit 3"}}) == 6);
  CHECK(run({{"sh", "-c", "kill -KILL $$"}}) == 128 + 9);
  CHECK(run({{"dm2-no-such-program"}}) == 127);
}

TEST_CASE("process_family: where one fails, those that do not end by themselves are ended") {
  auto const begin = std::chrono::steady_clock::now();
  CHECK(run({{"sleep", "600"}, {"sh", "-c", "exit 6"}}, 0.2) == 6);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds{60});
}

TEST_CASE("process_family: where one ends well, another that goes on is ended, and is what failed") {
  auto const begin = std::chrono::steady_clock::now();
  CHECK(run({{"true"}, {"sleep", "600"}}, 0.2) == exit_process);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds{60});
  CHECK(run({{"true"}, {"sleep", "0.3"}}, 20) == 0);
}

TEST_CASE("with_restarts: a lost process starts all anew, so often, without --overwrite and with --resume auto") {
  std::vector<std::vector<std::string>> seen;
  auto const once = [&](std::vector<std::string> const& words) {
    seen.push_back(words);
    return seen.size() < 3 ? 6 : 0;
  };
  CHECK(with_restarts(5, {"train", "--overwrite", "data"}, once) == 0);
  REQUIRE(seen.size() == 3);
  CHECK(seen[0] == std::vector<std::string>{"train", "--overwrite", "data"});
  CHECK(seen[1] == std::vector<std::string>{"train", "data", "--resume", "auto"});
  seen.clear();
  CHECK(with_restarts(1, {"train"}, once) == 6);
  CHECK(with_restarts(5, {"train"}, [](auto const&) { return 2; }) == 2);
}
