/// @file
/// dm2 in C: open a model, classify pictures, train.
///
/// C99, and C++. Everything is in libdm2.so, which has no other symbols to be found.
///
///     dm2_model* model = NULL;
///     if (dm2_open("model.safetensors", NULL, &model) != DM2_OK) puts(dm2_last_error());
///     dm2_prediction best[5];
///     if (dm2_classify_encoded(model, bytes, size, 5, best) == DM2_OK) printf("class %d\n", best[0].index);
///     dm2_close(model);
///
/// **Calls.** Every function that can fail returns a ::dm2_status; #DM2_OK is 0. What failed is in dm2_last_error(). A
/// call that fails has written nothing to the caller's memory and leaves the handle as it was, where its comment says
/// nothing else. No C++ exception leaves the library.
///
/// **Structures.** Those of the caller begin with their own size, `sizeof` of what the caller was compiled with. A
/// later version of dm2 appends members, and takes the older size too; a size that this version does not know is
/// #DM2_ARGUMENT.
///
/// **Handles.** Null, closed and foreign ones are #DM2_HANDLE: a handle is looked up, not followed. (One that was
/// closed may come back as another open one, as any address may.) Two threads may use two handles at a time; calls
/// with one handle wait for each other. One that is closed while another thread's call is in it lives to that call's
/// end.
///
/// **Texts** are UTF-8, as far as files are; those that a handle gives live until it is closed.
#ifndef DM2_H
#define DM2_H

#include <stddef.h>
#include <stdint.h>

/// How the library's symbols are declared.
#if defined(__GNUC__)
#define DM2_API __attribute__((visibility("default")))
#else
#define DM2_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/// What a call came to. Values stay what they are; new ones may be added.
enum dm2_status {
  DM2_OK = 0,        ///< done
  DM2_ARGUMENT = 1,  ///< a null pointer, a structure of unknown size, a value out of range
  DM2_HANDLE = 2,    ///< not an open handle of that kind
  DM2_FILE = 3,      ///< a file that cannot be read or written, is damaged, or holds no such model
  DM2_PICTURE = 4,   ///< bytes that are no picture that can be read
  DM2_SIZE = 5,      ///< a buffer of another size than the call needs; the message has both
  DM2_MEMORY = 6,    ///< memory ran out
  DM2_DEVICE = 7,    ///< no GPU, or none that works, or a precision that the device has not
  DM2_CODE = 8,      ///< the configuration's code is not there, and may not or cannot be compiled
  DM2_NUMBERS = 9,   ///< numbers that are not finite: weights, logits, a loss
  DM2_INTERNAL = 10  ///< anything else
};

/// Where a model computes.
enum dm2_device {
  DM2_DEVICE_CPU = 0,   ///< in fp32
  DM2_DEVICE_CUDA = 1,  ///< on the current NVIDIA GPU
  DM2_DEVICE_AUTO = 2   ///< on a GPU where the library has the backend and one works, else on the CPU
};

/// The numbers that a GPU computes in.
enum dm2_precision {
  DM2_PRECISION_DEFAULT = 0,  ///< fp32 on the CPU, bf16 on a GPU
  DM2_PRECISION_FP32 = 1,     ///< single
  DM2_PRECISION_BF16 = 2,     ///< bfloat16
  DM2_PRECISION_FP16 = 3,     ///< half; for inference
  DM2_PRECISION_TF32 = 4      ///< TensorFloat-32; for inference
};

/// Which of a checkpoint's two sets of weights.
enum dm2_weights {
  DM2_WEIGHTS_AUTO = 0,  ///< the averages where there are any
  DM2_WEIGHTS_EMA = 1,   ///< the averages
  DM2_WEIGHTS_RAW = 2    ///< as they were last trained
};

/// A model with its weights.
typedef struct dm2_model dm2_model;
/// A model in training, with its optimizer and average.
typedef struct dm2_trainer dm2_trainer;

