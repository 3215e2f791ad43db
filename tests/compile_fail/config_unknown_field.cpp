// expect: depht
// never: instantiation depth
// errors: 3
#include <dm2/model/model.hpp>
#include <dm2/train/initialise.hpp>

constexpr dm2::config wrong{.image = {32, 32}, .patch = 8, .depht = 2};
int main() {
  dm2::model<wrong> net;
  dm2::initialise(net, 0);
}
