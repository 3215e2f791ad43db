// expect: dm2::layers: a layer number must be 0..63
// never: instantiation depth
// errors: 3
#include <dm2/model/model.hpp>
#include <dm2/train/initialise.hpp>

constexpr dm2::config wrong{.attn_layers = dm2::layers(64)};
int main() {
  dm2::model<wrong> net;
  dm2::initialise(net, 0);
}