/// Gets a line for people: that something is compiled, which takes a minute. Called by the thread that is in the call.
typedef void (*dm2_say)(void* context, char const* line);

/// How a model is opened. All zero but for the size are the defaults: #DM2_OPEN_OPTIONS.
typedef struct dm2_open_options {
  size_t size;               ///< sizeof(dm2_open_options)
  int32_t device;            ///< a ::dm2_device
  int32_t precision;         ///< a ::dm2_precision
  int32_t weights;           ///< a ::dm2_weights
  int32_t threads;           ///< that compute on the CPU, up to 1024; 0: one a processor
  int32_t compile;           ///< not 0: code that is not there may be compiled and kept, as by the program dm2
  int32_t reserved;          ///< 0
  char const* cache_folder;  ///< of compiled code; NULL: ${XDG_CACHE_HOME:-$HOME/.cache}/dm2
  char const*
      configuration;  ///< what the file does not tell: a preset's name, or a JSON object of fields; NULL: nothing
  dm2_say say;        ///< NULL, or who is told of compiling
  void* say_context;  ///< handed to `say`
} dm2_open_options;

/// The defaults: `dm2_open_options options = DM2_OPEN_OPTIONS;`
#define DM2_OPEN_OPTIONS \
  { sizeof(dm2_open_options), 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL }

/// What a model is.
typedef struct dm2_description {
  size_t size;                ///< sizeof(dm2_description), set by the caller
  int32_t height;             ///< of a picture, in pixels
  int32_t width;              ///< of a picture, in pixels
  int32_t channels;           ///< of a picture: 3
  int32_t classes;            ///< logits of a picture
  int32_t grid_height;        ///< patches in a column
  int32_t grid_width;         ///< patches in a row
  int32_t length;             ///< tokens: the patches and the class token
  int32_t class_token;        ///< the class token's place among them
  int32_t dim;                ///< numbers of a token's features
  int32_t device;             ///< #DM2_DEVICE_CPU or #DM2_DEVICE_CUDA
  int32_t precision;          ///< a ::dm2_precision, not the default
  int32_t averaged;           ///< 1 where the weights are a checkpoint's averages
  size_t parameters;          ///< numbers that are trained
  size_t tensors;             ///< for dm2_tensor_at
  size_t class_names;         ///< as many as classes, or 0; for dm2_class_name
  size_t notices;             ///< for dm2_notice
  char const* name;           ///< "tiny", "tiny with classes 37"
  char const* configuration;  ///< every field, as a JSON object
} dm2_description;

/// A tensor of a model.
typedef struct dm2_tensor {
  size_t size;          ///< sizeof(dm2_tensor), set by the caller
  char const* name;     ///< as in the published state dict: "layers.3.mixer.in_proj.weight"
  int64_t shape[4];     ///< the first `rank` extents; the others are 1
  int32_t rank;         ///< 0 for a scalar
  int32_t trained;      ///< 1 for a parameter that training moves
  size_t count;         ///< numbers
  float const* values;  ///< [count] on the host, row-major, until the model is closed; NULL for a step count
  int64_t steps;        ///< BatchNorm's step count, where `values` is NULL
} dm2_tensor;

/// A class and how likely the model holds it.
typedef struct dm2_prediction {
  int32_t index;      ///< the class, 0 .. classes - 1
  float probability;  ///< softmax over all classes
} dm2_prediction;

/// The library's version: "0.1.0". A library of the same first two numbers has all that this header has.
DM2_API char const* dm2_version(void);

/// What the calling thread's latest failed call failed of; "" before there was one. It lives until the thread's next
/// call that fails.
DM2_API char const* dm2_last_error(void);

/// "DM2_OK", "DM2_FILE" ... ; "unknown" for other numbers.
DM2_API char const* dm2_status_name(int status);

