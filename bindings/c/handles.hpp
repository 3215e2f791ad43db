/// @file
/// The handles that are open: looked up, so that a closed one is found out.
#pragma once

#include <dm2/core/error.hpp>

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

#include "guard.hpp"

namespace dm2::c {

/// Open handles of one kind. Any thread may use it.
template <class T>
class handle_table {
 public:
  /// `kind` is for messages: "dm2_model".
  explicit handle_table(char const* kind) : kind_{kind} {}

  /// Opens a handle: the object's address.
  [[nodiscard]] T* open(std::shared_ptr<T> object) {
    T* const handle = object.get();
    std::lock_guard const lock{mutex_};
    open_.emplace(handle, std::move(object));
    return handle;
  }
  /// The object of a handle. Throws failure where that is not open.
  [[nodiscard]] std::shared_ptr<T> find(T const* handle) const {
    std::lock_guard const lock{mutex_};
    auto const found = open_.find(handle);
    if (found == open_.end()) refuse(handle);
    return found->second;
  }
  /// Closes a handle: the object dies when no call is in it. NULL is closed already.
  void close(T const* handle) {
    if (handle == nullptr) return;
    std::shared_ptr<T> last;  // dies behind the lock
    std::lock_guard const lock{mutex_};
    auto const found = open_.find(handle);
    if (found == open_.end()) refuse(handle);
    last = std::move(found->second);
    open_.erase(found);
  }

 private:
  [[noreturn]] void refuse(void const* handle) const {
    throw failure{DM2_HANDLE, handle == nullptr ? std::string{kind_} + " is NULL"
                                                : "not an open " + std::string{kind_} + " (closed already?)"};
  }

  char const* kind_;
  mutable std::mutex mutex_;
  std::unordered_map<T const*, std::shared_ptr<T>> open_;
};

/// Calls f(), which computes on a GPU or not: what the GPU's part throws is told as such.
template <class F>
void on_device(bool gpu, F const& f) {
  try {
    f();
  } catch (failure const&) {
    throw;
  } catch (file_error const&) {
    throw;
  } catch (std::range_error const&) {
    throw;  // a weight that does not fit half precision
  } catch (std::runtime_error const& problem) {
    if (!gpu) throw;
    throw failure{DM2_DEVICE, problem.what()};
  }
}

}  // namespace dm2::c
