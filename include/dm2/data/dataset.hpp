/// @file
/// Labelled pictures: in a folder, root/CLASS/picture, with label maps in a second one, or in a packed set.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/image_folder.hpp>
#include <dm2/data/label_map_file.hpp>
#include <dm2/data/natural_order.hpp>
#include <dm2/data/pack/packed_set.hpp>
#include <dm2/data/picture_bytes.hpp>
#include <dm2/data/worker_threads.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
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

namespace detail {

/// The class names of a packed set, as they stand in it.
[[nodiscard]] inline std::vector<std::string> packed_class_names(pack_index const& index) {
  std::vector<std::string> names;
  for (std::size_t c = 0; c < index.classes(); ++c) names.emplace_back(index.class_name(c));
  return names;
}

inline void sort_classes(std::vector<std::string>& names, class_order order) {
  if (order == class_order::plain)
    std::sort(names.begin(), names.end());
  else
    std::sort(names.begin(), names.end(), natural_less);
}

}  // namespace detail

/// The names of the class folders in `root`, in that order; of a packed set, its classes. Files are passed over, and so
/// are folders whose name begins with a dot, __MACOSX and \@eaDir; links to folders count as folders.
///
/// Throws file_error if root cannot be listed or has no such folder, or is a packed set with a damaged index.
[[nodiscard]] inline std::vector<std::string> class_folders(std::filesystem::path const& root,
                                                            class_order order = class_order::natural) {
  std::vector<std::string> names;
  if (is_packed_set(root)) {
    mapped_file const file{root / pack_index_name};
    names = detail::packed_class_names({file.bytes(), file.path()});
    detail::sort_classes(names, order);
    return names;
  }
  std::error_code problem;
  for (std::filesystem::directory_iterator at{root, problem}, end; !problem && at != end; at.increment(problem)) {
    std::error_code ignored;
    std::string name = at->path().filename().string();
    if (!detail::is_passed_over(name) && at->is_directory(ignored)) names.push_back(std::move(name));
  }
  if (problem) throw file_error{root, "cannot be listed: " + problem.message()};
  if (names.empty()) throw file_error{root, "has no class folder in it; pictures belong in root/CLASS/"};
  detail::sort_classes(names, order);
  return names;
}

/// A dataset's choices, beside its folder.
struct dataset_options {
  std::filesystem::path label_maps{};        ///< folder of label maps, or the packed set itself; empty for none
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

/// A class folder that is none of the classes that were given.
class unknown_class : public file_error {
 public:
  using file_error::file_error;
};

/// The samples of a picture folder: root/CLASS/name with the extensions .jpg, .jpeg and .png in any case, also in
/// folders deeper in CLASS, links followed. A value type that holds the names alone, 30 bytes or so a sample, and reads
/// no picture. Samples are sorted by class, then by path, so the numbering does not depend on the system.
///
/// A sample's label map is label_maps/CLASS/stem.pt, stem being the picture's name up to its first dot.
///
/// A root that is a packed set (is_packed_set) has the samples of the folder that it was packed from, in the same order
/// and of the same names. With label_maps naming that set too, they have the label maps in it. Copies share the set.
///
/// A validation set is read with the training set's class names (dataset_options::classes), so that a class has the
/// same number in both; classes without a folder have no samples then.
///
/// Throws file_error if a folder cannot be listed, unknown_class if a class folder is not among the given classes,
/// file_error if there is no picture at all; std::invalid_argument if a class name is given twice.
class dataset {
 public:
  /// Lists root's class folders on options.threads threads and keeps the names, or opens the packed set; no picture is
  /// read.
  explicit dataset(std::filesystem::path root, dataset_options options = {})
      : root_{std::move(root)}, label_maps_{std::move(options.label_maps)}, classes_{std::move(options.classes)} {
    if (is_packed_set(root_)) set_ = std::make_shared<packed_set const>(root_);
    choose_label_maps();
    std::vector<std::string> const folders =
        set_ ? detail::packed_class_names(set_->index()) : class_folders(root_, options.order);
    if (classes_.empty()) {
      classes_ = folders;
      detail::sort_classes(classes_, options.order);
    }
    auto const numbers = detail::class_numbers(classes_);
    for (std::string const& folder : folders)
      if (!numbers.contains(folder))
        throw unknown_class{root_ / folder, "is none of the " + std::to_string(classes_.size()) + " classes, " +
                                                classes_.front() + " to " + classes_.back()};
    if (set_)
      number_records(folders, numbers);
    else
      list_files(folders, numbers, options.threads);
    if (size() == 0) throw file_error{root_, "has no .jpg, .jpeg or .png file in its class folders"};
  }

