/// @file
/// Accuracy over a set of labelled pictures.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/data/loader.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/model.hpp>
#include <dm2/train/batch_counter.hpp>
#include <dm2/train/evaluate_batches.hpp>
#include <dm2/train/evaluation.hpp>

#include <cstddef>
#include <functional>

namespace dm2 {
/// Top-1, top-5 and loss of a model over a loader's samples; with several processes, over those of all of them, each of
/// which has a loader with its rank. Sums go over the samples of a batch, then over the batches in order: they do not
/// depend on the number of processes.
///
/// `watch`, where given, is called with the samples that this process has done after each batch; false stops, and what
/// is counted so far is returned.
/// Throws   std::invalid_argument for a loader that is not in evaluation mode, or whose rank and number of processes
/// are
///          others; shape_error for one whose pictures or number of classes are not the model's; what loader::next
///          throws; process_error.
template <config C, class Context>
evaluation evaluate(model<C, Context>& net, loader& samples, std::function<bool(std::size_t)> const& watch = {},
                    communicator& processes = one_process()) {
  static_assert(C.channels == 3, "dm2::loader: config.channels must be 3, its pictures are RGB");
  detail::require_loader(C, "evaluate: the loader", samples, loading::evaluation);
  detail::require_dealing("evaluate: the loader", samples, processes, 0);
  detail::batch_counter<C, Context> counter{net};
  return detail::evaluate_batches(
      samples, [&](batch const& b) { return counter(b); }, watch, processes);
}

}  // namespace dm2