/// Opens a model file: safetensors, torch or Lightning, dm2's own checkpoints among them. The configuration is told by
/// the file; its code is in the library (which models are, docs/c.md says), in the cache, or is compiled.
///
/// `options` may be NULL for the defaults. On success `*model` is a handle for dm2_close; on failure it is NULL.
///
/// #DM2_FILE, naming the file and the tensor; #DM2_NUMBERS where weights are not finite; #DM2_DEVICE; #DM2_CODE.
DM2_API int dm2_open(char const* path, dm2_open_options const* options, dm2_model** model);

/// Closes a handle and frees what it holds. NULL is #DM2_OK; a closed one is #DM2_HANDLE, and harmless.
DM2_API int dm2_close(dm2_model* model);

/// Fills a description whose `size` is set.
DM2_API int dm2_describe(dm2_model* model, dm2_description* description);

/// `*name` = the name of a class. #DM2_ARGUMENT where the file has no names, or no such class.
DM2_API int dm2_class_name(dm2_model* model, int32_t index, char const** name);

/// Fills tensor number `index` of dm2_description::tensors, whose `size` is set.
DM2_API int dm2_tensor_at(dm2_model* model, size_t index, dm2_tensor* tensor);

/// `*line` = notice number `index` of dm2_description::notices: what of the file was assumed, left out or not
/// understood.
DM2_API int dm2_notice(dm2_model* model, size_t index, char const** line);

/// The k best classes of a JPEG or PNG in memory, best first: decoded, resized, cropped and normalised as in
/// evaluation, with the numbers of `dm2 classify`.
///
/// Writes   best[0 .. k - 1].
/// Errors   #DM2_PICTURE; #DM2_ARGUMENT where k is below 1 or over the classes; #DM2_NUMBERS.
DM2_API int dm2_classify_encoded(dm2_model* model, void const* bytes, size_t size, int32_t k, dm2_prediction* best);

/// The same of pixels: red, green and blue bytes, `height` rows of `width` pixels, a row every `stride` bytes (0: 3 *
/// width), of any size.
DM2_API int dm2_classify_pixels(dm2_model* model, uint8_t const* pixels, int32_t height, int32_t width, size_t stride,
                                int32_t k, dm2_prediction* best);

/// The model's input of a JPEG or PNG in memory, as evaluation makes it.
///
/// Writes   input [channels, height, width], normalised; `count` is its numbers, exactly so many.
DM2_API int dm2_input_encoded(dm2_model* model, void const* bytes, size_t size, float* input, size_t count);

/// The same of pixels, laid out as for dm2_classify_pixels.
DM2_API int dm2_input_pixels(dm2_model* model, uint8_t const* pixels, int32_t height, int32_t width, size_t stride,
                             float* input, size_t count);

/// Logits of normalised pictures. A batch that is larger than any before takes more memory, which is kept.
///
/// Shapes   pictures [batch, channels, height, width]; logits [batch, classes], `count` numbers. They may not overlap.
/// Writes   logits; on an error of the device it may be half written.
DM2_API int dm2_forward(dm2_model* model, float const* pictures, size_t batch, float* logits, size_t count);

/// Every token after the last norm, which the heads read.
///
/// Shapes   pictures as dm2_forward; features [batch, length, dim], `count` numbers.
DM2_API int dm2_features(dm2_model* model, float const* pictures, size_t batch, float* features, size_t count);

/// Both heads' logits, the patches' one by one. dm2_forward's are cls + half of each class's largest patch.
///
/// Shapes   pictures as dm2_forward; cls [batch, classes], cls_count numbers; patches [batch, grid_height, grid_width,
///          classes], patches_count numbers.
DM2_API int dm2_patches(dm2_model* model, float const* pictures, size_t batch, float* cls, size_t cls_count,
                        float* patches, size_t patches_count);

/// Writes the model as safetensors, whole or not at all, with its configuration and class names.
DM2_API int dm2_save(dm2_model* model, char const* path);

