// README's first program.
#include <dm2/demansia.hpp>

#include <cstdio>

int main() {
  dm2::model<dm2::tiny> net;
  dm2::load(net, "DeMansia 2 Tiny EMA.ckpt");
  for (auto const& [index, probability] : dm2::classify(net, dm2::read_image("cat.jpg"), 5))
    std::printf("%4d  %.1f %%\n", index, 100 * probability);
}