  /// Number of samples.
  [[nodiscard]] std::size_t size() const noexcept { return first_.empty() ? 0 : first_.back(); }
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
  /// The name of sample i < size(), relative to its class's folder; valid as long as the set.
  [[nodiscard]] std::string_view name(std::size_t i) const { return name_in(std::size_t(label(i)), i); }
  /// Where the picture of sample i < size() is; of a packed set, where it would be in a folder, for messages.
  [[nodiscard]] std::filesystem::path image(std::size_t i) const {
    return root_ / classes_[std::size_t(label(i))] / std::filesystem::path{name(i)};
  }
  /// The packed set that the samples are in; null where they are files.
  [[nodiscard]] std::shared_ptr<packed_set const> const& packed() const noexcept { return set_; }
  /// The number in packed() of sample i < size().
  [[nodiscard]] std::size_t record(std::size_t i) const { return record_in(std::size_t(label(i)), i); }
  /// The encoded picture of sample i < size(). Throws file_error where it cannot be read, or is damaged in its set.
  [[nodiscard]] picture_bytes open_image(std::size_t i) const {
    return set_ ? picture_bytes{set_, record(i)} : picture_bytes{image(i)};
  }
  /// The picture of sample i < size(). Throws file_error as open_image and decode_image do.
  [[nodiscard]] picture load_image(std::size_t i, decode_options const& options = {}) const {
    picture_bytes const file = open_image(i);
    return decode_image(file.bytes(), file.name(), options);
  }
  /// Where the label map of sample i < size() is, or would be. Throws std::logic_error without has_label_maps().
  [[nodiscard]] std::filesystem::path label_map(std::size_t i) const {
    if (!has_label_maps()) throw std::logic_error{"dataset: label_map of a set without label maps"};
    return label_maps_ / classes_[std::size_t(label(i))] / detail::label_map_name(std::filesystem::path{name(i)});
  }
  /// The label map of sample i < size(), for that many classes. Throws as label_map, and file_error as read_label_map.
  [[nodiscard]] label_map_data load_label_map(std::size_t i, int classes) const {
    return maps_packed_ ? set_->label_map(record(i), classes) : read_label_map(label_map(i), classes);
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
      for (; i < first_[c + 1]; ++i) add(name_in(c, i));
      add("/");
    }
    return hash;
  }
  /// Bytes that the list of samples takes.
  [[nodiscard]] std::size_t bytes() const noexcept {
    return names_.text.capacity() +
           sizeof(std::size_t) * (names_.ends.capacity() + first_.capacity() + first_record_.capacity());
  }

 private:
  [[nodiscard]] std::size_t record_in(std::size_t c, std::size_t i) const { return first_record_[c] + (i - first_[c]); }
  [[nodiscard]] std::string_view name_in(std::size_t c, std::size_t i) const {
    return set_ ? set_->name(record_in(c, i)) : names_[i];
  }

  /// Whether label maps are those in the packed set. Throws file_error where they cannot be.
  void choose_label_maps() {
    if (label_maps_.empty() || !is_packed_set(label_maps_)) return;
    std::error_code ignored;
    if (!set_ || !std::filesystem::equivalent(label_maps_, root_, ignored))
      throw file_error{label_maps_, "is a packed set, whose label maps go with its own pictures, not with those of " +
                                        root_.string()};
    if (!set_->has_label_maps()) throw file_error{root_, "was packed without label maps"};
    maps_packed_ = true;
  }

  /// Lists the pictures of the class folders.
  void list_files(std::span<std::string const> names, std::map<std::string_view, std::size_t> const& numbers,
                  int threads) {
    std::vector<detail::packed_names> lists(classes_.size());
    for_each_index(names.size(), threads,
                   [&](std::size_t i) { lists[numbers.at(names[i])] = detail::pictures_below(root_ / names[i]); });
    merge(lists);
  }

  /// Gives the packed set's records the numbers of their classes.
  void number_records(std::span<std::string const> names, std::map<std::string_view, std::size_t> const& numbers) {
    first_record_.assign(classes_.size(), 0);
    std::vector<std::size_t> counts(classes_.size());
    for (std::size_t c = 0; c < names.size(); ++c) {
      std::size_t const number = numbers.at(names[c]);
      first_record_[number] = set_->first_of(c);
      counts[number] = set_->first_of(c + 1) - set_->first_of(c);
    }
    first_.assign(1, 0);
    for (std::size_t const count : counts) first_.push_back(first_.back() + count);
  }

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
  detail::packed_names names_;      ///< of files, relative to their class's folder
  std::vector<std::size_t> first_;  ///< [classes + 1] first sample of each class, and the end
  std::shared_ptr<packed_set const> set_;
  std::vector<std::size_t> first_record_;  ///< of a packed set: [classes]
  bool maps_packed_ = false;
};

}  // namespace dm2
