// What is said of a file that is none of those that were expected.
#include <dm2/data/decode.hpp>
#include <dm2/io/class_list.hpp>
#include <dm2/io/tensor_file.hpp>

#include "io/make_torch.hpp"
#include "io/refusal.hpp"
#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>

using namespace dm2::test;
using namespace std::string_literals;

namespace {
struct kind {
  std::string bytes, name;
};
std::string const lfs = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n";
kind const kinds[] = {
    {lfs, "a git LFS pointer: the file itself was not downloaded"},
    {"\n<!DOCTYPE html>\n<html>", "an HTML page"},
    {"\xEF\xBB\xBF<HTML><head>", "an HTML page"},
    {"<?xml version=\"1.0\"?><Error/>", "an XML file"},
    {"{\"metadata\": {}, \"weight_map\": {\"a\": \"1.safetensors\"}}", "the index of a model in several parts"},
    {"{\"error\": \"not found\"}", "JSON text"},
    {"see the other folder\nfor it", "text: 'see the other folder'"},
    {"PK\5\6"s + std::string(18, '\0'), "an empty zip archive"},
    {std::string(257, 'x') + "ustar", "a tar archive"},
    {"\x1f\x8b\x08\0"s, "compressed by gzip"},
    {"BZh91AY&SY", "compressed by bzip2"},
    {"\xfd"
     "7zXZ\0\0"s,
     "compressed by xz"},
    {"\x28\xb5\x2f\xfd.", "compressed by zstd"},
    {"GGUF\3\0\0\0"s, "a GGUF model"},
    {"\x89HDF\r\n\x1a\n...", "an HDF5 file"},
    {"\x08\x07\x12\x07pytorch", "an ONNX model"},
    {"\x08\x08\x12\x03"
     "dm2\x1A\x05",
     "an ONNX model"},
    {"\x93NUMPY\1\0v"s, "a NumPy array"},
    {"\x1c\0\0\0TFL3"s, "a TensorFlow Lite model"},
    {"\1\2\3"s + std::string(60, '\7') + "\x57\xfb\x80\x8b\x24\x75\x47\xdb", "the index of a TensorFlow checkpoint"},
    {"RIFF\4\0\0\0WEBPVP8 "s, "a WebP picture"},
    {"GIF89a...", "a GIF picture"},
    {"BM\x36\0\0\0\0\0\0\0"s, "a BMP picture"},
    {"II*\0\x08"s, "a TIFF picture"},
    {"MM\0*\0"s, "a TIFF picture"},
    {"\0\0\0\x1c"
     "ftypavif"s,
     "an AVIF picture"},
    {"\0\0\0\x18"
     "ftypheic"s,
     "a HEIC picture"},
    {"\0\0\0\x18"
     "ftypisom"s,
     "a video"},
    {"%PDF-1.7", "a PDF document"},
    {std::string(100, '\0'), "nothing but zeros"},
    {"\1\2\3\4\5", "(it begins with 01 02 03 04)"},
};
}  // namespace

TEST_CASE("unknown files: are called what they are, as weights and as pictures") {
  scratch_folder const folder;
  auto const path = folder / "f";
  for (kind const& one : kinds) {
    CAPTURE(one.name);
    write_raw(path, one.bytes);
    if (!one.bytes.starts_with("PK"))
      CHECK(contains(refusal(path, [&] { dm2::tensor_file{path}; }),
                     "is none of safetensors, torch file and Lightning checkpoint"));
    CHECK(contains(refusal(path, [&] { dm2::tensor_file{path}; }), one.bytes.starts_with("PK") ? "zip" : one.name));
    CHECK(contains(refusal(path, [&] { (void)dm2::read_image(path); }), "is neither a JPEG nor a PNG picture"));
    CHECK(contains(refusal(path, [&] { (void)dm2::read_image(path); }), one.name));
  }
  write_raw(path, read_raw(golden_file("images/photo.jpg")));
  CHECK(contains(refusal(path, [&] { dm2::tensor_file{path}; }), "(it is a JPEG picture)"));
}

TEST_CASE("unknown files: a folder is a folder, and nothing is empty") {
  scratch_folder const folder;
  CHECK(refusal(folder.path(), [&] { dm2::tensor_file{folder.path()}; }) == "is a folder, not a file");
  write_raw(folder / "f", "");
  CHECK(refusal(folder / "f", [&] { dm2::tensor_file{folder / "f"}; }) == "is empty");
  CHECK(refusal(folder / "f", [&] { (void)dm2::read_image(folder / "f"); }) == "is empty");
}

TEST_CASE("unknown files: another program's zip archive, pickle and list of names") {
  scratch_folder const folder;
  auto const path = folder / "f";
  auto const refused = [&](std::string const& bytes) {
    write_raw(path, bytes);
    return refusal(path, [&] { dm2::tensor_file{path}; });
  };
  CHECK(contains(refused(make_zip({{"arr_0.npy", "x"}})), "not a torch file, but NumPy's (.npz)"));
  CHECK(contains(refused(make_zip({{"config.json", "{}"}, {"model.weights.h5", "x"}})), "but Keras's (.keras)"));
  CHECK(contains(refused(proto + global("sklearn.svm", "SVC") + ")R."),
                 "it holds an object of the refused global sklearn.svm SVC"));
  write_raw(path, lfs);
  CHECK(
      contains(refusal(path, [&] { (void)dm2::read_class_list(path); }), "is no list of class names (it is a git LFS"));
}
