// dm2.Model's compiled part: a network of the run-time interface, from a file or new.
#include <dm2/cpu/context.hpp>
#include <dm2/data/classify.hpp>
#include <dm2/io/class_names.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/io/onnx/options.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/model_table.hpp>
#include <dm2/run/network_export.hpp>
#include <dm2/run/network_file.hpp>
#include <dm2/train/initialise.hpp>

#include "../../../examples/support/devices.hpp"
#include "../../../examples/support/models.hpp"
#include "../../../examples/support/weights_file.hpp"
#include "pictures.hpp"

#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace dm2::python {

namespace {

using example::chosen_device;
using example::model_flags;

/// Where a model computes.
struct place {
  std::string device, precision;
  int threads = 0, batch = 0;
};

weights weights_set(std::string const& name) {
  if (name == "auto") return weights::automatic;
  if (name == "ema") return weights::ema;
  if (name == "raw") return weights::raw;
  throw std::invalid_argument{"weights is '" + name + "', expected auto, ema or raw"};
}

model_flags flags_of(std::string const& model, std::string const& fields) {
  model_flags out{model, dm2::detail::parse_json(fields)};
  (void)config_from_json(out.given);  // names a field that there is not
  return out;
}

/// What the second argument of forward chooses.
enum class wanted { logits, features, patches };

/// input (normalised, unit or bytes), half, features, patches, external_data, chunk.
using onnx_choice = std::tuple<std::string, bool, bool, bool, bool, int>;

class model {
 public:
  model(config const& c, place const& where) : device_{choose(where)}, batch_{where.batch} {
    if (batch_ == 0) batch_ = device_.gpu ? 64 : 8;
    if (batch_ < 1 || batch_ > 1024) throw std::invalid_argument{"batch is not from 1 to 1024"};
    net_ = example::find_model_code("dm2", c, device_).make_network(batch_, device_.threads);
  }

  /// Of a file's weights.
  static std::unique_ptr<model> load(std::string const& path, std::string const& named, std::string const& fields,
                                     std::string const& set, place const& where) {
    nb::gil_scoped_release const released;
    tensor_file const file{path, weights_set(set)};
    told_model const told = example::tell_model(file, flags_of(named, fields));
    std::vector<std::string> notices = told.notices;
    std::vector<std::string> const more = example::sound_weights_notices(told.configuration, file);
    notices.insert(notices.end(), more.begin(), more.end());
    auto out = std::make_unique<model>(told.configuration, where);
    (void)run::load(*out->net_, file);
    out->origin_ = weights_origin(file);
    out->notices_ = std::move(notices);
    auto names = read_class_names(file);
    if (names.size() == std::size_t(told.configuration.classes))
      out->names_ = std::move(names);
    else if (!names.empty())
      out->notices_.push_back("holds " + std::to_string(names.size()) + " class names, the model has " +
                              std::to_string(told.configuration.classes) + " classes: they are left out");
    return out;
  }
  /// With the first weights of a training.
  static std::unique_ptr<model> create(std::string const& named, std::string const& fields, std::uint64_t seed,
                                       place const& where) {
    nb::gil_scoped_release const released;
    told_model const told = example::settle(flags_of(named, fields), std::nullopt, std::nullopt);
    auto out = std::make_unique<model>(told.configuration, where);
    initialise(told.configuration, out->net_->table(), out->net_->state(), out->net_->counters(), seed);
    out->origin_ = "the first weights of a training, seed " + std::to_string(seed);
    return out;
  }

  [[nodiscard]] std::string configuration() const { return to_json(net_->configuration()).dump(); }
  [[nodiscard]] std::string name() const { return name_of(net_->configuration()); }
  [[nodiscard]] std::string device() const { return device_.gpu ? "cuda" : "cpu"; }
  /// The GPU that it is on; none on the CPU.
  [[nodiscard]] std::optional<int> device_index() const {
    run::device_network const* const net = net_->on_device();
    return net == nullptr ? std::nullopt : std::optional{net->device()};
  }
  [[nodiscard]] std::string precision() const { return device_.gpu ? device_.precision : "fp32"; }
  [[nodiscard]] std::vector<std::string> const& names() const { return names_; }
  [[nodiscard]] std::vector<std::string> const& notices() const { return notices_; }
  void set_names(std::vector<std::string> names) {
    std::size_t const classes = std::size_t(net_->configuration().classes);
    if (!names.empty() && names.size() != classes)
      throw std::invalid_argument{"there are " + std::to_string(names.size()) + " class names, the model has " +
                                  std::to_string(classes) + " classes"};
    names_ = std::move(names);
  }

