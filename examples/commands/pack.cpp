// A folder of pictures into a packed set, and whether a set is whole. See README.md, or run with --help.
#include <dm2/data/dataset.hpp>
#include <dm2/data/pack/pack.hpp>
#include <dm2/data/pack/verify.hpp>
#include <dm2/io/synced_folder.hpp>
#include <dm2/train/run_lock.hpp>

#include <CLI/CLI.hpp>

#include "../support/command_line.hpp"
#include "../support/commands.hpp"
#include "../support/progress.hpp"
#include "../support/stop_signal.hpp"
#include "../support/text.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

namespace {

using namespace dm2::example;
namespace fs = std::filesystem;

constexpr int exit_stopped = 5;

struct options {
  fs::path input, output, labels;
  bool verify = false, decode = false;
  int side = 0, quality = 0, shard = 256, threads = 0;
  std::uint64_t max_pixels = dm2::max_sample_pixels;
  int max_scans = dm2::max_sample_scans;
};

constexpr char const* footer =
    R"(FOLDER holds CLASS/...: pack the training and the validation pictures by themselves. SET becomes a folder that
train, evaluate and classify take where they take FOLDER, with the same samples in the same order. Its label maps are
used where --token-label-data names SET.

No pixel changes, unless --quality is given: JPEGs are rewritten with the same coefficients, and kept byte by byte where
that would change a pixel; PNGs are kept. Profiles, EXIF and comments of rewritten JPEGs are left out.

A packing that was stopped or killed goes on when it is started again with the same words, to the same bytes.

Exit codes:
  0  done
  1  some pictures or label maps cannot be read, and are packed as they are; or --verify found damage
  2  the command line makes no sense, or another process writes into SET
  3  a file cannot be read or written, has changed, or is refused
  5  stopped by a signal; what was finished is kept

Examples:
  pack imagenet/train sets/train --labels maps
  pack imagenet/val sets/val
  pack imagenet/train small/train --side 256 --quality 90
  pack --verify sets/train)";

