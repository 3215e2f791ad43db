#include "golden_model.hpp"

#include <doctest/doctest.h>

using namespace dm2;
using namespace dm2::test;

namespace {

/// A golden model with its file, in one floating type. Tolerances are relative, in the norm of each tensor.
template <config C, class T>
struct golden_case {
  using scalar = T;
  static constexpr double forward_tolerance = std::is_same_v<T, double> ? 1e-9 : 1e-5;
  static constexpr double gradient_tolerance = std::is_same_v<T, double> ? 1e-9 : 1e-4;
  static constexpr char const* file_name() {
    if (C.variant == mixer_variant::bidirectional) return "model_bidirectional.safetensors";
    return C.mlp_dim != 0 ? "model_wide.safetensors" : "model_micro.safetensors";
  }

  golden file{file_name()};
  std::vector<T> pictures = file.template get<T>("image");
  int batch = int(pictures.size() / model<C>::pixels);
  model<C, cpu::context<T>> net{batch, cpu::context<T>{2}};

  golden_case() { load_parameters(net, file); }
};

}  // namespace

#define DM2_GOLDEN_CASES                                                                                      \
  golden_case<micro, double>, golden_case<micro, float>, golden_case<wide, double>, golden_case<wide, float>, \
      golden_case<bidirectional, double>, golden_case<bidirectional, float>

TEST_CASE_TEMPLATE("model: logits and features of an evaluation equal the reference's", G, DM2_GOLDEN_CASES) {
  G g;
  using T = typename G::scalar;
  std::vector<T> logits(std::size_t(g.batch) * g.net.classes, std::numeric_limits<T>::quiet_NaN());
  g.net.forward(g.pictures, logits);
  CHECK(relative_error(logits, g.file.get("eval/logits")) < G::forward_tolerance);
  std::vector<T> features(g.file.get("eval/features").size(), std::numeric_limits<T>::quiet_NaN());
  g.net.forward_features(g.pictures, features);
  CHECK(relative_error(features, g.file.get("eval/features")) < G::forward_tolerance);
}

TEST_CASE_TEMPLATE("model: a training pass has the reference's logits, loss, statistics and every gradient", G,
                   DM2_GOLDEN_CASES) {
  G g;
  using T = typename G::scalar;
  auto const corners = g.file.template get<std::int64_t>("box");
  mix_box const box{int(corners[0]), int(corners[1]), int(corners[2]), int(corners[3])};
  training_pass pass{g.net, g.batch};
  pass.forward(g.pictures, box);
  CHECK(relative_error(pass.class_logits(), g.file.get("train/cls")) < G::forward_tolerance);
  CHECK(relative_error(pass.patch_logits(), g.file.get("train/aux")) < G::forward_tolerance);
  auto const target = classes_last(g.file.template get<T>("target"), std::size_t(g.batch), g.net.classes);
  double const loss[] = {pass.loss(target)};
  CHECK(relative_error(loss, g.file.get("train/loss")) < G::forward_tolerance);

  std::vector<T> dpictures(g.pictures.size(), std::numeric_limits<T>::quiet_NaN());
  pass.backward(dpictures);
  CHECK(relative_error(dpictures, g.file.get("grad/image")) < G::gradient_tolerance);
  int gradients = 0;
  for (parameter_entry const& e : g.net.table()) {
    std::string const name{e.name};
    CAPTURE(name);
    if (e.kind == entry_kind::statistic)
      CHECK(relative_error(g.net.state().subspan(e.offset, e.size), g.file.get("stats/" + name)) <
            G::forward_tolerance);
    auto const gradient = pass.gradients().subspan(e.kind == entry_kind::counter ? 0 : e.offset, e.size);
    if (e.kind == entry_kind::unused)  // D_b of the published variant
      for (T v : gradient) CHECK(v == T(0));
    CHECK(g.file.has("grad/" + name) == (e.kind == entry_kind::parameter));
    if (e.kind != entry_kind::parameter) continue;
    ++gradients;
    CHECK(relative_error(gradient, g.file.get("grad/" + name)) < G::gradient_tolerance);
  }
  CHECK(gradients > 40);
}