  /// Normalised pictures [B, channels, height, width] in; one array out, or two for patches.
  [[nodiscard]] nb::object forward(read_array<float> const& pictures, wanted what) {
    config const& c = net_->configuration();
    std::size_t const rows = std::size_t(c.image.height / c.patch), columns = std::size_t(c.image.width / c.patch);
    std::size_t const n = require_pictures(pictures), classes = std::size_t(c.classes), tokens = rows * columns;
    std::size_t const each = what == wanted::features ? (tokens + 1) * std::size_t(c.dim) : classes;
    made_array<float> first{n * each}, patches{what == wanted::patches ? n * tokens * classes : 0};
    {
      nb::gil_scoped_release const released;
      std::scoped_lock const lock{mutex_};
      for (std::size_t at = 0; at < n; at += std::size_t(batch_)) {
        std::size_t const count = std::min(n - at, std::size_t(batch_)), pixels = pictures.size() / n;
        std::span const in{pictures.data() + at * pixels, count * pixels};
        std::span const out{first.data() + at * each, count * each};
        if (what == wanted::logits) net_->forward(in, out);
        if (what == wanted::features) net_->forward_features(in, out);
        std::size_t const maps = tokens * classes;
        if (what == wanted::patches) net_->forward_patches(in, out, {patches.data() + at * maps, count * maps});
      }
    }
    if (what == wanted::features) return nb::cast(first.give({n, tokens + 1, std::size_t(c.dim)}));
    nb::object const logits = nb::cast(first.give({n, classes}));
    return what == wanted::logits ? logits : nb::make_tuple(logits, patches.give({n, rows, columns, classes}));
  }

  /// Logits of normalised pictures on the model's GPU, read and written where they lie, in the order of `stream`'s
  /// work. Both begin at a multiple of 16 bytes.
  void forward_device(device_array<float const> const& pictures, device_array<float> const& logits,
                      std::uintptr_t stream) {
    run::device_network* const net = net_->on_device();
    if (net == nullptr || pictures.device_id() != net->device() || logits.device_id() != net->device())
      throw std::invalid_argument{"pictures are on another device than the model"};
    std::size_t const n = require_pictures(pictures), classes = std::size_t(net_->configuration().classes);
    if (logits.ndim() != 2 || logits.shape(0) != n || logits.shape(1) != classes)
      throw shape_error{"logits: expected [" + std::to_string(n) + ", " + std::to_string(classes) + "]"};
    nb::gil_scoped_release const released;
    std::scoped_lock const lock{mutex_};
    std::size_t const most = (std::size_t(batch_) + 3) / 4 * 4;  // so that each part begins at such a multiple, too
    for (std::size_t at = 0; at < n; at += most) {
      std::size_t const count = std::min(n - at, most), pixels = pictures.size() / n;
      net->forward_device(pictures.data() + at * pixels, int(count), logits.data() + at * classes,
                          reinterpret_cast<void*>(stream));
    }
  }

  /// Logits of pictures of any size, after the evaluation transform: the program's numbers.
  [[nodiscard]] nb::object picture_logits(nb::list const& pictures) {
    std::vector<picture_source> sources;
    sources.reserve(pictures.size());
    for (nb::handle const one : pictures) sources.emplace_back(one);
    std::size_t const n = sources.size(), classes = std::size_t(net_->configuration().classes);
    made_array<float> out{n * classes};
    {
      nb::gil_scoped_release const released;
      std::scoped_lock const lock{mutex_};
      if (!classifier_) classifier_ = net_->make_classifier(batch_, false);
      for (std::size_t at = 0; at < n; at += std::size_t(batch_)) {
        std::size_t const count = std::min(n - at, std::size_t(batch_));
        stage(std::span{sources}.subspan(at, count));
        classifier_->submit(int(count));
        auto const logits = classifier_->take().logits;
        std::copy(logits.begin(), logits.end(), out.data() + at * classes);
      }
    }
    return nb::cast(out.give({n, classes}));
  }