void add_options(CLI::App& app, options& o) {
  app.add_option("FOLDER", o.input, "The pictures; with --verify, the set")->required()->type_name("");
  app.add_option("SET", o.output, "The folder to write")->type_name("");
  app.add_option("--labels,--token-label-data", o.labels, "Label maps of the pictures")->type_name("FOLDER");
  auto* const quality =
      app.add_option("--quality", o.quality, "Encode every picture as a JPEG anew: pixels change")->type_name("1..100");
  quality->check(number_from(1, 100));
  app.add_option("--side", o.side, "Reduce a picture's shorter side to this many pixels: pixels change")
      ->type_name("N")
      ->check(number_from(1, 65'500))
      ->needs(quality);
  app.add_option("--shard-size", o.shard, "MiB after which a file is full (256)")
      ->type_name("N")
      ->check(number_from(1, 1 << 20));
  app.add_flag("--verify", o.verify, "Look at every byte of a set");
  app.add_flag("--decode", o.decode, "With --verify: decode every picture, too");
  app.add_option("-j,--workers", o.threads, "Threads (one a processor)")->type_name("N")->check(number_from(0, 4096));
  app.add_option("--max-pixels", o.max_pixels, "Pixels of a picture above which it counts as unreadable (33554432)")
      ->check(number_from(1, 1'000'000'000));
  app.add_option("--max-scans", o.max_scans, "Scans of a JPEG above which it counts as unreadable (64)")
      ->check(number_from(1, 1'000'000));
}

void print_problems(std::vector<dm2::file_error> const& listed, std::size_t all) {
  for (dm2::file_error const& problem : listed) std::cerr << "pack: " << printable(problem.what()) << '\n';
  if (all > listed.size()) std::cerr << "pack: ... and " << grouped(all - listed.size()) << " more\n";
}

/// A set's size and kind, for people to read.
void describe_set(fs::path const& folder, dm2::packed_set const& set) {
  std::uint64_t bytes = 0;
  for (std::size_t s = 0; s < set.index().shards(); ++s) bytes += set.index().shard(s).bytes;
  std::cout << printable(folder.string()) << ": " << counted(set.size(), "picture") << " in "
            << counted(set.classes(), "class", "classes") << ", " << byte_size(bytes) << " in "
            << counted(set.index().shards(), "shard") << (set.has_label_maps() ? ", label maps" : "")
            << (set.pixels_changed() ? ", pixels changed (quality " + std::to_string(set.index().head().quality) + ")"
                                     : std::string{})
            << '\n';
}

int verify(options const& o) {
  if (!o.output.empty()) throw usage_error{"--verify takes one set"};
  dm2::packed_set const set{o.input};
  progress_bar bar{set.size()};
  dm2::check_options how{.threads = o.threads, .decode = o.decode};
  how.decoding = {.max_pixels = o.max_pixels, .max_scans = o.max_scans};
  how.progress = [&](std::size_t done) {
    bar.show(done);
    return !stop_requested;
  };
  dm2::check_report const report = dm2::verify_packed_set(o.input, how);
  bar.clear();
  print_problems(report.listed, report.problems);
  if (report.samples < set.size()) return exit_stopped;
  describe_set(o.input, set);
  std::cout << (report.problems == 0 ? "every byte is as it was written\n"
                                     : grouped(report.problems) + " damaged or missing\n");
  return report.problems == 0 ? exit_ok : exit_incomplete;
}

dm2::pack_options how_to_pack(options const& o, progress_bar& bar) {
  dm2::pack_options how;
  how.side = o.side;
  how.quality = o.quality;
  how.shard_bytes = std::uint64_t(o.shard) << 20;
  how.threads = o.threads;
  how.decoding = {.max_pixels = o.max_pixels, .max_scans = o.max_scans};
  how.progress = [&](std::size_t done) {
    bar.show(done);
    return !stop_requested;
  };
  return how;
}

int pack(options const& o) {
  watch_stop_signals();
  if (o.verify) return verify(o);
  if (o.output.empty()) throw usage_error{"no SET to write; or --verify is missing"};
  dm2::dataset const set{o.input, {.label_maps = o.labels}};
  if (o.quality != 0) std::cerr << "pack: note: with --quality the set's pixels are not the folder's\n";
  dm2::detail::make_synced_folders(o.output);
  std::optional<dm2::run_lock> lock;
  try {
    lock.emplace(o.output);
  } catch (dm2::folder_in_use const& problem) {
    throw usage_error{problem.what()};
  }
  progress_bar bar{set.size()};
  dm2::pack_report const report = dm2::pack_pictures(set, o.output, how_to_pack(o, bar));
  bar.clear();
  print_problems(report.listed, report.problems);
  if (!report.whole) {
    std::cout << "stopped after " << grouped(report.records) << " of " << counted(set.size(), "picture")
              << "; the same command goes on\n";
    return exit_stopped;
  }
  describe_set(o.output, dm2::packed_set{o.output});
  std::cout << counted(report.forms[1], "JPEG") << " with restart markers, " << grouped(report.forms[2])
            << " encoded anew, " << counted(report.forms[0], "picture") << " byte by byte; "
            << byte_size(report.source_bytes) << " of files";
  if (report.taken_over > 0)
    std::cout << "; " << grouped(report.taken_over) << (report.taken_over == 1 ? " was" : " were") << " packed before";
  std::cout << '\n';
  return report.problems == 0 ? exit_ok : exit_incomplete;
}

}  // namespace

extern "C" int pack_command(int argc, char** argv) {
  CLI::App app{"Packs a folder of pictures into a few large files that train, evaluate and classify read.", "pack"};
  app.footer(footer);
  options o;
  add_options(app, o);
  return run_program(app, argc, argv, [&] { return pack(o); });
}
