// expect: error: (#error )?dm2 needs C\+\+20
// flags: -std=c++17
// errors: 2
#include <dm2/demansia.hpp>

#include <cstdio>

int main() {  // the second error is the one that ends the compilation here
  dm2::model<dm2::tiny> net;
  dm2::load(net, "DeMansia 2 Tiny EMA.ckpt");
  for (auto const& [index, probability] : dm2::classify(net, dm2::read_image("cat.jpg"), 5))
    std::printf("%4d  %.1f %%\n", index, 100 * probability);
}
