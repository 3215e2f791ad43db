// Everything of inference in 16 bits: the kernels on tensor cores, and the scan that is used alone.
#include "inference.cuh"

#include <dm2/cuda/ssd.cuh>

using dm2::cuda::precision;
template void dm2::test::use<dm2::tiny, precision::bf16>(network<dm2::tiny, precision::bf16>&, pictures<dm2::tiny>,
                                                         std::span<float const>, std::span<float>);

inline constexpr dm2::mixer_shape heads{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
template void dm2::cuda::ssd<heads>(dm2::cuda::context<>&, dm2::cuda::ssd_input<heads, __nv_bfloat16> const&,
                                    dm2::rows<__nv_bfloat16, heads.d_inner(), dm2::space::device>, dm2::scan_form);
