/// @file
/// The sources of a model's code: a few lines for inference, and a few for training.
#pragma once

#include <dm2/model/config.hpp>
#include <dm2/run/backend.hpp>
#include <dm2/run/build_request.hpp>

#include <array>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace dm2::run {
namespace detail {

/// A configuration as C++: every field, so that the defaults of another version do not count.
[[nodiscard]] inline std::string config_text(config const& c) {
  std::array<char, 40> eps, layers;
  std::snprintf(eps.data(), eps.size(), "%a", c.eps);
  std::snprintf(layers.data(), layers.size(), "0x%llxull", static_cast<unsigned long long>(c.attn_layers.bits));
  auto const field = [](char const* name, int value) {
    return std::string{"."} + name + " = " + std::to_string(value) + ", ";
  };
  return "{.image = {" + std::to_string(c.image.height) + ", " + std::to_string(c.image.width) + "}, " +
         field("patch", c.patch) + field("channels", c.channels) + field("stem_width", c.stem_width) +
         field("depth", c.depth) + field("dim", c.dim) + field("mlp_dim", c.mlp_dim) + field("classes", c.classes) +
         field("expand", c.expand) + field("headdim", c.headdim) + field("d_state", c.d_state) +
         field("d_conv", c.d_conv) + field("groups", c.groups) + ".attn_layers = {" + layers.data() + "}, " +
         field("attn_heads", c.attn_heads) + field("attn_head_dim", c.attn_head_dim) +
         field("attn_rotary", c.attn_rotary) + field("attn_d_conv", c.attn_d_conv) + ".eps = " + eps.data() +
         ", .variant = dm2::mixer_variant::" + (c.variant == mixer_variant::published ? "published" : "bidirectional") +
         "}";
}

/// The words in which the units of two backends differ. `both` is training's forward: the unit of inference compiles
/// it, having most of its code anyway, so that the longer unit takes less: with the headers that both left out Tiny's
/// 28 and 18 s became 23 and 15.
struct unit_words {
  std::string ending, network_header, training_header, context, network, training, bytes, both;
};

[[nodiscard]] inline unit_words words_of(backend b) {
  if (b == backend::cpu)
    return {"cpp",
            "dm2/run/network_of.hpp",
            "dm2/run/training_of.hpp",
            "dm2::cpu::context<float>",
            "dm2::run::make_cpu_network<told>",
            "dm2::run::make_cpu_training<told>",
            "dm2::run::cpu_training_bytes<told>",
            "template void dm2::detail::forward_train(dm2::cpu::context<float>&, dm2::network_view<told, float, "
            "dm2::space::host>, float const* const&, dm2::mix_box const&, dm2::detail::training_plan<told, "
            "dm2::cpu::context<float>> const&, int);\n"};
  std::string const precision = "dm2::cuda::precision::" + std::string{name_of(b)}.substr(5);
  std::string const arguments = "<told, " + precision + ">";
  return {"cu",
          "dm2/run/gpu_network_of.cuh",
          "dm2/run/gpu_training_of.cuh",
          "dm2::cuda::context<" + precision + ">",
          "dm2::run::make_gpu_network" + arguments,
          "dm2::run::make_gpu_training" + arguments,
          "dm2::run::gpu_training_bytes" + arguments,
          ""};
}

}  // namespace detail

/// The name of the function by which a shared object gives its code.
inline constexpr char const* entry_name = "dm2_model_code";

/// The units of a configuration's code on a backend: forward, and train where the backend does. `title` is for people;
/// `entry` is the function, of C's linkage, that returns the run::model_code.
[[nodiscard]] inline std::vector<unit> model_units(config const& c, backend b, std::string const& title,
                                                   std::string const& entry = entry_name) {
  detail::unit_words const w = detail::words_of(b);
  std::string const told = "constexpr dm2::config told" + detail::config_text(c) + ";\n";
  std::string const network = "template std::unique_ptr<dm2::run::network> " + w.network + "(int, int);\n";
  std::string const training = "template std::unique_ptr<dm2::training_state> " + w.training +
                               "(dm2::run::training_request const&);\ntemplate std::size_t " + w.bytes + "(int);\n";
  std::string const whole = "template class dm2::model<told, " + w.context + ">;\n";
  std::string forward = "// " + title + ": inference. Written by dm2.\n#include <" + w.network_header +
                        ">\n#include <dm2/run/model_code_of.hpp>\n\n" + told + whole + w.both + network;
  std::string parts = "{" + w.network + ", nullptr, nullptr}";
  if (trains(b)) parts = "{" + w.network + ", " + w.training + ", " + w.bytes + "}";
  forward += "\nextern \"C\" dm2::run::model_code const* " + entry +
             "() {\n  static dm2::run::model_code_of const code{told, *dm2::run::find_backend(\"" +
             std::string{name_of(b)} + "\"), " + parts + "};\n  return &code;\n}\n";
  std::vector<unit> out{{"forward." + w.ending, forward}};
  if (trains(b))
    out.push_back({"train." + w.ending, "// " + title + ": training. Written by dm2.\n#include <" + w.training_header +
                                            ">\n\n" + told + "extern " + whole +
                                            (w.both.empty() ? "" : "extern " + w.both) + training});
  return out;
}

}  // namespace dm2::run
