/// @file
/// A model with a golden file's parameters.
#pragma once

#include <dm2/model/training_pass.hpp>

#include "support/configurations.hpp"
#include "support/golden.hpp"

#include <string>
#include <vector>

namespace dm2::test {

/// Copies param/NAME of every entry into the model.
template <class M>
void load_parameters(M& net, golden const& g, std::string const& prefix = "param/") {
  for (parameter_entry const& e : net.table()) {
    std::string const name = prefix + std::string{e.name};
    if (e.kind == entry_kind::counter)
      net.counters()[e.offset] = g.get<std::int64_t>(name).front();
    else
      copy_to(g.tensor(name), net.state().subspan(e.offset, e.size));
  }
}

/// The golden target [B, classes, 2 + tokens] as the loss takes it, [B, 2 + tokens, classes].
template <class T>
std::vector<T> classes_last(std::vector<T> const& target, std::size_t batch, std::size_t classes) {
  std::size_t const columns = target.size() / batch / classes;
  std::vector<T> out(target.size());
  for (std::size_t b = 0; b < batch; ++b)
    for (std::size_t c = 0; c < classes; ++c)
      for (std::size_t k = 0; k < columns; ++k)
        out[(b * columns + k) * classes + c] = target[(b * classes + c) * columns + k];
  return out;
}

}  // namespace dm2::test
