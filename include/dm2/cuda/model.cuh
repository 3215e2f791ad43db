/// @file
/// The network on the GPU: `dm2::model<dm2::tiny, dm2::cuda::context<>> net;`
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/augment.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/device/stream.cuh>
#include <dm2/cuda/heads.cuh>
#include <dm2/cuda/inference/trunk.cuh>
#include <dm2/cuda/inference/weights.cuh>
#include <dm2/data/raw_pictures.hpp>
#include <dm2/model/model.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace dm2 {

/// A network of configuration C on a GPU, for inference; its parameters are set through state() on the host, as the
/// CPU's are, and go to the device with the next evaluation.
///
/// An evaluation is one CUDA graph, recorded when a batch size and the addresses of pictures and logits are used for
/// the first time; the 16 graphs used last are kept, and while they are used nothing is allocated. A model moves but
/// does not copy, and must not be used by two threads at a time; several models on several threads do not disturb each
/// other.
template <config C, cuda::precision P>
class model<C, cuda::context<P>> {
 public:
  using scalar = float;              ///< the type of parameters, pictures and logits
  using context = cuda::context<P>;  ///< the backend's context
  /// The context of operations on state(), which is on the host.
  using state_context = cpu::context<float>;
  static constexpr config configuration = C;                            ///< C
  static constexpr image_extent image = C.image;                        ///< height and width of a picture
  static constexpr std::size_t pixels = std::size_t(sizes<C>::pixels);  ///< numbers of one picture
  static constexpr std::size_t classes = std::size_t(C.classes);        ///< logits of one picture
  /// The type of pictures of bytes: [B, height, width, channels] on the device, normalised as it says.
  using bytes_type = cuda::byte_pictures<C.channels>;

  /// All parameters zero: load a checkpoint, or fill state(). Everything is on the current device, on a stream of the
  /// model's own, not on that of `ctx`. Throws shape_error if batch is below 1, cuda::error where memory runs out.
  explicit model(int batch = 1, context ctx = context{})
      : context_{std::move(ctx)}, state_{state_extent<C> * sizeof(float)} {
    arena ruler;
    weights const plan{ruler};
    weights_memory_ = cuda::device_memory{ruler.used()};
    context_.set_stream(stream_.get());
    context_.allow_early_starts();  // refresh() waits for what it writes
    reserve(batch);
  }

  /// Name, shape and place of every entry of the state.
  static constexpr std::span<parameter_entry const> table() { return parameter_table<C>; }
  /// Every floating entry on the host, at its table offset. A call tells the model that they change.
  [[nodiscard]] std::span<float> state() {
    detail::require_memory(state_.data() != nullptr, "dm2::model");
    stale_ = true;
    return {reinterpret_cast<float*>(state_.data()), state_extent<C>};
  }
  /// @copydoc state()
  [[nodiscard]] std::span<float const> state() const {
    detail::require_memory(state_.data() != nullptr, "dm2::model");
    return {reinterpret_cast<float const*>(state_.data()), state_extent<C>};
  }
  /// The tensor of that name, in state(): `net.find("head.weight").values`. Throws std::out_of_range, with the nearest
  /// names, where there is none.
  [[nodiscard]] named_tensor<float> find(std::string_view name) { return find_tensor(table(), state(), name); }
  /// @copydoc find(std::string_view)
  [[nodiscard]] named_tensor<float const> find(std::string_view name) const {
    return find_tensor(table(), state(), name);
  }
  /// BatchNorm's step counts, at their table offset.
  [[nodiscard]] std::span<std::int64_t> counters() { return counters_; }
  /// @copydoc counters()
  [[nodiscard]] std::span<std::int64_t const> counters() const { return counters_; }
  /// The context that every operation of this model runs with.
  [[nodiscard]] context& ctx() { return context_; }

  /// The context of operations on state().
  [[nodiscard]] state_context& state_ctx() { return state_context_; }

  /// Plans memory for evaluations of up to `batch` pictures.
  void reserve(int batch) {
    if (batch < 1) throw shape_error{"model.batch: got " + std::to_string(batch) + ", expected at least 1"};
    detail::require_memory(state_.data() != nullptr, "dm2::model");
    if (batch <= batch_) return;
    done_.synchronize();
    stream_.synchronize();
    graphs_.clear();
    batch_ = 0;  // until there is memory again
    memory_ = {};
    memory_ = cuda::device_memory{planned_bytes<plan>(batch)};
    batch_ = batch;
    context_.plan([&] { enqueue(static_cast<float const*>(nullptr), batch, output::all); });
  }
  /// Pictures that are planned for.
  [[nodiscard]] int batch() const { return batch_; }
  /// Bytes on the device: parameters, activations, scratch.
  [[nodiscard]] std::size_t bytes() const { return weights_memory_.size() + memory_.size() + context_.scratch_bytes(); }

