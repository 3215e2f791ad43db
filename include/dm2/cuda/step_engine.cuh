/// @file
/// The training loop's steps on the GPU: what trainer<C, cuda::context<P>> computes with.
#pragma once

#include <dm2/cuda/augment.cuh>
#include <dm2/cuda/batch_decoder.cuh>
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/pinned_resource.cuh>
#include <dm2/cuda/device/stopwatch.cuh>
#include <dm2/cuda/device/stream.cuh>
#include <dm2/cuda/memory.cuh>
#include <dm2/cuda/model.cuh>
#include <dm2/cuda/training/input.cuh>
#include <dm2/cuda/training/network.cuh>
#include <dm2/cuda/training/rounds.cuh>
#include <dm2/cuda/training/rule.cuh>
#include <dm2/train/step_engine.hpp>
#include <dm2/train/time_parts.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory_resource>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dm2 {

/// As the CPU's, with weights, gradients, momenta and average on the device.
///
/// A micro-batch is copied to the device while the one before it is computed, and is one CUDA graph there; the
/// optimizer's step is another. Calls return before their work is done. A step's result is fetched while the next one
/// runs, so that what is not finite is thrown a step late; the weights stay as they were before that step.
template <config C, cuda::precision P>
class step_engine<C, cuda::context<P>> {
 public:
  using scalar = float;              ///< the type of weights and gradients
  using context = cuda::context<P>;  ///< the backend's context

  /// What gradients are multiplied by on their way, so that a half has them: at batch 256 a patch's logit has one of
  /// 5e-6, and the smallest normal half is 6e-5.
  static constexpr double loss_scale = P == cuda::precision::fp16 ? 32768 : 1;

  /// Takes all memory on the current device and copies the caller's state there. The processes
  /// exchange through device memory, where their communicator can (device_messages).
  step_engine(model<C, context>& net, optimizer<C, context>& rule, ema<C, context>& average,
              step_options const& options, communicator& processes = one_process())
      : net_{net},
        optimizer_{rule},
        average_{average},
        network_{options.batch, rule.options().tuning.frozen},
        processes_{processes},
        rounds_{network_, processes, options.accumulate},
        rule_{network_, rounds_, rule.options(), options.accumulate, 1 / loss_scale},
        targets_{sizes<C>::stem.grid_height(), sizes<C>::stem.grid_width(), options.smoothing, options.crops},
        inputs_{{cuda::training_input{options.batch, net.pixels, targets_},
                 cuda::training_input{options.batch, net.pixels, targets_}}} {
    push();
  }
  step_engine(step_engine const&) = delete;
  step_engine& operator=(step_engine const&) = delete;

  /// Enqueues a micro-batch; b may go when the call returns. At most options.accumulate may make a step. Throws
  /// shape_error as the CPU's.
  void micro_batch(batch const& b, mix_box box, double scale) {
    detail::require_batch(b, network_.batch(), C.image);
    detail::require_in_grid<C>(box);
    for (int const label : b.labels) require_class("step_engine.micro_batch.labels", label, net_.classes);
    std::size_t const slot = std::exchange(slot_, 1 - slot_);
    auto& in = inputs_[slot];
    in.fill(b, box);
    in.upload(b, augment_, copies_.get());
    cudaStream_t const s = network_.stream().get();
    in.make_wait(s);
    if (places_.empty()) rule_.begin(optimizer_.steps() + 1);
    computing_.begin(s);
    compute(slot, scale * loss_scale);
    computing_.end(s);
    in.release(s);
    if (b.is_raw()) augment_.wait_until_copied();
  }
  /// Enqueues the end of a round of `count` micro-batches, the first of them at `first`. Throws process_error.
  /// `stop`: whether this process was asked to stop; a later step's result says it of them all.
  void finish_round(int count, step_place first, bool stop = false) {
    if (places_.empty() && processes_.rank() >= count) rule_.begin(optimizer_.steps() + 1);
    rule_.finish_round(count, places_.size(), stop);
    for (int r = 0; r < count; ++r, ++first.batch) places_.push_back(first);
  }

  /// Enqueues the end of the step.
  void finish_step(double rate) {
    if (places_.empty()) throw std::logic_error{"dm2::step_engine: a step without a micro-batch"};
    optimizer_.set_steps(optimizer_.steps() + 1);
    rule_.step(optimizer_.steps(), rate, average_.next_decay());
    if (network_.frozen() == 0)
      for (std::int64_t& n : net_.counters()) n += std::int64_t(places_.size());
    unread_.push_back(std::exchange(places_, {}));
  }

  /// As the CPU's; waits where as many steps are under way as may be.
  [[nodiscard]] std::optional<step_result> next_result(bool wait) {
    bool const full = unread_.size() == rule_.depth;
    // Of several processes none may look earlier than the others: what it finds may end the run.
    if (unread_.empty() || (!wait && !full && !rounds_.alone()) || !rule_.ready(wait || full)) return std::nullopt;
    auto const places = std::move(unread_.front());
    unread_.pop_front();
    auto const outcome = rule_.read(places.size());
    for (std::size_t i = 0; i < places.size(); ++i)
      if (!std::isfinite(outcome.losses[i]))
        throw non_finite{"loss", places[i], int(i % std::size_t(processes_.size()))};
    if (outcome.bad != cuda::bad_number::none) throw non_finite{"gradient", places.back()};
    return step_result{outcome.losses, outcome.gradient_norm, outcome.stop};
  }

