// Finds the model of a file or of a run: see models.hpp.
#include "models.hpp"

#include <dm2/run/config_of_file.hpp>
#include <dm2/run/presets.hpp>

#include "text.hpp"
#include "weights_file.hpp"

#include <iostream>
#include <optional>
#include <string>
#include <vector>

namespace dm2::example {

namespace {

/// One line for all that was assumed, where the file has a preset's names and shapes; none where that preset was asked
/// for.
void shorten(told_model& told, model_flags const& flags) {
  if (find_preset(told.name) == nullptr) return;
  auto const assumed = [](std::string const& line) { return line.find(" assumed") != line.npos; };
  if (std::erase_if(told.notices, assumed) > 0 && flags.model != told.name)
    told.notices.push_back("its names and shapes are those of '" + told.name +
                           "', as which it is taken in what they do not tell");
}

}  // namespace

told_model tell_model(tensor_file const& file, model_flags const& flags) {
  told_model told = settle(flags, config_of(file, said_fields(flags)), std::nullopt);
  shorten(told, flags);
  std::erase_if(told.notices, [](std::string const& line) {  // what is said of the file's tensors, too
    return line.starts_with("metadata '") || line.starts_with("hyper_parameters:");
  });
  return told;
}

config choose_model(std::string const& program, tensor_file const& file, model_flags const& flags) {
  told_model const told = tell_model(file, flags);
  print_notices(program, file, told.notices);
  return told.configuration;
}

told_model choose_trained_model(model_flags const& flags, std::filesystem::path const& from,
                                std::filesystem::path const& weights, int classes) {
  std::optional<told_model> stored;
  if (!from.empty()) stored = config_of(tensor_file{from});
  bool const of_weights = !stored && !weights.empty() && flags.model.empty();
  told_model told =
      of_weights ? settle_over(flags, config_of(tensor_file{weights}), classes) : settle(flags, stored, classes);
  shorten(told, flags);
  for (std::string const& line : told.notices) std::cerr << "train: note: " << printable(line) << '\n';
  return told;
}

}  // namespace dm2::example
