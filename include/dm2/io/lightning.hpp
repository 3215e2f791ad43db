/// @file
/// Which tensors a torch file offers: a Lightning checkpoint's weights or their running average, a state dict, or
/// whatever tensors were saved.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/bytes.hpp>
#include <dm2/io/pickle/json.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/torch_file.hpp>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace dm2 {

/// Which of a checkpoint's weights to read.
///
/// A Lightning checkpoint of a run with an exponential moving average holds two sets: the state dict, and the averages
/// among the callbacks' states. A file called `...-EMA.ckpt` holds the averages in both places.
enum class weights {
  automatic,  ///< the averages where the file holds them, else the state dict: what validation is run on
  raw,        ///< the state dict
  ema         ///< the averages; an error where the file holds none
};

/// A torch file's tensors.
struct torch_content {
  std::vector<stored_tensor> tensors;  ///< In the file's order.
  nlohmann::json hyper_parameters;     ///< Lightning's `hyper_parameters`; null where there are none.
  bool lightning = false;              ///< Whether it is a Lightning checkpoint.
  bool averaged = false;               ///< Whether the tensors are the running averages.
};

namespace detail {

class torch_content_reader {
 public:
  explicit torch_content_reader(torch_file const& file) : file_{file} {}

  torch_content operator()(weights which) {
    pickle_value const root = file_.root();
    torch_content out;
    auto const state = root.find("state_dict");
    out.lightning = state && root.find("pytorch-lightning_version").has_value();
    if (auto const found = root.find("hyper_parameters"))
      out.hyper_parameters = pickle_as_json(*found, file_.path(), 8 * file_.pickle_size() + 4096);
    auto const averages = which == weights::raw ? std::nullopt : find_averages(root);
    if (which == weights::ema && !averages) fail("holds no EMA weights (no callback with a list 'ema_weights')");
    if (state)
      out.tensors = averages ? averaged(*state, *averages) : named(*state, "state_dict");
    else if (auto const model = root.find("model"); model && model->is(pickle_kind::dict))
      out.tensors = named(*model, "model");
    else
      out.tensors = plain(root);
    out.averaged = state && averages;
    return out;
  }

 private:
  [[noreturn]] void fail(std::string const& reason) const { throw file_error{file_.path(), reason}; }

  /// A dict of tensors by name.
  std::vector<stored_tensor> named(pickle_value dict, std::string_view what) const {
    if (!dict.is(pickle_kind::dict)) fail(std::string{what} + " is " + dict.describe() + ", not a dict of tensors");
    std::unordered_set<std::string_view> seen;
    std::vector<stored_tensor> out;
    out.reserve(dict.size());  // in the file, each entry takes 4 bytes or more
    for (std::size_t i = 0; i < dict.size(); ++i) {
      auto const [key, value] = dict.item(i);
      if (!key.as_text() || !is_utf8(key.raw())) fail(std::string{what} + " has " + key.describe() + " as a name");
      if (!seen.insert(key.raw()).second) fail(std::string{what} + " names '" + std::string{key.raw()} + "' twice");
      out.push_back(file_.tensor(value, std::string{key.raw()}));
    }
    return out;
  }

  /// One tensor ("tensor"), a tuple or list of them ("0", "1", ...), or a dict.
  std::vector<stored_tensor> plain(pickle_value root) const {
    std::vector<stored_tensor> out;
    if (torch_file::is_tensor(root)) {
      out.push_back(file_.tensor(root, "tensor"));
    } else if (root.is_sequence()) {
      for (std::size_t i = 0; i < root.size(); ++i) out.push_back(file_.tensor(root[i], std::to_string(i)));
    } else if (root.is(pickle_kind::dict)) {
      out = named(root, "the file's dict");
    } else {
      fail("holds " + root.describe() + ", not tensors");
    }
    return out;
  }

  /// callbacks / EMA / ema_weights, or under another callback's name where only one has such a list.
  std::optional<pickle_value> find_averages(pickle_value root) const {
    auto const callbacks = root.find("callbacks");
    if (!callbacks) return std::nullopt;
    auto const list_in = [](pickle_value state) {
      auto const list = state.find("ema_weights");
      return list && list->is_sequence() ? list : std::nullopt;
    };
    if (auto const ema = callbacks->find("EMA"))
      if (auto const list = list_in(*ema)) return list;
    std::optional<pickle_value> found;
    for (std::size_t i = 0; callbacks->is(pickle_kind::dict) && i < callbacks->size(); ++i)
      if (auto const list = list_in(callbacks->item(i).second)) {
        if (found) fail("several callbacks hold 'ema_weights', none of them called EMA");
        found = list;
      }
    return found;
  }

  /// The averages under the state dict's names. The list has one tensor an entry (integer entries too, as the published
  /// callback writes it) or one a floating-point entry; then the state dict's own integers complete it.
  std::vector<stored_tensor> averaged(pickle_value state, pickle_value list) const {
    std::vector<stored_tensor> out = named(state, "state_dict");
    std::size_t floating = 0;
    for (stored_tensor const& t : out) floating += is_floating(t.type) ? 1 : 0;
    bool const all = list.size() == out.size();
    if (!all && list.size() != floating)
      fail("ema_weights has " + std::to_string(list.size()) + " tensors, the state dict has " +
           std::to_string(out.size()) + " (" + std::to_string(floating) + " of them floating-point)");
    std::size_t next = 0;
    for (stored_tensor& t : out) {
      if (!all && !is_floating(t.type)) continue;
      stored_tensor average = file_.tensor(list[next++], t.name);
      if (average.shape != t.shape || is_floating(average.type) != is_floating(t.type))
        fail("ema_weights: '" + t.name + "' has shape " + shape_text(average.shape) + " of " +
             std::string{name_of(average.type)} + ", the state dict " + shape_text(t.shape) + " of " +
             std::string{name_of(t.type)});
      t = std::move(average);
    }
    return out;
  }

  torch_file const& file_;
};

}  // namespace detail

/// The tensors of a torch file:
///
/// * a Lightning checkpoint, or any dict with a dict `state_dict` (or `model`): its entries, under their names;
/// * a dict of tensors: its entries; a list or tuple: "0", "1", ...; a single tensor: "tensor".
///
/// Nothing is left out: an entry among the tensors that is none is an error that names it, and so is a name given
/// twice. Whatever else a checkpoint holds (loops, optimizer, callbacks) is not looked at.
[[nodiscard]] inline torch_content read_torch_content(torch_file const& file, weights which = weights::automatic) {
  return detail::torch_content_reader{file}(which);
}

}  // namespace dm2
