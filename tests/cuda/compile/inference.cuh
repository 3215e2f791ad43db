/// @file
/// What makes a network's templates concrete, so that its kernels are compiled.
#pragma once

#include <dm2/cuda/model.cuh>

#include <span>

namespace dm2::test {

template <config C, cuda::precision P>
using network = model<C, cuda::context<P>>;
template <config C>
using pictures = cuda::byte_pictures<C.channels>;

template <config C, cuda::precision P>
void use(network<C, P>& net, pictures<C> bytes, std::span<float const> in, std::span<float> out) {
  net.forward(in, out);
  net.forward_features(in, out);
  net.forward_patches(in, out, out);
  net.forward_device(bytes, 1, out.data(), nullptr);
}

}  // namespace dm2::test