  /// Logits of normalised pictures on the host: head(class token) + max over patches of aux_head(patch) / 2.
  ///
  /// Shapes   pictures [B, channels, height, width]; logits [B, classes].
  /// Writes   logits (=), when it returns.
  /// Throws   shape_error if the sizes disagree; nothing is written then.
  void forward(std::span<float const> pictures, std::span<float> logits) {
    int const batch = detail::picture_count<C>("model.forward.pictures", pictures.size());
    require_extent("model.forward.logits", logits.size(), std::size_t(batch) * classes);
    plan const p = upload(pictures, batch);
    forward_device(p.pictures, batch, p.logits, stream_.get());
    download(p.logits, logits);
  }

  /// The same of raw pictures, whose memory is free again when it returns. Throws shape_error if their size is not the
  /// model's.
  void forward(raw_pictures const& raw, std::span<float> logits) {
    if (raw.size != C.image) throw shape_error{"model.forward: raw pictures of another size than the model's"};
    int const batch = int(raw.tasks.size());
    require_extent("model.forward.logits", logits.size(), std::size_t(batch) * classes);
    reserve(batch);
    refresh();
    plan const p = planned(batch);
    done_.make_wait(stream_.get());
    augment_.enqueue(raw, p.pictures, stream_.get());
    forward_device(p.pictures, batch, p.logits, stream_.get());
    download(p.logits, logits);
  }

  /// Logits of pictures on the device, in the order of `stream`'s work; asynchronous.
  ///
  /// Shapes   pictures [B, channels, height, width] normalised floats, or bytes [B, height, width, channels] with their
  ///          normalisation; logits [B, classes]; both on the device, 16-byte aligned.
  /// Writes   logits (=). Calls on different streams wait for each other, since they share the activations. Another
  ///          address, batch size or normalisation is a graph of its own, and the call that records it evaluates once
  ///          more and may wait for the device: use the same buffers again.
  /// Throws   shape_error for a batch below 1; cuda::error if something cannot be enqueued.
  template <class Pictures>
  void forward_device(Pictures pictures, int batch, float* logits, cudaStream_t stream) {
    reserve(batch);
    refresh();
    recorded& g = record(pictures, batch, logits, stream);
    done_.make_wait(stream);
    g.work.launch(stream);
    done_.record(stream);
  }

  /// What the heads read: every token after the last norm, the class token at sizes<C>::class_token.
  ///
  /// Shapes   pictures [B, channels, height, width]; features [B, length, dim], both on the host.
  /// Writes   features (=).
  /// Throws   shape_error if the sizes disagree; nothing is written then.
  void forward_features(std::span<float const> pictures, std::span<float> features) {
    int const batch = detail::picture_count<C>("model.forward_features.pictures", pictures.size());
    require_extent("model.forward_features.features", features.size(), std::size_t(batch) * sizes<C>::length * C.dim);
    plan const p = upload(pictures, batch);
    enqueue(static_cast<float const*>(p.pictures), batch, output::features);
    std::vector<cuda::element<P>> rounded(features.size());
    download(p.trunk.features, std::span<cuda::element<P>>{rounded});
    for (std::size_t i = 0; i < rounded.size(); ++i) features[i] = cuda::detail::to_float(rounded[i]);
  }

  /// Both heads' logits, the patches' one by one: what the model sees where.
  ///
  /// Shapes   pictures [B, channels, height, width]; cls [B, classes]; patches [B, grid height, grid width, classes].
  /// Writes   cls, patches (=).
  /// Throws   shape_error if the sizes disagree; nothing is written then.
  void forward_patches(std::span<float const> pictures, std::span<float> cls, std::span<float> patches) {
    int const batch = detail::picture_count<C>("model.forward_patches.pictures", pictures.size());
    std::size_t const n = std::size_t(batch);
    require_extent("model.forward_patches.cls", cls.size(), n * classes);
    require_extent("model.forward_patches.patches", patches.size(), n * sizes<C>::tokens * classes);
    plan const p = upload(pictures, batch);
    enqueue(static_cast<float const*>(p.pictures), batch, output::features);
    cuda::device_memory const memory{patches.size() * sizeof(float)};
    float* const logits = reinterpret_cast<float*>(memory.data());
    patch_logits(p, logits, batch);
    download(p.logits, cls);
    download(logits, patches);
  }

 private:
  using weights = cuda::detail::inference_weights<C, P>;
  enum class output { logits, features, all };

  /// Device memory of an evaluation.
  struct plan {
    float* pictures;  ///< a copy of the host's
    float* logits;
    cuda::detail::inference_plan<C, P> trunk;