  /// (name, array, kind) of each entry of the state; arrays are the network's own memory.
  [[nodiscard]] static nb::list entries(nb::handle self) {
    model& m = nb::cast<model&>(self);
    nb::list out;
    for (parameter_entry const& e : m.net_->table()) {
      std::vector<std::size_t> shape;
      for (int i = 0; i < e.rank; ++i) shape.push_back(std::size_t(e.shape[std::size_t(i)]));
      std::string const name{e.name};
      if (e.kind == entry_kind::counter)
        out.append(nb::make_tuple(name,
                                  nb::ndarray<nb::numpy, std::int64_t>{m.net_->counters().data() + e.offset,
                                                                       shape.size(), shape.data(), self},
                                  "counter"));
      else
        out.append(nb::make_tuple(
            name, nb::ndarray<nb::numpy, float>{m.net_->state().data() + e.offset, shape.size(), shape.data(), self},
            e.kind == entry_kind::statistic ? "statistic" : "parameter"));
    }
    return out;
  }

  /// The weights may have been written to through entries(): what was made of them is made anew.
  void weights_changed() {
    nb::gil_scoped_release const released;
    std::scoped_lock const lock{mutex_};
    classifier_.reset();
    (void)net_->state();
    changed_ = true;
  }

  void save(std::string const& path, std::map<std::string, std::string> metadata) {
    nb::gil_scoped_release const released;
    std::scoped_lock const lock{mutex_};
    if (!names_.empty() && !metadata.contains(class_names_key)) metadata[class_names_key] = class_names_text(names_);
    run::save(*net_, path, std::move(metadata));
  }

  /// Writes an ONNX file.
  void export_onnx(std::string const& path, onnx_choice const& choice) {
    nb::gil_scoped_release const released;
    std::scoped_lock const lock{mutex_};
    run::write_onnx(*net_, options_of(choice), path);
  }
  /// Writes a folder for model hubs.
  void export_hub(std::string const& folder, onnx_choice const& choice) {
    nb::gil_scoped_release const released;
    std::scoped_lock const lock{mutex_};
    run::write_hub_folder(*net_, origin_ + (changed_ ? ", changed since" : ""), options_of(choice), folder);
  }

 private:
  static chosen_device choose(place const& where) {
    if (where.threads < 0 || where.threads > 1024) throw std::invalid_argument{"threads is not from 0 to 1024"};
    if (where.device != "auto" && where.device != "cpu" && where.device != "cuda")
      throw std::invalid_argument{"device is '" + where.device + "', expected auto, cpu or cuda"};
    auto const& known = example::precision_names;
    if (!where.precision.empty() && std::find(known.begin(), known.end(), where.precision) == known.end())
      throw std::invalid_argument{"precision is '" + where.precision + "', expected bf16, fp16, fp32 or tf32"};
    return example::choose_device({where.device, where.precision, where.threads, {}, {}});
  }
  [[nodiscard]] onnx_options options_of(onnx_choice const& choice) const {
    auto const& [input, half, features, patches, external_data, chunk] = choice;
    onnx_options o{.half = half,
                   .features = features,
                   .patches = patches,
                   .external_data = external_data,
                   .chunk = chunk,
                   .class_names = names_};
    if (input == "bytes")
      o.input = onnx_input::bytes;
    else if (input == "unit")
      o.input = onnx_input::unit;
    else if (input != "normalised")
      throw std::invalid_argument{"input is '" + input + "', expected normalised, unit or bytes"};
    return o;
  }
  template <class Array>
  [[nodiscard]] std::size_t require_pictures(Array const& a) const {
    config const& c = net_->configuration();
    std::vector<std::size_t> const want{std::size_t(c.channels), std::size_t(c.image.height),
                                        std::size_t(c.image.width)};
    bool good = a.ndim() == 4;
    for (std::size_t i = 0; good && i < 3; ++i) good = a.shape(i + 1) == want[i];
    if (good) return a.shape(0);
    std::string shape;
    for (std::size_t i = 0; i < a.ndim(); ++i) shape += (i == 0 ? "" : ", ") + std::to_string(a.shape(i));
    throw shape_error{"pictures: got [" + shape + "], expected [batch, " + std::to_string(want[0]) + ", " +
                      std::to_string(want[1]) + ", " + std::to_string(want[2]) + "]"};
  }
  /// Decodes and transforms pictures into the classifier's buffer, on the threads that compute.
  void stage(std::span<picture_source const> sources) {
    image_extent const crop = classifier_->crop();
    std::span<std::uint8_t> const to = classifier_->staging();
    std::vector<std::exception_ptr> problems(sources.size());
    cpu::context<float> threads{device_.threads};
    threads.for_each(int(sources.size()), [&](int i, arena&) {
      try {
        picture const p = sources[std::size_t(i)].evaluated(crop, evaluation_resize(crop));
        std::copy(p.pixels.begin(), p.pixels.end(), to.data() + std::size_t(i) * classifier_->pixels());
      } catch (...) {
        problems[std::size_t(i)] = std::current_exception();
      }
    });
    for (std::exception_ptr const& p : problems)
      if (p) std::rethrow_exception(p);
  }

