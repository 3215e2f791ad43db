/* Classifies pictures from C: classify MODEL PICTURE... */
#include <dm2.h>
#include <stdio.h>
#include <stdlib.h>

enum { most = 5 };

/* The whole of a file, for free(); NULL where it cannot be read. */
static unsigned char* read_file(char const* path, size_t* size) {
  FILE* const file = fopen(path, "rb");
  unsigned char* bytes = NULL;
  size_t room = 0;
  *size = 0;
  if (file == NULL) return NULL;
  while (!feof(file) && !ferror(file)) {
    if (*size == room) {
      unsigned char* const more = realloc(bytes, room = room == 0 ? 65536 : 2 * room);
      if (more == NULL) break;
      bytes = more;
    }
    *size += fread(bytes + *size, 1, room - *size, file);
  }
  if (!feof(file)) {
    free(bytes);
    bytes = NULL;
  }
  fclose(file);
  return bytes;
}

/* A line for each of the best classes. Returns 0 where all went well. */
static int classify(dm2_model* model, int k, char const* path) {
  dm2_prediction best[most];
  size_t size = 0;
  unsigned char* const bytes = read_file(path, &size);
  int status, i;
  if (bytes == NULL) {
    fprintf(stderr, "%s: cannot be read\n", path);
    return 1;
  }
  status = dm2_classify_encoded(model, bytes, size, k, best);
  free(bytes);
  if (status != DM2_OK) {
    fprintf(stderr, "%s: %s\n", path, dm2_last_error());
    return 1;
  }
  for (i = 0; i < k; ++i) {
    char const* name = "";
    if (dm2_class_name(model, best[i].index, &name) != DM2_OK) name = ""; /* the file has no names */
    printf("%s  %d  %.9g  %s\n", path, (int)best[i].index, (double)best[i].probability, name);
  }
  return 0;
}

int main(int argc, char** argv) {
  dm2_open_options options = DM2_OPEN_OPTIONS;
  dm2_description about;
  dm2_model* model = NULL;
  int failed = 0, i;
  if (argc < 3) {
    fprintf(stderr, "usage: classify MODEL PICTURE...\n");
    return 2;
  }
  options.device = DM2_DEVICE_AUTO;
  if (dm2_open(argv[1], &options, &model) != DM2_OK) {
    fprintf(stderr, "%s\n", dm2_last_error());
    return 3;
  }
  about.size = sizeof about;
  if (dm2_describe(model, &about) != DM2_OK) return 3;
  for (i = 2; i < argc; ++i) failed |= classify(model, about.classes < most ? about.classes : most, argv[i]);
  dm2_close(model);
  return failed;
}
