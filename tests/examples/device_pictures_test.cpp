// Who decodes a program's pictures: the flags' choice, and the one that is made where they leave it open.
#include "../examples/support/devices.hpp"

#include <doctest/doctest.h>

using namespace dm2::example;

namespace {

/// Who decodes where the flags leave it open, on a device that can.
bool device_decodes(picture_load const& load) {
  return choose_pictures(augment_place::any, augment_place::any, true, load).decodes;
}

}  // namespace

TEST_CASE("device_pictures: a packed set is decoded there for a network that infers, whoever else could") {
  for (int const workers : {1, 4, 16, 64}) CHECK(device_decodes({.packed = true, .batch = 1, .workers = workers}));
}

TEST_CASE("device_pictures: a network that trains on a packed set leaves it to sixteen threads, not to fewer") {
  for (int const workers : {1, 15})
    CHECK(device_decodes({.packed = true, .training = true, .batch = 256, .workers = workers}));
  for (int const workers : {16, 17})
    CHECK(!device_decodes({.packed = true, .training = true, .batch = 256, .workers = workers}));
}

TEST_CASE("device_pictures: files are decoded there from 32 of a batch for each thread") {
  for (bool const training : {false, true}) {
    CHECK(device_decodes({.training = training, .batch = 1024, .workers = 32}));
    CHECK(!device_decodes({.training = training, .batch = 1023, .workers = 32}));
    CHECK(device_decodes({.training = training, .batch = 256, .workers = 8}));
    CHECK(!device_decodes({.training = training, .batch = 1, .workers = 1}));
  }
}

TEST_CASE("device_pictures: the flags come first, and a device that finishes nothing decodes nothing") {
  picture_load const set{.packed = true, .batch = 256, .workers = 1}, files{.batch = 1, .workers = 64};
  CHECK(!choose_pictures(augment_place::any, augment_place::host, true, set).decodes);
  CHECK(choose_pictures(augment_place::any, augment_place::device, true, files).decodes);
  CHECK(choose_pictures(augment_place::device, augment_place::any, true, files).finishes);
  for (bool const can : {false, true}) {
    device_pictures const on_host = choose_pictures(augment_place::host, augment_place::any, can, set);
    CHECK(!on_host.finishes);
    CHECK(!on_host.decodes);
    CHECK_THROWS_AS(static_cast<void>(choose_pictures(augment_place::host, augment_place::device, can, set)),
                    usage_error);
  }
  CHECK(!choose_pictures(augment_place::any, augment_place::any, false, set).decodes);
  CHECK_THROWS_AS(static_cast<void>(choose_pictures(augment_place::any, augment_place::device, false, set)),
                  usage_error);
  CHECK_THROWS_AS(static_cast<void>(choose_pictures(augment_place::device, augment_place::any, false, set)),
                  usage_error);
}
