/// @file
/// The tables of docs/devices.md.
#pragma once

#include "cuda/device/forms.cuh"

#include <cstddef>
#include <iterator>
#include <ostream>
#include <sstream>
#include <string>

namespace dm2::test::forms {

inline constexpr config tiny_384{.image = {384, 384}};
inline constexpr config small_384{.image = {384, 384}, .dim = 384, .headdim = 96, .attn_heads = 6};
/// docs/using.md's own configuration.
inline constexpr config mine{
    .image = {128, 128}, .patch = 8, .depth = 12, .dim = 96, .classes = 10, .headdim = 24, .attn_layers = layers(5)};

inline void write_row(std::ostream& out, char const* network, char const* numbers, std::string const& devices,
                      network_forms const& forms) {
  out << "| " << network << " | " << numbers << " | " << devices << " |";
  for (form const& f : forms.of) out << ' ' << f.name << " |";
  out << '\n';
}

/// A row for each run of kinds of device that take the same forms, for numbers P; where Q takes others there, a second
/// row for Q.
template <config C, cuda::precision P, cuda::precision Q>
void write_network(std::ostream& out, char const* network, char const* both, char const* first, char const* second) {
  for (std::size_t i = 0, next = 0; i < std::size(device_kinds); i = next) {
    auto const forms = chooser<C, P>{device_kinds[i]}.all(), other = chooser<C, Q>{device_kinds[i]}.all();
    std::string names;
    for (; next < std::size(device_kinds) && chooser<C, P>{device_kinds[next]}.all().of == forms.of &&
           chooser<C, Q>{device_kinds[next]}.all().of == other.of;
         ++next)
      names += (names.empty() ? "" : ", ") + std::string{device_kinds[next].names};
    bool const same = forms.of == other.of;
    write_row(out, network, same ? both : first, names, forms);
    if (!same) write_row(out, network, second, names, other);
  }
}

template <config C>
void write_precisions(std::ostream& out, char const* network) {
  using enum cuda::precision;
  write_network<C, bf16, fp16>(out, network, "bf16, fp16", "bf16", "fp16");
  write_network<C, fp32, fp32>(out, network, "fp32", "fp32", "fp32");
  write_network<C, tf32, tf32>(out, network, "TF32", "TF32", "TF32");
}

/// The first table: Tiny and Small by device, size and precision.
inline std::string device_table() {
  std::ostringstream out;
  out << "| network | numbers | device |";
  for (char const* name : network_forms::operations) out << ' ' << name << " |";
  out << "\n|---|---|---|";
  for (std::size_t i = 0; i < network_forms::operations.size(); ++i) out << "---|";
  out << '\n';
  write_precisions<tiny>(out, "Tiny 224");
  write_precisions<tiny_384>(out, "Tiny 384");
  write_precisions<published_small>(out, "Small 224");
  write_precisions<small_384>(out, "Small 384");
  return out.str();
}

/// What C's sizes break of what the tensor cores' kernels of operation number i ask for.
template <config C>
std::string broken_rules(std::size_t i) {
  constexpr mixer_shape m = sizes<C>::mixer;
  constexpr attention_shape a = sizes<C>::attention;
  std::string text;
  auto const ask = [&](bool kept, char const* rule) {
    if (!kept) text += (text.empty() ? "" : "; ") + std::string{rule};
  };
  std::string const name = network_forms::operations[i];
  if (name == "mixer core" || name == "scan backward") {
    bool const scan = name == "scan backward";
    ask(m.headdim % 8 == 0, "heads of a multiple of 8 channels");
    ask(m.d_state % 16 == 0, "a state of a multiple of 16");
    ask(m.headdim <= 128, "heads of at most 128 channels");
    ask(m.d_state <= 256, "a state of at most 256");
    if (!scan) {
      ask(m.d_state == 16 || m.d_state == 32 || m.d_state == 64 || m.d_state == 128, "a state of 16, 32, 64 or 128");
      ask(m.heads % 4 == 0, "a number of heads that 4 divides");
      ask(m.d_conv <= 4, "at most 4 taps");
    }
  } else if (name == "attention core" || name == "its backward") {
    ask(a.head_dim % 8 == 0, "heads of a multiple of 8 channels");
    ask(a.head_dim <= 128, "heads of at most 128 channels");
    ask(a.rotary % 8 == 0, "a multiple of 8 turned channels");
    ask(a.d_conv <= 4, "at most 4 taps");
  } else {
    ask(C.stem_width % 16 == 0, "a multiple of 16 channels");
    ask(C.stem_width <= 128, "at most 128 channels");
  }
  return text;
}

/// A row for each operation of C that in 16 bits on a Hopper is composed, or takes no tensor cores.
template <config C>
void write_plain(std::ostream& out, char const* network) {
  auto const chosen = chooser<C, cuda::precision::bf16>{device_kinds[std::size(device_kinds) - 1]}.all();
  for (std::size_t i = 0; i < chosen.of.size(); ++i)
    if (!chosen.of[i].tensor || chosen.of[i].name.starts_with("composed"))
      out << "| " << network << " | " << network_forms::operations[i] << " | " << chosen.of[i].name << " | "
          << (chosen.of[i].tensor ? "in part" : "no") << " | " << broken_rules<C>(i) << " |\n";
}

/// The second table: sizes that take other kernels in 16 bits, by name and with the reason.
inline std::string plain_table() {
  std::ostringstream out;
  out << "| network | operation | form | tensor cores | what the kernel for all of it asks for "
         "|\n|---|---|---|---|---|\n";
  write_plain<mine>(out, "`mine` of [using.md](using.md): heads of 24");
  write_plain<config{.d_state = 256}>(out, "Tiny, state 256");
  write_plain<config{.d_state = 96}>(out, "Tiny, state 96");
  write_plain<config{.d_state = 20}>(out, "Tiny, state 20");
  write_plain<config{.headdim = 64}>(out, "Tiny, heads of 64, six of them");
  write_plain<config{.headdim = 12}>(out, "Tiny, heads of 12");
  write_plain<config{.headdim = 128}>(out, "Tiny, heads of 128, three of them");
  write_plain<config{.headdim = 6}>(out, "Tiny, heads of 6");
  write_plain<config{.d_conv = 5}>(out, "Tiny, five taps");
  write_plain<config{.attn_d_conv = 5}>(out, "Tiny, five taps of the attention");
  write_plain<config{.attn_head_dim = 100}>(out, "Tiny, attention heads of 100");
  write_plain<config{.attn_heads = 2, .attn_head_dim = 144}>(out, "Tiny, attention heads of 144");
  write_plain<config{.attn_rotary = 20}>(out, "Tiny, 20 channels turned");
  write_plain<config{.stem_width = 40}>(out, "Tiny, stem of 40 channels");
  return out.str();
}

}  // namespace dm2::test::forms