/// What an exported model takes as its input `pixel_values`, of any batch.
enum dm2_export_input {
  DM2_EXPORT_NORMALISED = 0,  ///< float [batch, channels, height, width], as dm2_input_pixels writes it
  DM2_EXPORT_UNIT = 1,        ///< float [batch, 3, height, width] from 0 to 1; normalised inside
  DM2_EXPORT_BYTES = 2        ///< uint8 [batch, height, width, 3], red, green and blue; normalised inside
};

/// How a model is exported. All zero but for the size are the defaults: #DM2_EXPORT_OPTIONS.
typedef struct dm2_export_options {
  size_t size;            ///< sizeof(dm2_export_options)
  int32_t input;          ///< a ::dm2_export_input
  int32_t half;           ///< not 0: weights and most of the computation in half precision
  int32_t features;       ///< not 0: an output `features` [batch, length, dim], as dm2_features
  int32_t patches;        ///< not 0: an output `patches` [batch, grid_height, grid_width, classes]
  int32_t external_data;  ///< not 0: weights in a file of their own, PATH.data; from 1.75 GB on they always are
  int32_t chunk;          ///< tokens of a scan's chunk; 0: what costs least
  char const* const* class_names;  ///< one a class, for the file's metadata; NULL: the model's, where it has them
} dm2_export_options;

/// The defaults: `dm2_export_options options = DM2_EXPORT_OPTIONS;`
#define DM2_EXPORT_OPTIONS \
  { sizeof(dm2_export_options), 0, 0, 0, 0, 0, 0, NULL }

/// Writes the model as an ONNX file (opset 17), whole or not at all: what `dm2 export` writes of the same weights, byte
/// by byte. One that is there is replaced. The output is `logits` [batch, classes], and what the options ask for. No
/// code of the model is needed, and no GPU computes.
///
///     dm2_export_options options = DM2_EXPORT_OPTIONS;
///     options.input = DM2_EXPORT_BYTES;
///     dm2_export_onnx(model, "model.onnx", &options);
///
/// `options` may be NULL for the defaults. #DM2_ARGUMENT for an option that makes no sense; #DM2_NUMBERS, naming the
/// tensor, where a weight does not fit half precision; #DM2_FILE where the file cannot be written.
DM2_API int dm2_export_onnx(dm2_model* model, char const* path, dm2_export_options const* options);

/// Writes the model as a folder for model hubs, as `dm2 export --hub`: model.safetensors, onnx/model.onnx (of the
/// options), README.md (a model card; one that is there is kept) and config.json, each whole or not at all. The folder
/// is made where it is not there. Options and errors as dm2_export_onnx.
DM2_API int dm2_export_hub(dm2_model* model, char const* folder, dm2_export_options const* options);

/// The rule that moves the weights.
enum dm2_optimizer {
  DM2_OPTIMIZER_LION = 0,  ///< the published recipe's
  DM2_OPTIMIZER_ADAMW = 1  ///< Adam with decoupled weight decay
};

/// What is trained, and how. dm2_trainer_defaults fills in the published recipe.
typedef struct dm2_trainer_options {
  size_t size;                ///< sizeof(dm2_trainer_options)
  char const* configuration;  ///< a preset's name, or a JSON object of fields over its "base" (tiny), or over `start`'s
  char const* start;          ///< a model file to start from; NULL: the seed's random weights
  char const* cache_folder;   ///< as dm2_open_options has it
  char const* const* class_names;  ///< one a class, for the files that are written; NULL: none
  dm2_say say;                     ///< as dm2_open_options has it
  void* say_context;               ///< handed to `say`
  int32_t device;                  ///< a ::dm2_device
  int32_t precision;               ///< a ::dm2_precision: fp32 or bf16
  int32_t threads;                 ///< as dm2_open_options has it
  int32_t compile;                 ///< as dm2_open_options has it
  int32_t batch;                   ///< pictures of a micro-batch (256)
  int32_t accumulate;              ///< the most micro-batches of a step (4)
  int32_t optimizer;               ///< a ::dm2_optimizer
  int32_t frozen;                  ///< so many layers from the stem on stay as they are (0)
  int32_t mix_token;               ///< not 0: pictures of a micro-batch exchange a box of patches (1)
  int32_t ema_warm_up;             ///< not 0: the average starts with a smaller decay (0)
  double weight_decay;             ///< of every parameter (0.5)
  double beta1;                    ///< the optimizer's (0.9)
  double beta2;                    ///< the optimizer's (0.99)
  double eps;                      ///< AdamW's (1e-8)
  double clip_norm;                ///< the gradient is scaled down to this norm; 0: not (0)
  double ema_decay;                ///< part of the average that a step keeps (0.9999)
  double smoothing;                ///< of the targets, 0 to 1 (0.1)
  double layer_decay;              ///< layer i learns at layer_decay^(depth + 1 - i) of the rate (1)
  double head_scale;               ///< the heads learn at so many times their rate (1)
  uint64_t seed;                   ///< of the first weights and the boxes (0)
} dm2_trainer_options;

