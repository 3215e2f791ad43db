// Finds the model of a file or of a run: see models.hpp.
#include "models.hpp"

#include <dm2/run/config_of_file.hpp>

#include "text.hpp"
#include "weights_file.hpp"

#include <iostream>
#include <optional>

namespace dm2::example {

config choose_model(std::string const& program, tensor_file const& file, model_flags const& flags) {
  told_model const told = settle(flags, config_of(file, said_fields(flags)), std::nullopt);
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
  for (std::string const& line : told.notices) std::cerr << "train: note: " << printable(line) << '\n';
  return told;
}

}  // namespace dm2::example
