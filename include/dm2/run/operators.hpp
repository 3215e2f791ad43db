/// @file
/// Finds a mixer operation's code: in the cache, or compiled now.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/run/build_request.hpp>
#include <dm2/run/cache.hpp>
#include <dm2/run/models.hpp>
#include <dm2/run/operator_code.hpp>
#include <dm2/run/shared_object.hpp>
#include <dm2/run/toolchain.hpp>

#include <array>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dm2::run {
namespace detail {

/// The words in which operators' sources differ.
inline constexpr std::array<char const*, 5> number_words{"float", "double", "dm2::cuda::precision::bf16",
                                                         "dm2::cuda::precision::fp16", "dm2::cuda::precision::fp32"};

[[nodiscard]] inline std::string shape_text(mixer_shape const& m) {
  return "{" + std::to_string(m.heads) + ", " + std::to_string(m.headdim) + ", " + std::to_string(m.d_state) + ", " +
         std::to_string(m.groups) + ", " + std::to_string(m.d_conv) +
         ", dm2::mixer_variant::" + (m.variant == mixer_variant::published ? "published" : "bidirectional") + "}";
}

/// Throws std::invalid_argument, with the rule, for a shape that no operation takes.
inline void require_operator_shape(mixer_shape const& m) {
  auto const demand = [](bool holds, char const* rule) {
    if (!holds) throw std::invalid_argument{std::string{"mixer operation: "} + rule};
  };
  demand(m.heads >= 1 && m.heads <= 1024, "heads must be 1..1024");
  demand(m.headdim >= 1 && m.headdim <= 128, "headdim must be 1..128");
  demand(m.d_state >= 1 && m.d_state <= 256, "d_state must be 1..256");
  demand(m.groups >= 1 && m.heads % m.groups == 0, "groups must divide heads");
  demand(m.d_conv >= 1 && m.d_conv <= 16, "d_conv must be 1..16");
}

}  // namespace detail

/// The source of an operation's code.
[[nodiscard]] inline unit operator_unit(operation what, mixer_shape const& m, operation_numbers numbers) {
  bool const gpu = on_gpu(numbers);
  std::string const type = std::string{"dm2::run::"} + (gpu ? "gpu_" : "cpu_") +
                           (what == operation::ssd ? "ssd" : "mixer_core") + "<shape, " +
                           detail::number_words[std::size_t(numbers)] + ">";
  return {gpu ? "operator.cu" : "operator.cpp",
          std::string{"// An operation of the mixer. Written by dm2.\n#include <dm2/run/"} +
              (gpu ? "gpu_operators.cuh" : "cpu_operators.hpp") + ">\n\nconstexpr dm2::mixer_shape shape" +
              detail::shape_text(m) + ";\n\nextern \"C\" dm2::run::operator_code* " + operator_entry_name +
              "(int threads) { return new " + type + "{threads}; }\n"};
}

/// An operation of that shape, compiled first where the cache has it not. `o.architecture` is the GPU's.
///
/// Throws std::invalid_argument for a shape that breaks a rule, and as find_code does.
[[nodiscard]] inline std::unique_ptr<operator_code> make_operator(operation what, mixer_shape const& m,
                                                                  operation_numbers numbers, int threads,
                                                                  find_options const& o = {}) {
  detail::require_operator_shape(m);
  bool const gpu = on_gpu(numbers);
  std::vector<std::string> more;
  if (gpu) more = {"-gencode", "arch=compute_" + o.architecture + ",code=sm_" + o.architecture};
  toolchain const tools{gpu ? header_kind::cuda : header_kind::cpp, std::move(more)};
  std::string const title = std::string{what == operation::ssd ? "ssd" : "mixer_core"} + " " + detail::shape_text(m);
  std::vector<unit> units{operator_unit(what, m, numbers)};
  std::string identity = "operator\nunit " + units.front().text + tools.identity();
  build_request request{title, std::move(identity), std::move(units)};
  cache const compiled{o.folder};
  auto path = compiled.find(request.identity);
  if (!path) {
    tools.require();
    request.compile = tools.compile();
    request.link = tools.link();
    request.libraries = tools.libraries();
    request.check = [&tools] { tools.require(); };
    path = compiled.find_or_compile(request, o.say, o.stop);
  }
  auto const make = reinterpret_cast<operator_maker>(load_entry(*path, operator_entry_name));
  return std::unique_ptr<operator_code>{make(threads)};
}

}  // namespace dm2::run
