// Tensor files to safetensors, and what is in them. See README.md, or run with --help.
#include <dm2/demansia.hpp>

#include <CLI/CLI.hpp>

#include "../support/command_line.hpp"
#include "../support/commands.hpp"
#include "../support/listing.hpp"
#include "../support/model_flags.hpp"
#include "../support/model_metadata.hpp"
#include "../support/weights_file.hpp"

#include <array>
#include <cstddef>
#include <filesystem>
#include <iostream>
#include <map>
#include <string>
#include <system_error>
#include <vector>

namespace {

using namespace dm2::example;
namespace fs = std::filesystem;

struct options {
  fs::path input, output, names;
  model_flags model;
  weights_flags weights;
  bool list = false, metadata = false, verify = false, force = false;
};

constexpr char const* footer =
    R"(INPUT may be a Lightning .ckpt, a torch .pt (either format) or safetensors; its content tells, not its name.
Tensors are written as they are stored, under their names. A safetensors file's metadata is kept; a Lightning
checkpoint's hyper-parameters become metadata, as JSON, and so does the model's configuration where they tell it.
classify finds the class names that --names stores. What of INPUT is left out, and which tensors hold numbers that are
not finite, is noted on stderr and does not change the exit code.

Exit codes:
  0  done
  1  the list or the metadata could not be printed, or --verify found no checksums to compare
  2  the command line makes no sense, or OUTPUT exists and --force was not given
  3  a file could not be read or written, or is refused

Examples:
  convert --list --metadata model.ckpt
  convert "DeMansia 2 Tiny EMA.ckpt" tiny.safetensors --names imagenet_classes.txt)";

void add_options(CLI::App& app, options& o) {
  app.add_option("INPUT", o.input, "The file to read")->required()->type_name("");
  app.add_option("OUTPUT", o.output, "The safetensors file to write")->type_name("");
  app.add_flag("-l,--list", o.list, "Print every tensor's name, type and shape, and their total");
  app.add_flag("--metadata", o.metadata, "Print the file's metadata and hyper-parameters as JSON");
  app.add_flag("--verify", o.verify, "Read all of a training checkpoint and compare each tensor's checksum");
  add_weights_flags(app, o.weights);
  app.add_option("-n,--names", o.names, "Class names to store, one a line; ImageNet's lists too")->type_name("FILE");
  app.add_flag("-f,--force", o.force, "Replace OUTPUT where it exists");
  add_model_flags(app, o.model);
}

void check(options const& o) {
  if (o.output.empty() && !o.list && !o.metadata && !o.verify)
    throw usage_error{"nothing to do: give OUTPUT, --list, --metadata or --verify"};
  if (o.output.empty() && !o.names.empty()) throw usage_error{"--names needs an OUTPUT to store them in"};
  if (o.output.empty() && given(o.model)) throw usage_error{"--model needs an OUTPUT to store the configuration in"};
  std::error_code ignored;
  if (!o.output.empty() && fs::equivalent(o.input, o.output, ignored) && !o.force)
    throw usage_error{o.output.string() + " is INPUT itself; --force replaces it"};
  if (!o.output.empty() && fs::exists(fs::symlink_status(o.output, ignored)) && !o.force)
    throw usage_error{o.output.string() + " exists; --force replaces it"};
}

/// Throws usage_error where OUTPUT would replace an input that holds more than is written.
void check_replaced(options const& o, dm2::tensor_file const& file) {
  refuse_output_onto_input("OUTPUT", o.output, std::array{o.names});
  std::error_code ignored;
  bool const itself = !o.output.empty() && fs::equivalent(o.input, o.output, ignored);
  if (itself && (file.format() != dm2::file_format::safetensors || file.metadata().contains(dm2::training_key)))
    throw usage_error{o.output.string() +
                      " is INPUT itself, a checkpoint that holds more than is written; give another "
                      "name"};
}

/// Compares every tensor of the file with its checksum; false where it states none. Throws file_error where one
/// differs.
bool verified(options const& o, dm2::tensor_file const& file) {
  bool const stated = file.format() == dm2::file_format::safetensors && dm2::verify_checkpoint(o.input);
  std::string const name = printable(o.input.string());
  if (stated)
    std::cout << name << ": every tensor has the checksum with which it was written\n";
  else
    std::cerr << "convert: note: " << name << ": states no checksums, so that nothing can be compared\n";
  return stated;
}

int convert(options const& o) {
  check(o);
  dm2::tensor_file const file{o.input, o.weights.chosen()};
  check_replaced(o, file);
  print_notices("convert", file, file.notices());
  print_notices("convert", file, not_finite_lines(file.tensors()));
  if (o.list) print_tensors(std::cout, file);
  if (o.metadata) print_metadata(std::cout, file);
  bool const whole = !o.verify || verified(o, file);
  if (o.output.empty()) return whole ? exit_ok : exit_incomplete;
  for (dm2::stored_tensor const& t : file.tensors()) dm2::require_checksum(t, file.path());
  dm2::write_safetensors(o.output, file.tensors(), metadata_to_write(file, o.model, o.names));
  return whole ? exit_ok : exit_incomplete;
}

}  // namespace

extern "C" int convert_command(int argc, char** argv) {
  CLI::App app{"Converts model and tensor files to safetensors, and lists what is in them.", "convert"};
  app.footer(footer);
  options o;
  add_options(app, o);
  return run_program(app, argc, argv, [&] { return convert(o); });
}