/// Pictures of a step, with their classes. Of `pixels` and `pictures` one is NULL.
typedef struct dm2_batch {
  size_t size;            ///< sizeof(dm2_batch)
  uint8_t const* pixels;  ///< [count, height, width, 3] red, green and blue bytes of the model's picture size
  float const* pictures;  ///< [count, 3, height, width], normalised
  int32_t const* labels;  ///< [count], 0 .. classes - 1
  size_t count;           ///< a whole number of micro-batches, 1 to `accumulate` of them
} dm2_batch;

/// What a step came to.
typedef struct dm2_step {
  size_t size;           ///< sizeof(dm2_step), set by the caller
  double loss;           ///< mean over the micro-batches
  double gradient_norm;  ///< before clipping; 0 where clipping is off
  int64_t steps;         ///< done so far, this one included
} dm2_step;

/// Fills options, whose `size` is set, with the published recipe; what is named is NULL.
DM2_API int dm2_trainer_defaults(dm2_trainer_options* options);

/// Makes a model to train. With `start` weights are taken as by `dm2 train --pretrained`: what does not fit begins
/// anew. On success `*trainer` is a handle for dm2_trainer_close; on failure it is NULL. Errors as dm2_open.
DM2_API int dm2_trainer_open(dm2_trainer_options const* options, dm2_trainer** trainer);

/// Closes a handle, as dm2_close.
DM2_API int dm2_trainer_close(dm2_trainer* trainer);

/// One step of the optimizer at learning rate `rate`: forward and backward of each micro-batch, then the weights and
/// their average move. `step` may be NULL; its `size` is set.
///
/// The same options, batches and rates give the same bytes on one device with one number of threads.
///
/// Errors   #DM2_SIZE for a count that is no whole number of micro-batches; #DM2_ARGUMENT for a class that there is
///          not; #DM2_NUMBERS where a loss or a gradient is not finite: the trainer makes no step any more then.
DM2_API int dm2_trainer_step(dm2_trainer* trainer, dm2_batch const* batch, double rate, dm2_step* step);

/// Writes a model file of the weights, whole or not at all: #DM2_WEIGHTS_EMA (and AUTO) the averages, RAW the others.
DM2_API int dm2_trainer_save(dm2_trainer* trainer, char const* path, int32_t weights);

/// Writes a training checkpoint, whole or not at all: weights, averages, momenta and counts, each with a checksum.
/// dm2_open reads it, too.
DM2_API int dm2_trainer_checkpoint(dm2_trainer* trainer, char const* path);

/// Goes on from a checkpoint of dm2_trainer_checkpoint, with the bytes that an uninterrupted run would have had. The
/// options are the caller's to repeat. #DM2_FILE where it is of another configuration or optimizer, or damaged; nothing
/// is changed then.
DM2_API int dm2_trainer_resume(dm2_trainer* trainer, char const* path);

#ifdef __cplusplus
}
#endif

#endif
