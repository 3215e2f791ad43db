// Readers of text.
#include <dm2/io/class_list.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/train/log/csv_log.hpp>
#include <dm2/train/log/csv_table.hpp>

#include "fuzz/support.hpp"
#include "fuzz/targets.hpp"

#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace dm2::fuzz {
namespace {

bool class_list(std::span<std::byte const> bytes) {
  memory_file const file{bytes};
  return reads(file.path(), [&] {
    for (std::string const& one : read_class_list(file.path()))
      if (one.empty() || one.size() > bytes.size() || !detail::is_utf8(one)) finding("a class name that is none");
  });
}

bool csv(std::span<std::byte const> bytes) {
  memory_file const file{bytes};
  (void)reads(file.path(), [&] {
    if (detail::bytes_to_keep(file.path(), "step,loss", 100) > bytes.size()) finding("keeps more than there is");
  });
  return reads(file.path(), [&] {
    csv_table const table = read_csv(file.path());
    for (auto const& column : table.columns)
      if (column.size() != table.columns.front().size()) finding("columns of different lengths");
  });
}

/// Text that should be a configuration: it is one, or std::invalid_argument says which field is not.
bool json(std::span<std::byte const> bytes) {
  auto const parsed = detail::parse_json(detail::as_text(bytes));
  if (parsed.is_discarded()) return false;
  (void)config_differences(config{}, parsed);
  (void)config_differences(config{}, config_of_hyper_parameters(parsed));
  (void)parsed.dump();
  try {
    config const c = config_from_json(parsed);
    if (to_json(config_from_json(to_json(c))) != to_json(c)) finding("a configuration that does not come back");
    return true;
  } catch (std::invalid_argument const&) {
    return false;
  }
}

}  // namespace

std::vector<target> text_targets() { return {{"class_list", class_list}, {"csv", csv}, {"json", json}}; }

}  // namespace dm2::fuzz