  chosen_device device_;
  int batch_;
  std::unique_ptr<run::network> net_;
  std::unique_ptr<run::classifier> classifier_;
  std::vector<std::string> names_, notices_;
  std::string origin_;    ///< of what the weights are, for a model card
  bool changed_ = false;  ///< the caller may have written to them
  std::mutex mutex_;
};

/// The k best classes of each row, with probabilities.
auto best(read_array<float> const& logits, int k) {
  if (logits.ndim() != 2) throw shape_error{"logits: expected [batch, classes]"};
  std::vector<std::vector<std::pair<int, float>>> out(logits.shape(0));
  nb::gil_scoped_release const released;
  for (std::size_t i = 0; i < out.size(); ++i)
    for (prediction const& p : top_k(std::span{logits.data() + i * logits.shape(1), logits.shape(1)}, k))
      out[i].emplace_back(p.index, p.probability);
  return out;
}

}  // namespace

void add_model(nb::module_& m) {
  nb::enum_<wanted>(m, "Wanted")
      .value("logits", wanted::logits)
      .value("features", wanted::features)
      .value("patches", wanted::patches);
  auto const at = [](std::string device, std::string precision, int threads, int batch) {
    return place{std::move(device), std::move(precision), threads, batch};
  };
  nb::class_<model>{m, "Model"}
      .def_static(
          "load",
          [at](std::string const& path, std::string const& named, std::string const& fields, std::string const& set,
               std::string const& device, std::string const& precision, int threads,
               int batch) { return model::load(path, named, fields, set, at(device, precision, threads, batch)); },
          nb::arg("path"), nb::arg("model"), nb::arg("fields"), nb::arg("weights"), nb::arg("device"),
          nb::arg("precision"), nb::arg("threads"), nb::arg("batch"))
      .def_static(
          "create",
          [at](std::string const& named, std::string const& fields, std::uint64_t seed, std::string const& device,
               std::string const& precision, int threads,
               int batch) { return model::create(named, fields, seed, at(device, precision, threads, batch)); },
          nb::arg("model"), nb::arg("fields"), nb::arg("seed"), nb::arg("device"), nb::arg("precision"),
          nb::arg("threads"), nb::arg("batch"))
      .def_prop_ro("configuration", &model::configuration)
      .def_prop_ro("name", &model::name)
      .def_prop_ro("device", &model::device)
      .def_prop_ro("device_index", &model::device_index)
      .def_prop_ro("precision", &model::precision)
      .def_prop_ro("notices", &model::notices)
      .def_prop_rw("class_names", &model::names, &model::set_names)
      .def("forward", &model::forward, nb::arg("pictures"), nb::arg("what"))
      .def("forward_device", &model::forward_device, nb::arg("pictures"), nb::arg("logits"), nb::arg("stream"))
      .def("picture_logits", &model::picture_logits, nb::arg("pictures"))
      .def("entries", [](nb::handle self) { return model::entries(self); })
      .def("weights_changed", &model::weights_changed)
      .def("save", &model::save, nb::arg("path"), nb::arg("metadata"))
      .def("export_onnx", &model::export_onnx, nb::arg("path"), nb::arg("choice"))
      .def("export_hub", &model::export_hub, nb::arg("folder"), nb::arg("choice"));
  m.def("best", best, nb::arg("logits"), nb::arg("k"), "(class, probability) of the k best of each row.");
  m.def(
      "address", [](nb::ndarray<nb::ro> const& a) { return std::uintptr_t(a.data()); }, nb::arg("array"),
      "Where an array's numbers lie, as this module receives it.");
}

}  // namespace dm2::python
