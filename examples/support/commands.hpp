/// @file
/// The commands: each is a program of its own, and a word of the program dm2.
#pragma once

#include <array>
#include <span>
#include <string_view>

namespace dm2::example {

// What main gets, and what it returns; the words before the command's own are left out. extern "C", so that each is the
// same function in whatever namespace its file is compiled: see cmake/together.cmake.
extern "C" {
int train_command(int argc, char** argv);
int evaluate_command(int argc, char** argv);
int classify_command(int argc, char** argv);
int convert_command(int argc, char** argv);
int export_command(int argc, char** argv);
int pack_command(int argc, char** argv);
int plot_command(int argc, char** argv);
int make_shapes_command(int argc, char** argv);
int models_command(int argc, char** argv);
}

/// Whether the program is dm2, of which the command is the first word.
inline bool as_word = false;

/// A command of dm2.
struct dm2_command {
  std::string_view name;
  int (*run)(int argc, char** argv);
  std::string_view summary;  ///< for dm2 --help
};

/// All of them, in the order of dm2 --help.
inline constexpr std::array commands{
    dm2_command{"train", train_command, "trains a model from folders of pictures"},
    dm2_command{"evaluate", evaluate_command, "says how often a model is right on labelled pictures"},
    dm2_command{"classify", classify_command, "says what is in pictures"},
    dm2_command{"convert", convert_command, "converts model files to safetensors, and lists what is in them"},
    dm2_command{"export", export_command, "writes a model as an ONNX file, or as a folder for a model hub"},
    dm2_command{"pack", pack_command, "packs a folder of pictures into a set that is quick to read"},
    dm2_command{"models", models_command, "lists, compiles and removes models' code"},
    dm2_command{"plot", plot_command, "draws curves of a run's logs"},
    dm2_command{"make-shapes", make_shapes_command, "draws a set of pictures to try things with"}};

}  // namespace dm2::example
