// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/ntfs/data_map.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "libmount/ntfs/attributes.h"
#include "libmount/ntfs/volume.h"

namespace libmount {
namespace {

// A file in more pieces than this is damaged, or not worth the memory.
constexpr size_t kMaxRuns = 4u << 20;

}  // namespace

ErrnoOr<std::shared_ptr<const DataMap>> DataMap::Of(ntfs_attr* attribute) {
  auto map = std::make_shared<DataMap>();
  map->cluster_bits_ = attribute->ni->vol->cluster_size_bits;
  map->size_ = static_cast<uint64_t>(attribute->data_size);
  map->initialized_size_ = std::min(map->size_, static_cast<uint64_t>(attribute->initialized_size));
  if (NAttrEncrypted(attribute) != 0) {
    // Raw, as tools that keep such files want them: whole sectors, and behind them two bytes for how many bytes of the
    // last one count.
    map->kind_ = Kind::kLibrary;
    map->size_ = ((map->size_ + 511) & ~uint64_t{511}) + 2;
  } else if ((DataFlagsOf(attribute) & kDataCompressed) != 0) {
    map->kind_ = Kind::kLibrary;
  } else if (NAttrNonResident(attribute)) {
    map->kind_ = Kind::kRuns;
    if (int error = map->MapRuns(attribute)) return Errno(error);
  } else {
    map->resident_.resize(map->size_);
    errno = 0;
    const s64 got = ntfs_attr_pread(attribute, 0, attribute->data_size, map->resident_.data());
    if (got != attribute->data_size) return Errno(LibraryErrno() == ENOMEM ? ENOMEM : EIO);
  }
  return std::shared_ptr<const DataMap>(std::move(map));
}

std::shared_ptr<const DataMap> DataMap::OfWof(uint64_t size, Wof wof) {
  auto map = std::make_shared<DataMap>();
  map->kind_ = Kind::kWof;
  map->size_ = size;
  map->wof_ = std::move(wof);
  return map;
}

int DataMap::MapRuns(ntfs_attr* attribute) {
  if (size_ == 0) return 0;
  errno = 0;
  if (ntfs_attr_map_whole_runlist(attribute) != 0) return LibraryErrno() == ENOMEM ? ENOMEM : EIO;
  const uint64_t clusters = ((size_ - 1) >> cluster_bits_) + 1;
  const auto volume_clusters = static_cast<uint64_t>(attribute->ni->vol->nr_clusters);
  uint64_t vcn = 0;
  for (const runlist_element* run = attribute->rl; run != nullptr && run->length != 0 && vcn < clusters; ++run) {
    if (static_cast<uint64_t>(run->vcn) != vcn || run->length < 0) return EIO;
    const auto length = static_cast<uint64_t>(run->length);
    const bool hole = run->lcn == LCN_HOLE;
    if (!hole && (run->lcn < 0 || static_cast<uint64_t>(run->lcn) > volume_clusters ||
                  length > volume_clusters - static_cast<uint64_t>(run->lcn))) {
      return EIO;
    }
    if (runs_.size() >= kMaxRuns) return EFBIG;
    runs_.push_back({vcn, hole ? kHole : static_cast<uint64_t>(run->lcn)});
    if (__builtin_add_overflow(vcn, length, &vcn)) return EIO;
  }
  if (vcn < clusters) return EIO;
  runs_.push_back({vcn, kHole});
  runs_.shrink_to_fit();
  return 0;
}

size_t DataMap::RunAt(uint64_t vcn) const {
  auto behind =
      std::upper_bound(runs_.begin(), runs_.end(), vcn, [](uint64_t a, const Run& run) { return a < run.vcn; });
  return static_cast<size_t>(behind - runs_.begin()) - 1;
}

int DataMap::Read(const BlockDevice& device, uint64_t offset, absl::Span<char> out) const {
  if (kind_ == Kind::kResident) {
    std::copy_n(resident_.data() + offset, out.size(), out.data());
    return 0;
  }
  if (out.empty()) return 0;
  const uint64_t known = offset < initialized_size_ ? std::min<uint64_t>(out.size(), initialized_size_ - offset) : 0;
  memset(out.data() + known, 0, out.size() - known);
  out = out.first(known);
  if (out.empty()) return 0;
  for (size_t i = RunAt(offset >> cluster_bits_); !out.empty(); ++i) {
    const uint64_t run_at = runs_[i].vcn << cluster_bits_;
    const uint64_t run_end = runs_[i + 1].vcn << cluster_bits_;
    const size_t length = std::min<uint64_t>(out.size(), run_end - offset);
    if (runs_[i].lcn == kHole) {
      memset(out.data(), 0, length);
    } else {
      const uint64_t at = (runs_[i].lcn << cluster_bits_) + (offset - run_at);
      if (int error = device.Read(at, out.first(length))) return error == ENOMEM ? ENOMEM : EIO;
    }
    out.remove_prefix(length);
    offset += length;
  }
  return 0;
}

uint64_t DataMap::NextData(uint64_t offset) const {
  if (kind_ != Kind::kRuns) return offset;
  for (size_t i = RunAt(offset >> cluster_bits_); i + 1 < runs_.size(); ++i) {
    if (runs_[i].lcn != kHole) return std::min(size_, std::max(offset, runs_[i].vcn << cluster_bits_));
  }
  return size_;
}

uint64_t DataMap::NextHole(uint64_t offset) const {
  if (kind_ != Kind::kRuns) return size_;
  for (size_t i = RunAt(offset >> cluster_bits_); i + 1 < runs_.size(); ++i) {
    if (runs_[i].lcn == kHole) return std::min(size_, std::max(offset, runs_[i].vcn << cluster_bits_));
  }
  return size_;
}

}  // namespace libmount
