// expect: error: (#error )?dm2 needs Eigen 3.4.*libeigen3-dev
// drop: [Ee]igen
// errors: 2
#include <dm2/cpu/gemm.hpp>