  /// Copies the state, the momenta and the average to the caller's, when all steps are done, on every process. Throws
  /// process_error.
  void pull() {
    rounds_.share("momentum", rule_.first());
    rounds_.share("second moment", rule_.second());
    rounds_.share("average", rule_.average());
    download(network_.state(), net_.state());
    download(rule_.first(), optimizer_.momentum());
    download(rule_.second(), optimizer_.second_moment());
    download(rule_.average(), average_.state());
    network_.stream().synchronize();
  }
  /// Copies them to the device.
  void push() {
    upload(std::as_const(net_).state(), network_.state());
    upload(optimizer_.momentum(), rule_.first());
    upload(optimizer_.second_moment(), rule_.second());
    upload(std::as_const(average_).state(), rule_.average());
    network_.round_copies();
    network_.stream().synchronize();
  }
  /// The pictures of the latest micro-batch.
  [[nodiscard]] std::span<float const> pictures() { return inputs_[1 - slot_].host_pictures(); }
  /// Memory for raw pictures, which micro_batch takes: the device copies from it without a detour.
  [[nodiscard]] std::pmr::memory_resource& raw_memory() const { return cuda::pinned_resource::get(); }
  /// What decodes pictures that batches leave encoded, beside the computing.
  [[nodiscard]] raw_decoder& picture_decoder() { return decoder_; }
  /// Gradients of the step under way, on the host.
  [[nodiscard]] std::span<float const> gradients() {
    gradients_.resize(state_extent<C>);
    download(network_.gradients(), std::span{gradients_});
    network_.stream().synchronize();
    return gradients_;
  }
  /// Seconds that the device computed micro-batches so far.
  [[nodiscard]] double seconds_computing() { return computing_.seconds(); }
  /// Seconds that the device copied raw pictures, finished and decoded them, so far.
  [[nodiscard]] device_times seconds_augmenting() {
    return {augment_.seconds_copying() + decoder_.seconds_copying(), augment_.seconds_augmenting(),
            decoder_.seconds_decoding().sum()};
  }
  /// Bytes on the device.
  [[nodiscard]] std::size_t bytes() const {
    return network_.bytes() + rounds_.bytes() + rule_.bytes_held() + inputs_[0].bytes() + inputs_[1].bytes() +
           augment_.bytes() + decoder_.bytes();
  }

 private:
  /// A micro-batch's graph, and what it was recorded for.
  struct recorded {
    double scale = 0;
    float const* maps = nullptr;
    int side = -1;
    std::optional<cuda::graph> work;
  };

  void enqueue(cuda::training_input const& in, double scale) {
    cuda::token_loss_options options;
    options.scale = scale;
    options.check = rule_.check_of();
    rounds_.before_forward();
    network_.forward(in.pictures(), in.box());
    rounds_.after_forward();
    network_.loss(in.maps(), in.box(), rule_.sums(), options);
    network_.backward(in.pictures(), in.box(), nullptr);
  }

  /// The micro-batch in `slot`: its graph, or the first time its work itself, which loads kernels and finds the
  /// products' algorithms.
  void compute(std::size_t slot, double scale) {
    auto const& in = inputs_[slot];
    recorded& g = graphs_[slot];
    if (g.work && g.scale == scale && g.maps == in.maps().values && g.side == in.maps().side)
      return g.work->launch(network_.stream().get());
    std::size_t const scratch = network_.ctx().scratch_bytes();
    network_.ctx().plan([&] { enqueue(in, scale); });
    if (network_.ctx().scratch_bytes() != scratch) graphs_ = {};  // they use the old scratch
    enqueue(in, scale);
    g.work.emplace(network_.stream(), [&] { enqueue(in, scale); });
    g.scale = scale;
    g.maps = in.maps().values;
    g.side = in.maps().side;
  }

  void upload(std::span<float const> from, float* to) { copy(network_.ctx(), from.data(), from.size(), to); }
  void download(float const* from, std::span<float> to) { copy(network_.ctx(), from, to.size(), to.data()); }

  model<C, context>& net_;
  optimizer<C, context>& optimizer_;
  ema<C, context>& average_;
  cuda::training_network<C, P> network_;
  communicator& processes_;
  cuda::training_rounds<C, P> rounds_;
  cuda::training_rule<C, P> rule_;
  cuda::target_options targets_;
  std::array<cuda::training_input, 2> inputs_;
  cuda::stream copies_;
  cuda::augmenter augment_;
  cuda::batch_decoder decoder_{copies_.get()};
  cuda::stopwatch computing_;
  std::array<recorded, 2> graphs_;
  std::size_t slot_ = 0;
  std::vector<step_place> places_;
  std::deque<std::vector<step_place>> unread_;
  std::vector<float> gradients_;
};

}  // namespace dm2
