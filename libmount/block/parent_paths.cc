// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/parent_paths.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_join.h"

namespace libmount {
namespace {

constexpr size_t kMaxPathSize = 4096;

// Components of a path with slashes of either kind; those that cannot be names here end the path's use (nullopt).
std::optional<std::vector<std::string>> Split(std::string_view path) {
  if (path.size() > kMaxPathSize || path.find('\0') != std::string_view::npos) return std::nullopt;
  std::vector<std::string> parts;
  while (!path.empty()) {
    const size_t end = std::min(path.find_first_of("/\\"), path.size());
    if (end > 0 && path.substr(0, end) != ".") parts.emplace_back(path.substr(0, end));
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return parts;
}

// Takes ".." out of a path; nullopt where it leads out of the top.
std::optional<std::vector<std::string>> Resolve(const std::vector<std::string>& parts) {
  std::vector<std::string> resolved;
  for (const std::string& part : parts) {
    if (part != "..") {
      resolved.push_back(part);
    } else if (resolved.empty()) {
      return std::nullopt;
    } else {
      resolved.pop_back();
    }
  }
  return resolved;
}

bool IsRelative(const ParentLocator& locator) { return locator.kind == "relative_path" || locator.kind == "W2ru"; }

bool IsPath(const ParentLocator& locator) {
  return IsRelative(locator) || locator.kind == "absolute_win32_path" || locator.kind == "volume_path" ||
         locator.kind == "W2ku" || locator.kind == "name";
}

class Candidates {
 public:
  explicit Candidates(std::vector<std::string> directory) : directory_(std::move(directory)) {}

  void AddBeneathChild(const std::vector<std::string>& parts) {
    std::vector<std::string> whole = directory_;
    whole.insert(whole.end(), parts.begin(), parts.end());
    Add(Resolve(whole));
  }
  // The last components of a path, beside the child and at the top.
  void AddEnds(const std::vector<std::string>& parts) {
    for (size_t count = 1; count <= std::min(parts.size(), kMaxAbsoluteComponents); ++count) {
      const std::vector<std::string> end(parts.end() - static_cast<ptrdiff_t>(count), parts.end());
      if (std::find(end.begin(), end.end(), "..") != end.end() || end.front().find(':') != std::string::npos) return;
      AddBeneathChild(end);
      Add(end);
    }
  }
  std::vector<std::string> Take() { return std::move(paths_); }

 private:
  void Add(const std::optional<std::vector<std::string>>& parts) {
    if (!parts || parts->empty() || paths_.size() >= kMaxParentPaths) return;
    std::string path = absl::StrJoin(*parts, "/");
    if (std::find(paths_.begin(), paths_.end(), path) == paths_.end()) paths_.push_back(std::move(path));
  }

  const std::vector<std::string> directory_;
  std::vector<std::string> paths_;
};

}  // namespace

std::vector<std::string> ParentPaths(const std::vector<ParentLocator>& locators, std::string_view child) {
  std::vector<std::string> directory = Split(child).value_or(std::vector<std::string>());
  if (!directory.empty()) directory.pop_back();
  Candidates candidates(std::move(directory));
  for (const ParentLocator& locator : locators) {
    if (!IsRelative(locator)) continue;
    if (auto parts = Split(locator.value)) candidates.AddBeneathChild(*parts);
  }
  for (const ParentLocator& locator : locators) {
    if (!IsPath(locator)) continue;
    if (auto parts = Split(locator.value)) candidates.AddEnds(*parts);
  }
  return candidates.Take();
}

}  // namespace libmount
