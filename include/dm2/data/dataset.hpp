/// @file
/// Labelled pictures in a folder: root/CLASS/picture, with label maps beside them in a second folder.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/image_folder.hpp>
#include <dm2/data/natural_order.hpp>
#include <dm2/data/worker_threads.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace dm2 {

/// How class folders are numbered.
enum class class_order : unsigned char {
  natural,  ///< class2 before class10, as training does (natural_less)
  plain     ///< class10 before class2, byte by byte, as torchvision's ImageFolder does
};

/// The metadata key of the order in which a model file's classes were numbered: "natural" or "plain".
inline constexpr char const* class_order_key = "class_order";

/// The names of the class folders in `root`, in that order. Files are passed over, and so are folders whose name begins
/// with a dot, __MACOSX and \@eaDir; links to folders count as folders.
///
/// Throws file_error if root cannot be listed or has no such folder.
[[nodiscard]] inline std::vector<std::string> class_folders(std::filesystem::path const& root,
                                                            class_order order = class_order::natural) {
  std::vector<std::string> names;
  std::error_code problem;
  for (std::filesystem::directory_iterator at{root, problem}, end; !problem && at != end; at.increment(problem)) {
    std::error_code ignored;
    std::string name = at->path().filename().string();
    if (!detail::is_passed_over(name) && at->is_directory(ignored)) names.push_back(std::move(name));
  }
  if (problem) throw file_error{root, "cannot be listed: " + problem.message()};
  if (names.empty()) throw file_error{root, "has no class folder in it; pictures belong in root/CLASS/"};
  if (order == class_order::plain)
    std::sort(names.begin(), names.end());
  else
    std::sort(names.begin(), names.end(), natural_less);
  return names;
}

/// A dataset's choices, beside its folder.
struct dataset_options {
  std::filesystem::path label_maps{};        ///< folder of label maps; empty for none
  std::vector<std::string> classes{};        ///< class names in the order of their numbers; empty: the folders decide
  class_order order = class_order::natural;  ///< where the folders decide
  int threads = 0;                           ///< that list folders; 0 for one a processor
};

namespace detail {

/// Names one behind the other in one string: 28 bytes for a name of 20 characters, where a std::string takes 64 and a
/// path over 100.
struct packed_names {
  std::string text;
  std::vector<std::size_t> ends;

  void add(std::string_view name) {
    text += name;
    ends.push_back(text.size());
  }
  [[nodiscard]] std::string_view operator[](std::size_t i) const {
    std::size_t const first = i == 0 ? 0 : ends[i - 1];
    return std::string_view{text}.substr(first, ends[i] - first);
  }
};

/// The pictures under `folder`, however deep, relative to it, sorted by path.
[[nodiscard]] inline packed_names pictures_below(std::filesystem::path const& folder) {
  folder_walk walk;
  walk.run(folder);
  packed_names names;
  std::size_t const front = folder.string().size() + 1;
  for (std::filesystem::path const& p : walk.pictures) names.add(p.string().substr(front));
  return names;
}

/// The number of each class; throws std::invalid_argument where a name is there twice.
[[nodiscard]] inline std::map<std::string_view, std::size_t> class_numbers(std::span<std::string const> names) {
  std::map<std::string_view, std::size_t> numbers;
  for (std::size_t c = 0; c < names.size(); ++c)
    if (!numbers.emplace(names[c], c).second) throw std::invalid_argument{"dataset: two classes are named " + names[c]};
  return numbers;
}

}  // namespace detail

/// The samples of a picture folder: root/CLASS/name with the extensions .jpg, .jpeg and .png in any case, also in
/// folders deeper in CLASS, links followed. A value type that holds the names alone, 30 bytes or so a sample, and reads
/// no picture. Samples are sorted by class, then by path, so the numbering does not depend on the system.
///
/// A sample's label map is label_maps/CLASS/stem.pt, stem being the picture's name up to its first dot.
///
/// A validation set is read with the training set's class names (dataset_options::classes), so that a class has the
/// same number in both; classes without a folder have no samples then.
///
/// Throws file_error if a folder cannot be listed, if a class folder is not among the given classes, or if there is no
/// picture at all; std::invalid_argument if a class name is given twice.
class dataset {
 public:
  /// Lists root's class folders on options.threads threads and keeps the names; no picture is opened.
  explicit dataset(std::filesystem::path root, dataset_options options = {})
      : root_{std::move(root)}, label_maps_{std::move(options.label_maps)}, classes_{std::move(options.classes)} {
    std::vector<std::string> const folders = class_folders(root_, options.order);
    if (classes_.empty()) classes_ = folders;
    auto const numbers = detail::class_numbers(classes_);
    for (std::string const& folder : folders)
      if (!numbers.contains(folder))
        throw file_error{root_ / folder, "is none of the " + std::to_string(classes_.size()) + " classes, " +
                                             classes_.front() + " to " + classes_.back()};
    std::vector<detail::packed_names> lists(classes_.size());
    for_each_index(folders.size(), options.threads,
                   [&](std::size_t i) { lists[numbers.at(folders[i])] = detail::pictures_below(root_ / folders[i]); });
    merge(lists);
    if (size() == 0) throw file_error{root_, "has no .jpg, .jpeg or .png file in its class folders"};
  }

