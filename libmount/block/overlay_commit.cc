// SPDX-License-Identifier: GPL-3.0-or-later
#include "libmount/block/overlay_commit.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "libmount/base/little_endian.h"
#include "libmount/base/reason.h"
#include "libmount/base/test_seam.h"
#include "libmount/base/unique_fd.h"
#include "libmount/block/container_writer.h"

namespace libmount {
namespace {

constexpr uint64_t kPiece = uint64_t{1} << 20;
// Tables and headers that grow with the file; and something is to be left to others.
constexpr uint64_t kSpareBytes = uint64_t{16} << 20;
constexpr int64_t kNanoseconds = 1'000'000'000;

// While it lives, changes of the image file are our own.
class OwnChange {
 public:
  explicit OwnChange(const DiskImage& image) : image_(image) { image_.SuspendWatch(); }
  ~OwnChange() { image_.RenewWatch(); }
  OwnChange(const OwnChange&) = delete;
  OwnChange& operator=(const OwnChange&) = delete;

 private:
  const DiskImage& image_;
};

// Whether the file system has room for the blocks that the file does not have yet.
absl::Status CheckRoom(const OverlayDevice::Snapshot& snapshot, const DiskImage& image, ContainerWriter& writer,
                       int fd) {
  const DiskFileInfo& file = image.chain().front();
  if (file.block_size == 0) return absl::OkStatus();
  uint64_t needed = 0;
  uint64_t uncounted = 0;  // the first block that is not counted
  for (const OverlayDevice::Run& run : snapshot.runs()) {
    const uint64_t end = run.offset + run.length;
    for (uint64_t at = run.offset; at < end;) {
      const uint64_t block = at / file.block_size;
      const uint64_t block_end = std::min(end, (block + 1) * file.block_size);
      if (block >= uncounted) {
        absl::StatusOr<uint64_t> growth = writer.GrowthFor(at, block_end - at);
        if (!growth.ok()) return growth.status();
        needed += *growth;
        if (*growth != 0) uncounted = block + 1;
      }
      at = block_end;
    }
  }
  struct statvfs space;
  if (needed == 0 || fstatvfs(fd, &space) != 0) return absl::OkStatus();
  const uint64_t available = uint64_t{space.f_bavail} * space.f_frsize;
  if (needed + kSpareBytes <= available) return absl::OkStatus();
  return MakeError(Reason::kDiskFull, absl::StrCat(file.name, " would grow by ", needed, " bytes, and ", available,
                                                   " are free where it lies; nothing was written"));
}

// Lets the snapshot go; FinishCommit did so before where it was called.
class AbandonedUnlessFinished {
 public:
  explicit AbandonedUnlessFinished(OverlayDevice& overlay) : overlay_(overlay) {}
  ~AbandonedUnlessFinished() { overlay_.AbandonCommit(); }
  AbandonedUnlessFinished(const AbandonedUnlessFinished&) = delete;
  AbandonedUnlessFinished& operator=(const AbandonedUnlessFinished&) = delete;

