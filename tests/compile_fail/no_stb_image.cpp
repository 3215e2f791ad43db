// expect: dm2 reads JPEG and PNG by libjpeg and libpng .*libstb-dev
// drop: stb|DM2_WITH
// errors: 2
#include <dm2/data/decode.hpp>
