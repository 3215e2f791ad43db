// The C functions of a model in training.
#include "dm2.h"
#include "guard.hpp"
#include "handles.hpp"
#include "opened_trainer.hpp"

#include <cmath>
#include <mutex>

namespace {

using namespace dm2::c;

/// Never destroyed: other threads may be in a call while the program ends.
handle_table<dm2_trainer>& trainers() {
  static auto* const table = new handle_table<dm2_trainer>{"dm2_trainer"};
  return *table;
}

/// f(trainer) for an open handle, one call at a time.
template <class F>
int with(dm2_trainer* handle, F const& f) noexcept {
  return guarded([&] {
    auto const trainer = trainers().find(handle);
    std::lock_guard const lock{trainer->mutex};
    on_device(trainer->where.gpu(), [&] { f(*trainer); });
  });
}

}  // namespace

extern "C" {

int dm2_trainer_defaults(dm2_trainer_options* options) {
  return guarded([&] {
    require_struct(options, "dm2_trainer_options");
    *options = published_recipe();
  });
}

int dm2_trainer_open(dm2_trainer_options const* options, dm2_trainer** trainer) {
  if (trainer != nullptr) *trainer = nullptr;
  return guarded([&] {
    require_pointer(trainer, "trainer");
    require_struct(options, "dm2_trainer_options");
    *trainer = trainers().open(open_trainer(*options));
  });
}

int dm2_trainer_close(dm2_trainer* trainer) {
  return guarded([&] { trainers().close(trainer); });
}

int dm2_trainer_step(dm2_trainer* trainer, dm2_batch const* batch, double rate, dm2_step* step) {
  return with(trainer, [&](dm2_trainer& t) {
    require_struct(batch, "dm2_batch");
    if (step != nullptr) require_struct(step, "dm2_step");
    if (!(rate >= 0) || std::isinf(rate)) throw failure{DM2_ARGUMENT, "rate is no number of at least 0"};
    t.require_batch(*batch);
    dm2_step const done = t.step(*batch, rate);
    if (step != nullptr) *step = done;
  });
}

int dm2_trainer_save(dm2_trainer* trainer, char const* path, int32_t weights) {
  return with(trainer, [&](dm2_trainer& t) {
    require_pointer(path, "path");
    t.save(path, find_weights(weights) != dm2::weights::raw);
  });
}

int dm2_trainer_checkpoint(dm2_trainer* trainer, char const* path) {
  return with(trainer, [&](dm2_trainer& t) {
    require_pointer(path, "path");
    t.save_checkpoint(path);
  });
}

int dm2_trainer_resume(dm2_trainer* trainer, char const* path) {
  return with(trainer, [&](dm2_trainer& t) {
    require_pointer(path, "path");
    t.resume(path);
  });
}

}  // extern "C"
