// expect: error: (#error )?dm2 checks that numbers are finite
// flags: -ffinite-math-only
// errors: 1
#include <dm2/data/label_map_file.hpp>