 private:
  OverlayDevice& overlay_;
};

absl::Status WriteRun(const OverlayDevice::Snapshot& snapshot, const OverlayDevice::Run& run, ContainerWriter& writer,
                      std::vector<char>& buffer, ProgressUpdate& progress, OperationMonitor& monitor) {
  for (uint64_t at = 0; at < run.length;) {
    absl::Span<char> piece = absl::MakeSpan(buffer).first(std::min(kPiece, run.length - at));
    if (int error = snapshot.Read(run, at, piece)) {
      return MakeErrnoError(Reason::kOutOfResources, error, "cannot read what is staged");
    }
    if (absl::Status status = writer.Write(run.offset + at, piece); !status.ok()) return status;
    at += piece.size();
    progress.bytes_done += piece.size();
    monitor.Report(progress);
  }
  return absl::OkStatus();
}

absl::Status WriteSnapshot(const OverlayDevice::Snapshot& snapshot, ContainerWriter& writer,
                           OperationMonitor& monitor) {
  std::vector<char> buffer(kPiece);
  ProgressUpdate progress{Phase::kCommitting, 0, snapshot.bytes()};
  bool halfway = false;
  for (const OverlayDevice::Run& run : snapshot.runs()) {
    if (absl::Status status = WriteRun(snapshot, run, writer, buffer, progress, monitor); !status.ok()) return status;
    if (!halfway && progress.bytes_done >= snapshot.bytes() / 2) {
      halfway = true;
      TestSeam("overlay-commit-halfway");
    }
  }
  TestSeam("overlay-commit-unfinished");
  return writer.Finish();
}

// What goes wrong behind the point of no return, with what to do next.
absl::Status StillPending(const absl::Status& status, const std::string& name) {
  const Reason reason = ReasonOf(status);
  return MakeError(reason, absl::StrCat(absl::string_view(status.message().data(), status.message().size()), "; ", name,
                                        " is between two states, and only whole as it is mounted: commit again"));
}

}  // namespace

absl::StatusOr<std::string> DiskIdentity(const DiskImage& image, int fd) {
  struct stat facts;
  if (fstat(fd, &facts) != 0) {
    return MakeErrnoError(Reason::kUnspecified, errno, absl::StrCat(image.chain().front().name, " cannot be examined"));
  }
  std::string identity;
  AppendLe(static_cast<uint64_t>(facts.st_size), identity);
  AppendLe(facts.st_mtim.tv_sec * kNanoseconds + facts.st_mtim.tv_nsec, identity);
  for (const DiskFileInfo& file : image.chain()) {
    // Of the image itself this one changes with our own commits, and the time tells.
    const bool is_image = &file == &image.chain().front();
    absl::StrAppend(&identity, "/", file.identifier, "/", is_image ? "" : file.data_write_identifier, "/",
                    file.virtual_size);
  }
  // Of long chains the parents that are nearest.
  identity.resize(std::min(identity.size(), OverlayDevice::kMaxIdentity));
  return identity;
}

absl::Status CommitOverlay(OverlayDevice& overlay, DiskImage& image, std::unique_ptr<ContainerFile> file,
                           OperationMonitor& monitor) {
  const std::string name = image.chain().front().name;
  if (!overlay.has_changes()) return absl::OkStatus();
  if (absl::Status same = image.CheckUnchanged(); !same.ok()) return same;
  UniqueFd fd(fcntl(file->descriptor(), F_DUPFD_CLOEXEC, 0));
  if (!fd) return MakeErrnoError(Reason::kOutOfResources, errno, "a descriptor for the commit");

  auto snapshot = overlay.TakeSnapshot();
  if (!snapshot.ok()) return snapshot.status();
  const AbandonedUnlessFinished abandoned(overlay);
  std::string new_identity;
  {
    OwnChange own(image);
    auto writer = ContainerWriter::Open(image, std::move(file), monitor);
    if (!writer.ok()) return writer.status();
    if (absl::Status room = CheckRoom(**snapshot, image, **writer, fd.get()); !room.ok()) return room;
    if (absl::Status wanted = CheckCancelled(monitor); !wanted.ok()) return wanted;
    if (absl::Status noted = overlay.NoteCommitBegun(); !noted.ok()) return noted;
    TestSeam("overlay-commit-begun");
    absl::Status written = WriteSnapshot(**snapshot, **writer, monitor);
    if (!written.ok()) return StillPending(written, name);
  }
  TestSeam("overlay-commit-written");
  // The times too, of which the identity is made.
  if (fsync(fd.get()) != 0) {
    return StillPending(MakeErrnoError(Reason::kUnspecified, errno, absl::StrCat(name, ": syncing failed")), name);
  }
  absl::StatusOr<std::string> identity = DiskIdentity(image, fd.get());
  if (!identity.ok()) return StillPending(identity.status(), name);
  return overlay.FinishCommit(*std::move(identity));
}

}  // namespace libmount
