// The one translation unit that holds stb_image's and stb_image_write's implementations (target dm2_stb), for machines
// without libjpeg-turbo or libpng. Only JPEG and PNG are compiled in.
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STB_IMAGE_IMPLEMENTATION
#include <stb_image.h>

#define STBI_WRITE_NO_STDIO
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb_image_write.h>
