/* Very many calls, most of which fail: many_calls MODEL PICTURE CALLS [KB]. Memory may not grow by more: 4096. */
#include <dm2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { limit = 65536, most = 5 };

/* Resident memory in KB, from /proc; 0 where the system has none. */
static long resident(void) {
  long pages = 0, all = 0;
  FILE* const file = fopen("/proc/self/statm", "r");
  if (file == NULL) return 0;
  if (fscanf(file, "%ld %ld", &all, &pages) != 2) pages = 0;
  fclose(file);
  return 4 * pages;
}

static void require(int ok, char const* what, long call) {
  if (ok) return;
  fprintf(stderr, "call %ld: %s: %s\n", call, what, dm2_last_error());
  exit(1);
}

/* Call number i of the mixture: every 64th computes, the others are cheap or wrong. */
static void one(char const* path, dm2_model* model, unsigned char const* picture, size_t size, float* numbers,
                long i) {
  dm2_prediction best[most];
  dm2_description about;
  dm2_tensor tensor;
  char const* text = NULL;
  about.size = sizeof about;
  tensor.size = sizeof tensor;
  switch (i % 16) {
    case 0:
      if (i % 64 == 0)
        require(dm2_classify_encoded(model, picture, size, most, best) == DM2_OK, "classify", i);
      else
        require(dm2_input_encoded(model, picture, size, numbers, 7) == DM2_SIZE, "short input", i);
      break;
    case 1: require(dm2_describe(model, &about) == DM2_OK && about.classes == 10, "describe", i); break;
    case 2: require(dm2_tensor_at(model, (size_t)i % 20, &tensor) == DM2_OK, "tensor", i); break;
    case 3: require(dm2_tensor_at(model, 1000000, &tensor) == DM2_ARGUMENT, "no tensor", i); break;
    case 4: require(dm2_class_name(model, 3, &text) == DM2_ARGUMENT, "no names", i); break;
    case 5: require(dm2_classify_encoded(model, picture, size, 11, best) == DM2_ARGUMENT, "k", i); break;
    case 6: require(dm2_classify_encoded(model, "no picture", 10, 1, best) == DM2_PICTURE, "text", i); break;
    case 7: require(dm2_classify_encoded(model, picture, 40, 1, best) == DM2_PICTURE, "cut picture", i); break;
    case 8: require(dm2_forward(model, numbers, 1, numbers, 9) == DM2_SIZE, "short logits", i); break;
    case 9: require(dm2_describe(NULL, &about) == DM2_HANDLE, "null", i); break;
    case 10: require(dm2_describe((dm2_model*)numbers, &about) == DM2_HANDLE, "foreign handle", i); break;
    case 11: require(dm2_close((dm2_model*)best) == DM2_HANDLE, "close of none", i); break;
    case 12: about.size = 3; require(dm2_describe(model, &about) == DM2_ARGUMENT, "size", i); break;
    case 13: require(strlen(dm2_version()) > 0 && strlen(dm2_last_error()) > 0, "texts", i); break;
    case 14: require(dm2_notice(model, 1000, &text) == DM2_ARGUMENT, "no notice", i); break;
    default:
      if (i % 4096 == 15) { /* a whole life */
        dm2_model* other = NULL;
        require(dm2_open(path, NULL, &other) == DM2_OK && dm2_close(other) == DM2_OK, "open", i);
        require(dm2_close(other) == DM2_HANDLE, "closed", i);
      } else {
        dm2_model* none = NULL;
        require(dm2_open("/nowhere/model", NULL, &none) == DM2_FILE && none == NULL, "no file", i);
      }
  }
}

int main(int argc, char** argv) {
  static unsigned char picture[limit];
  static float numbers[4];
  dm2_model* model = NULL;
  long calls, i, before = 0, after;
  size_t size;
  FILE* file;
  if (argc != 4 && argc != 5) return 2;
  file = fopen(argv[2], "rb");
  require(file != NULL, argv[2], 0);
  size = fread(picture, 1, limit, file);
  fclose(file);
  require(dm2_open(argv[1], NULL, &model) == DM2_OK, argv[1], 0);
  calls = atol(argv[3]);
  for (i = 0; i < calls; ++i) {
    if (i == calls / 10) before = resident();
    one(argv[1], model, picture, size, numbers, i);
  }
  after = resident();
  require(dm2_close(model) == DM2_OK, "close", calls);
  printf("%ld calls; resident after a tenth of them %ld KB, at the end %ld KB\n", calls, before, after);
  /* a leak of 5 bytes a call is seen at a million */
  return after > before + (argc == 5 ? atol(argv[4]) : 4096);
}
