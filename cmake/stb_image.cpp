// The one translation unit that holds stb_image's and stb_image_write's implementations (target dm2_stb), for machines
// without libjpeg-turbo or libpng. Only JPEG and PNG are compiled in.
#include <cstdlib>
#include <cstring>

// stb_image's memory is zeros before it writes there. A scan of a progressive JPEG that ends early leaves coefficients that
// nobody wrote, and they would show in the picture what the process had in that memory before.
namespace {
void* grown(void* old, std::size_t had, std::size_t wanted) {
  void* const out = std::realloc(old, wanted);
  if (out != nullptr && wanted > had) std::memset(static_cast<char*>(out) + had, 0, wanted - had);
  return out;
}
}  // namespace
#define STBI_MALLOC(bytes) std::calloc(1, bytes)
#define STBI_REALLOC_SIZED(old, had, wanted) grown(old, had, wanted)
#define STBI_FREE(old) std::free(old)

#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>

#define STBI_WRITE_NO_STDIO
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>
