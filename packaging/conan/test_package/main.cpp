// The package's headers are found, and what they need.
#include <dm2/core/version.hpp>
#include <dm2/data/decode.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/model/presets.hpp>

#include <cstdio>

int main() { std::printf("dm2 %s\n%s\n", dm2::version_text, dm2::to_json(dm2::presets::quick).dump().c_str()); }
