#include <dm2/demansia.hpp>

#include <span>
#include <vector>

namespace {
constexpr dm2::config mine{.image = {32, 48},
                           .patch = 8,
                           .stem_width = 8,
                           .depth = 2,
                           .dim = 16,
                           .classes = 10,
                           .headdim = 8,
                           .d_state = 8,
                           .attn_layers = dm2::layers(1),
                           .attn_heads = 2,
                           .attn_head_dim = 8,
                           .attn_rotary = 4};
}

int classify_noise();
int classify_noise() {
  dm2::model<mine> net;
  unsigned noise = 1;
  auto const next = [&noise] { return float((noise = noise * 1664525u + 1013904223u) >> 8) / float(1u << 24) - 0.5f; };
  for (float& value : net.state()) value = 0.1f + 0.2f * next();
  std::vector<float> picture(net.pixels), logits(net.classes);
  for (float& value : picture) value = next();
  net.forward(picture, logits);
  dm2::prediction const best = dm2::top_k(std::span<float const>{logits}, 1).front();
  return best.probability > 0 ? best.index : -1;  // a NaN is not
}
