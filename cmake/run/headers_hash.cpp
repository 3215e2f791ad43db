/// @file
/// Writes the hashes of dm2's headers into a source, while dm2 is built.
///
///     dm2_headers_hash INCLUDE_DM2 OUTPUT
#include <dm2/run/hash64.hpp>
#include <dm2/run/headers_hash.hpp>

#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>

int main(int argc, char** argv) try {
  if (argc != 3) return EXIT_FAILURE;
  using dm2::run::hash_text, dm2::run::headers_hash, dm2::run::header_kind;
  std::ofstream out{argv[2]};
  out << "#define DM2_BUILT_CPP_HEADERS 0x" << hash_text(headers_hash(argv[1], header_kind::cpp))
      << "u\n#define DM2_BUILT_CUDA_HEADERS 0x" << hash_text(headers_hash(argv[1], header_kind::cuda)) << "u\n";
  return out.flush() ? EXIT_SUCCESS : EXIT_FAILURE;
} catch (std::exception const& problem) {
  std::cerr << problem.what() << '\n';
  return EXIT_FAILURE;
}
