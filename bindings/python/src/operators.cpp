// dm2.torch's compiled part: the mixer's operations on memory that PyTorch owns.
#include <dm2/run/operators.hpp>

#include "../../../examples/support/gpu.hpp"
#include "../../../examples/support/stop_signal.hpp"
#include "../../../examples/support/text.hpp"
#include "bound.hpp"

#include <nanobind/stl/unique_ptr.h>

#include <cstddef>
#include <cstdint>
#include <iostream>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace dm2::python {

namespace {

run::operation_numbers numbers_of(std::string const& device, std::string const& type) {
  using numbers = run::operation_numbers;
  if (device == "cpu" && type == "float32") return numbers::cpu_float;
  if (device == "cpu" && type == "float64") return numbers::cpu_double;
  if (device == "cuda" && type == "bfloat16") return numbers::cuda_bf16;
  if (device == "cuda" && type == "float16") return numbers::cuda_fp16;
  if (device == "cuda" && type == "float32") return numbers::cuda_fp32;
  throw std::invalid_argument{
      "dm2.torch computes in float32 and float64 on a CPU, in bfloat16, float16 and float32 on "
      "a GPU, not in " +
      type + " on " + device};
}

/// An operation of one shape. Calls of several threads wait for each other.
class operation {
 public:
  operation(std::string const& what, mixer_shape const& shape, std::string const& device, std::string const& type,
            int threads) {
    nb::gil_scoped_release const released;
    run::operation_numbers const numbers = numbers_of(device, type);
    run::find_options o;
    if (run::on_gpu(numbers)) o.architecture = example::gpu_architecture();
    o.say = [](std::string const& line) { std::cerr << "dm2: " << example::printable(line) << std::endl; };
    o.stop = &example::stop_requested;
    code_ = run::make_operator(what == "ssd" ? run::operation::ssd : run::operation::mixer_core, shape, numbers,
                               threads, o);
  }

  void call(bool backward, std::vector<std::uintptr_t> const& reads, std::vector<std::uintptr_t> const& writes,
            std::size_t rows, int length, std::uintptr_t stream) {
    nb::gil_scoped_release const released;
    std::vector<void const*> from;
    std::vector<void*> to;
    from.reserve(reads.size());
    to.reserve(writes.size());
    for (std::uintptr_t const address : reads) from.push_back(reinterpret_cast<void const*>(address));
    for (std::uintptr_t const address : writes) to.push_back(reinterpret_cast<void*>(address));
    run::operation_call const one{from, to, rows, length, reinterpret_cast<void*>(stream)};
    std::scoped_lock const lock{mutex_};
    backward ? code_->backward(one) : code_->forward(one);
  }

 private:
  std::unique_ptr<run::operator_code> code_;
  std::mutex mutex_;
};

}  // namespace

void add_operators(nb::module_& m) {
  nb::class_<operation>(m, "Operation")
      .def(
          "__init__",
          [](operation* self, std::string const& what, int heads, int headdim, int d_state, int groups, int d_conv,
             std::string const& variant, std::string const& device, std::string const& type, int threads) {
            if (variant != "published" && variant != "bidirectional")
              throw std::invalid_argument{"variant is '" + variant + "', expected published or bidirectional"};
            mixer_shape const shape{
                heads,  headdim, d_state,
                groups, d_conv,  variant == "published" ? mixer_variant::published : mixer_variant::bidirectional};
            new (self) operation{what, shape, device, type, threads};
          },
          nb::arg("what"), nb::arg("heads"), nb::arg("headdim"), nb::arg("d_state"), nb::arg("groups"),
          nb::arg("d_conv"), nb::arg("variant"), nb::arg("device"), nb::arg("type"), nb::arg("threads"))
      .def("call", &operation::call, nb::arg("backward"), nb::arg("reads"), nb::arg("writes"), nb::arg("rows"),
           nb::arg("length"), nb::arg("stream"), "Computes on the memory at these addresses.");
}

}  // namespace dm2::python