  /// Number of samples.
  [[nodiscard]] std::size_t size() const noexcept { return names_.ends.size(); }
  /// Number of classes, those without samples included.
  [[nodiscard]] int classes() const noexcept { return int(classes_.size()); }
  /// The classes' names, in the order of their numbers.
  [[nodiscard]] std::span<std::string const> class_names() const noexcept { return classes_; }
  /// The folder.
  [[nodiscard]] std::filesystem::path const& root() const noexcept { return root_; }
  /// Whether the samples have label maps.
  [[nodiscard]] bool has_label_maps() const noexcept { return !label_maps_.empty(); }

  /// Number of samples of a class, 0 <= c < classes().
  [[nodiscard]] std::size_t samples_of(int c) const { return first_[std::size_t(c) + 1] - first_[std::size_t(c)]; }
  /// The class of sample i < size().
  [[nodiscard]] int label(std::size_t i) const {
    return int(std::upper_bound(first_.begin(), first_.end(), i) - first_.begin()) - 1;
  }
  /// The picture of sample i < size().
  [[nodiscard]] std::filesystem::path image(std::size_t i) const {
    return root_ / classes_[std::size_t(label(i))] / std::filesystem::path{names_[i]};
  }
  /// Where the label map of sample i < size() is, or would be. Throws std::logic_error without has_label_maps().
  [[nodiscard]] std::filesystem::path label_map(std::size_t i) const {
    if (!has_label_maps()) throw std::logic_error{"dataset: label_map of a set without label maps"};
    std::filesystem::path const relative{names_[i]};
    std::string const name = relative.filename().string();
    return label_maps_ / classes_[std::size_t(label(i))] / relative.parent_path() /
           (name.substr(0, name.find('.')) + ".pt");
  }
  /// The classes that have no sample, by name, in the order of their numbers.
  [[nodiscard]] std::vector<std::string> empty_classes() const {
    std::vector<std::string> names;
    for (int c = 0; c < classes(); ++c)
      if (samples_of(c) == 0) names.push_back(classes_[std::size_t(c)]);
    return names;
  }
  /// A hash of the class names, in order, and of each class's names of pictures (FNV-1a). Neither the folder nor the
  /// pictures' contents count.
  [[nodiscard]] std::uint64_t fingerprint() const noexcept {
    std::uint64_t hash = 0xCBF29CE484222325u;
    auto const add = [&](std::string_view text) {
      for (char const c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
      hash *= 0x100000001B3u;  // the end of a name is a byte of zero
    };
    for (std::string const& name : classes_) add(name);
    for (std::size_t c = 0, i = 0; c < classes_.size(); ++c) {
      for (; i < first_[c + 1]; ++i) add(names_[i]);
      add("/");
    }
    return hash;
  }
  /// Bytes that the list of samples takes.
  [[nodiscard]] std::size_t bytes() const noexcept {
    return names_.text.capacity() + sizeof(std::size_t) * (names_.ends.capacity() + first_.capacity());
  }

 private:
  /// One list of the classes' lists, each of which is given back once it is copied.
  void merge(std::vector<detail::packed_names>& lists) {
    std::size_t characters = 0, samples = 0;
    for (auto const& list : lists) {
      characters += list.text.size();
      samples += list.ends.size();
    }
    names_.text.reserve(characters);
    names_.ends.reserve(samples);
    first_.reserve(lists.size() + 1);
    for (auto& list : lists) {
      first_.push_back(names_.ends.size());
      std::size_t const offset = names_.text.size();
      names_.text += list.text;
      for (std::size_t const end : list.ends) names_.ends.push_back(offset + end);
      list = {};
    }
    first_.push_back(names_.ends.size());
  }

  std::filesystem::path root_, label_maps_;
  std::vector<std::string> classes_;
  detail::packed_names names_;      ///< relative to their class's folder
  std::vector<std::size_t> first_;  ///< [classes + 1] first sample of each class, and the end
};

}  // namespace dm2
