// SPDX-License-Identifier: GPL-3.0-or-later
//
// DataMap: where the bytes of a stream are, taken from the library once; reading through it needs neither the library
// nor its lock.
//
// Thread safety: a DataMap does not change, and any number of threads may read through one.

#ifndef LIBMOUNT_NTFS_DATA_MAP_H_
#define LIBMOUNT_NTFS_DATA_MAP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "libmount/base/errno_or.h"
#include "libmount/block/block_device.h"
#include "libmount/ntfs/library.h"

namespace libmount {

class DataMap {
 public:
  enum class Kind {
    kResident,  // in the MFT record, and here
    kRuns,      // in clusters
    kLibrary,   // compressed or encrypted: the library reads it
    kWof,       // compressed by the Windows Overlay Filter, in another stream (wof.h)
  };

  // A map of an open attribute; under the volume's lock. EIO: its runs make no sense; EFBIG: too many; ENOMEM.
  static ErrnoOr<std::shared_ptr<const DataMap>> Of(ntfs_attr* attribute);
  // A file of the Windows Overlay Filter; `compressed` maps the stream that holds its bytes.
  struct Wof {
    uint32_t algorithm = 0;
    std::shared_ptr<const DataMap> compressed;
  };
  static std::shared_ptr<const DataMap> OfWof(uint64_t size, Wof wof);

  Kind kind() const { return kind_; }
  uint64_t size() const { return size_; }
  const Wof& wof() const { return wof_; }

  // REQUIRES: kResident or kRuns. All of `out`, which lies within the size. 0, EIO, ENOMEM.
  int Read(const BlockDevice& device, uint64_t offset, absl::Span<char> out) const;

  // As lseek(2) with SEEK_DATA or SEEK_HOLE. REQUIRES: offset < size().
  uint64_t NextData(uint64_t offset) const;  // size(): none
  uint64_t NextHole(uint64_t offset) const;

  // Bytes of memory.
  size_t cost() const { return sizeof(*this) + runs_.capacity() * sizeof(Run) + resident_.capacity(); }

 private:
  static constexpr uint64_t kHole = UINT64_MAX;
  struct Run {
    uint64_t vcn;  // the run ends where the next one begins
    uint64_t lcn;  // or kHole
  };

  int MapRuns(ntfs_attr* attribute);
  // REQUIRES: not beyond the end of the runs.
  size_t RunAt(uint64_t vcn) const;

  Kind kind_ = Kind::kResident;
  uint8_t cluster_bits_ = 0;
  uint64_t size_ = 0;
  uint64_t initialized_size_ = 0;  // behind it there are zeros, whatever lies in the clusters
  std::vector<Run> runs_;          // the last one is behind the end
  std::string resident_;
  Wof wof_;
};

}  // namespace libmount

#endif  // LIBMOUNT_NTFS_DATA_MAP_H_
