// Opens a model for C: see opened_model.hpp.
#include "opened_model.hpp"

#include <dm2/core/error.hpp>
#include <dm2/io/checkpoint.hpp>
#include <dm2/io/class_names.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/finite.hpp>
#include <dm2/model/model_table.hpp>
#include <dm2/run/config_of_file.hpp>
#include <dm2/run/hub_folder.hpp>
#include <dm2/run/network_file.hpp>

#include <algorithm>
#include <iterator>
#include <utility>

std::span<float const> dm2_model::logits(dm2::picture const& kept) {
  if (!pictures) pictures = net->make_classifier(1, false);
  auto computing = std::exchange(pictures, nullptr);  // one that throws may have a batch left in it, and is made anew
  std::copy(kept.pixels.begin(), kept.pixels.end(), computing->staging().begin());
  computing->submit(1);
  std::span<float const> const out = computing->take().logits;
  pictures = std::move(computing);
  return out;
}

namespace dm2::c {
namespace {

/// Throws failure where weights that the model reads are not finite; those that nothing reads are notices.
void require_finite_weights(config const& c, tensor_file const& file, std::vector<std::string>& notices) {
  model_table const model{c};
  std::span<parameter_entry const> const table = model.entries();
  auto const fit = dm2::detail::fit_model(c, table, file);
  if (!fit.differences.empty()) return;  // load says them
  std::string text;
  for (std::size_t i = 0; i < table.size(); ++i) {
    require_checksum(*fit.match.entries[i], file.path());
    std::string line = not_finite_text(*fit.match.entries[i]);
    if (line.empty()) continue;
    if (table[i].kind == entry_kind::unused)
      notices.push_back(std::move(line));
    else
      text += "\n  " + line;
  }
  if (!text.empty()) throw failure{DM2_NUMBERS, file.path().string() + ": its weights are not finite numbers" + text};
}

}  // namespace

handle_table<dm2_model>& open_models() {
  // never destroyed: other threads may be in a call while the program ends
  static auto* const table = new handle_table<dm2_model>{"dm2_model"};
  return *table;
}

std::vector<std::string> file_class_names(tensor_file const& file, std::size_t classes,
                                          std::vector<std::string>& notices) {
  try {
    std::vector<std::string> names = read_class_names(file);
    if (names.empty() || names.size() == classes) return names;
    notices.push_back("holds " + std::to_string(names.size()) + " class names, the model has " +
                      std::to_string(classes) + " classes: they are left out");
  } catch (file_error const& problem) {
    notices.emplace_back(problem.what());
  }
  return {};
}

std::shared_ptr<dm2_model> open_model(char const* path, dm2_open_options const& options) {
  auto out = std::make_shared<dm2_model>();
  out->where = find_place(options.device, options.precision);
  require_range<std::int32_t>("threads", options.threads, 0, 1024);
  require_range<std::int32_t>("reserved", options.reserved, 0, 0);
  nlohmann::json const said = said_fields(options.configuration, "configuration");
  tensor_file const file{path, find_weights(options.weights)};
  told_model told = config_of(file, said);
  out->configuration = told.configuration;
  out->name = told.name;
  out->configuration_text = to_json(told.configuration).dump();
  out->averaged = file.averaged();
  out->origin = weights_origin(file);
  out->notices.assign(file.notices().begin(), file.notices().end());
  std::move(told.notices.begin(), told.notices.end(), std::back_inserter(out->notices));
  require_finite_weights(out->configuration, file, out->notices);
  out->class_names = file_class_names(file, std::size_t(out->configuration.classes), out->notices);
  code_wishes const wishes{options.compile != 0, options.cache_folder, options.say, options.say_context};
  run::model_code const& code = find_code(out->configuration, out->where.backend, wishes);
  on_device(out->where.gpu(), [&] {
    out->net = code.make_network(1, options.threads);
    for (std::string& line : run::load(*out->net, file))
      if (std::find(out->notices.begin(), out->notices.end(), line) == out->notices.end())
        out->notices.push_back(std::move(line));
  });
  out->tensor_names.reserve(out->net->table().size());
  for (parameter_entry const& e : out->net->table()) out->tensor_names.emplace_back(e.name);
  out->parameters = model_table{out->configuration}.parameter_count();
  return out;
}

}  // namespace dm2::c
