#include <dm2/cuda/model.cuh>

int main() { return dm2::cuda::context<>{}.device().major >= 8 ? 0 : 1; }