    plan(arena& a, int batch)
        : pictures{a.take<float>(std::size_t(batch) * pixels)},
          logits{a.take<float>(std::size_t(batch) * classes)},
          trunk{a, batch} {}
  };
  /// A graph, and what it was recorded for.
  struct recorded {
    std::string pictures;  ///< the operand's type and bytes: address and normalisation
    float* logits;
    int batch;
    cuda::graph work;
  };
  static constexpr std::size_t most_graphs = 16;

  plan planned(int batch) {
    arena a{memory_.data(), memory_.size()};
    return plan{a, batch};
  }
  weights weights_view() const {
    arena a{weights_memory_.data(), weights_memory_.size()};
    return weights{a};
  }

  /// Brings the state to the device where it changed.
  void refresh() {
    if (!stale_) return;
    done_.make_wait(stream_.get());  // evaluations in other streams read them
    weights_view().fill(context_, std::as_const(*this).state());
    stale_ = false;
  }

  template <class Pictures>
  void enqueue(Pictures pictures, int batch, output what, float* logits = nullptr) {
    plan const p = planned(batch);
    weights const w = weights_view();
    cuda::detail::inference_features(context_, w, pictures, p.trunk);
    rows<float, C.classes, space::device> const out{logits != nullptr ? logits : p.logits, std::size_t(batch)};
    if (what != output::features) cuda::detail::inference_heads(context_, w, p.trunk, out);
    if (what == output::all) patch_logits(p, nullptr, batch);
  }

  void patch_logits(plan const& p, float* patches, int batch) {
    weights const w = weights_view();
    std::size_t const n = std::size_t(batch);
    training_heads(context_, rows<cuda::element<P>, C.dim, space::device>{p.trunk.features, p.trunk.count},
                   operand(context_, detail::head_operands(w.view())),
                   rows<float, C.classes, space::device>{p.logits, n},
                   rows<float, C.classes, space::device>{patches, n * sizes<C>::tokens}, sizes<C>::length);
  }

  template <class Pictures>
  static std::string key(Pictures const& p) {
    return (std::is_pointer_v<Pictures> ? "f" : "b") + std::string(reinterpret_cast<char const*>(&p), sizeof(p));
  }

  /// The graph for these operands: an old one, or a new one in the place of the one that was used least recently. It is
  /// evaluated once for that, after what `stream` has to do before.
  template <class Pictures>
  recorded& record(Pictures pictures, int batch, float* logits, cudaStream_t stream) {
    std::string name = key(pictures);
    for (auto it = graphs_.begin(); it != graphs_.end(); ++it)
      if (it->pictures == name && it->logits == logits && it->batch == batch) {
        graphs_.splice(graphs_.begin(), graphs_, it);
        return graphs_.front();
      }
    // Once without a graph: scratch grows, products choose their algorithms, kernels are loaded.
    std::size_t const scratch = context_.scratch_bytes();
    context_.plan([&] { enqueue(pictures, batch, output::logits, logits); });
    if (context_.scratch_bytes() != scratch) graphs_.clear();  // they use the old scratch
    done_.make_wait(stream);
    done_.record(stream);
    done_.make_wait(stream_.get());
    enqueue(pictures, batch, output::logits, logits);
    cuda::graph work{stream_, [&] { enqueue(pictures, batch, output::logits, logits); }};
    done_.record(stream_.get());
    if (graphs_.size() == most_graphs) {
      cuda::check(cudaDeviceSynchronize(), "graph: wait for its last use");
      graphs_.pop_back();
    }
    graphs_.push_front(recorded{std::move(name), logits, batch, std::move(work)});
    return graphs_.front();
  }

  plan upload(std::span<float const> pictures, int batch) {
    reserve(batch);
    refresh();
    plan const p = planned(batch);
    done_.make_wait(stream_.get());
    cuda::check(
        cudaMemcpyAsync(p.pictures, pictures.data(), pictures.size_bytes(), cudaMemcpyHostToDevice, stream_.get()),
        "pictures: copy");
    return p;
  }
  template <class T>
  void download(T const* from, std::span<T> to) {
    cuda::check(cudaMemcpyAsync(to.data(), from, to.size_bytes(), cudaMemcpyDeviceToHost, stream_.get()),
                "results: copy");
    stream_.synchronize();
  }

  cuda::stream stream_;
  cuda::augmenter augment_;
  cuda::event done_;
  context context_;
  state_context state_context_{1};
  host_memory state_;
  cuda::device_memory weights_memory_, memory_;
  std::array<std::int64_t, counter_count<C>> counters_{};
  std::list<recorded> graphs_;
  int batch_ = 0;
  bool stale_ = true;
};

}  // namespace dm2
