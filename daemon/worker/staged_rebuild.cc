// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedMount: a commit that writes the whole image file anew.
//
//   temporary file (broker) → written and synced → `moved`, the log and `mount` are on the disk → the file takes the
//   image's place (broker) → the mount reads from it → the staged data go
//
// Before the exchange the old file is untouched, and the other goes with its last descriptor. A process that finds such
// a commit begun sees by the file's inode whether the exchange has taken place, and goes on behind it.

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "daemon/worker/staged_mount.h"
#include "libmount/base/log.h"
#include "libmount/base/reason.h"
#include "libmount/base/test_seam.h"
#include "libmount/wim/wim_rebuild.h"

namespace dismd {
namespace {

using libmount::BlobHash;
using libmount::MakeErrnoError;
using libmount::MakeError;
using libmount::NullMonitor;
using libmount::OperationMonitor;
using libmount::Reason;
using libmount::StagedTree;
using libmount::UniqueFd;

constexpr char kMovedName[] = "moved";
constexpr size_t kMaxMovedBytes = size_t{1} << 30;
constexpr mode_t kFileMode = 0600;

std::optional<libmount::Compression> CompressionOf(int number) {
  switch (number) {
    case 1: return libmount::Compression::kXpress;
    case 2: return libmount::Compression::kLzx;
    case 3: return libmount::Compression::kLzms;
    default: return std::nullopt;
  }
}

std::string BytesOf(const BlobHash& hash) { return {reinterpret_cast<const char*>(hash.data()), hash.size()}; }

bool SetHash(const std::string& bytes, BlobHash* hash) {
  if (bytes.size() != hash->size()) return false;
  memcpy(hash->data(), bytes.data(), bytes.size());
  return true;
}

absl::Status MovedError(int error) {
  return MakeErrnoError(Reason::kOutOfResources, error, "cannot write what has moved to the staging directory");
}

// Whether the image may be the new file or not.
bool IsOutcomeUnknown(const absl::Status& replaced) {
  const Reason reason = libmount::ReasonOf(replaced);
  return !replaced.ok() && (reason == Reason::kPathTimedOut || reason == Reason::kShuttingDown);
}

// A process that does not know which file it serves, or cannot read it, is of no use: the one that takes its place
// finds out, by what has been noted in the staging directory.
[[noreturn]] void Die(const absl::Status& why) {
  libmount::Log(libmount::Severity::kError,
                absl::StrCat("ending, to be replaced: the image file was written anew: ", why.ToString()));
  _exit(EXIT_FAILURE);
}

}  // namespace

absl::Status StagedMount::Rebuild(const internal::Commit& request, internal::StagedMountState begun,
                                  OperationMonitor& monitor) {
  absl::StatusOr<UniqueFd> made = options_.replacement.create_temporary(monitor);
  if (!made.ok()) {
    options_.replacement.drop_temporary();  // it may come late
    return made.status();
  }
  UniqueFd file = *std::move(made);
  absl::StatusOr<libmount::WimCommitResult> result = WriteAnew(request, file, monitor);
  absl::Status prepared = result.ok() ? PrepareExchange(file, *result, &begun) : result.status();
  if (prepared.ok()) prepared = CheckCancelled(monitor);
  libmount::TestSeam("worker-rebuilt", [&] { return monitor.cancelled(); });
  if (prepared.ok()) prepared = CheckCancelled(monitor);
  if (prepared.ok()) prepared = base_->CheckImageUnchanged();
  if (!prepared.ok()) {
    staged_->AbandonCommit();
    options_.replacement.drop_temporary();
    return prepared;
  }
  // Taken before anyone can find the file, as that of the old one is held.
  flock(file.get(), LOCK_EX | LOCK_NB);
  base_->SuspendChangeDetection();
  const absl::Status replaced = options_.replacement.replace_image(file);
  if (IsOutcomeUnknown(replaced)) Die(replaced);
  if (replaced.ok()) {
    if (absl::Status taken = TakeNewFile(std::move(file), *result, begun); !taken.ok()) Die(taken);
  } else {
    staged_->AbandonCommit();
    options_.replacement.drop_temporary();
  }
  base_->RenewChangeDetection();
  return replaced;
}

absl::StatusOr<libmount::WimCommitResult> StagedMount::WriteAnew(const internal::Commit& request, const UniqueFd& file,
                                                                 OperationMonitor& monitor) {
  libmount::WimRebuildOptions options;
  options.append = request.append();
  options.generate_integrity = request.generate_integrity();
  options.recompress = CompressionOf(request.recompress());
  options.threads = options_.tree.decoder_threads;
  auto contents = staged_->Snapshot();
  if (!contents.ok()) return contents.status();
  // Asked behind the snapshot: what is not changed now was not changed then.
  options.unchanged = !request.append() && !staged_->has_changes();
  return libmount::RebuildWim(options_.image->get(), file.get(), options_.image_name, image_index(), contents->get(),
                              options, monitor);
}

// What a process needs that finds the exchange done.
absl::Status StagedMount::PrepareExchange(const UniqueFd& file, const libmount::WimCommitResult& result,
                                          internal::StagedMountState* begun) {
  internal::StagedMovedBlobs moved;
  for (const StagedTree::MovedBlob& one : staged_->MovedBlobs(result.stored)) {
    internal::StagedMovedBlobs::Blob* blob = moved.add_blobs();
    blob->set_file(one.file);
    blob->set_stream(one.stream);
    blob->set_from(BytesOf(one.from));
    blob->set_to(BytesOf(one.to));
    blob->set_size(one.size);
  }
  const std::string bytes = moved.SerializeAsString();
  UniqueFd list(
      openat(options_.staging.get(), kMovedName, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, kFileMode));
  if (!list) return MovedError(errno);
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t count = pwrite(list.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return MovedError(count < 0 ? errno : ENOSPC);
    done += static_cast<size_t>(count);
  }
  if (fdatasync(list.get()) != 0 || fsync(options_.staging.get()) != 0) return MovedError(errno);
  if (absl::Status told = staged_->PrepareMove(); !told.ok()) return told;
  struct stat attributes;
  if (fstat(file.get(), &attributes) != 0) return absl::ErrnoToStatus(errno, "looking at the new image file");
  begun->set_commit_new_inode(attributes.st_ino);
  return state_.Save(*begun);
}

// The image is the new file. What fails from here on does not undo it.
absl::Status StagedMount::TakeNewFile(UniqueFd file, const libmount::WimCommitResult& result,
                                      internal::StagedMountState now) {
  libmount::TestSeam("worker-replaced");
  // Under the same number: whoever opens the image anew duplicates it.
  if (dup3(file.get(), options_.image->get(), O_CLOEXEC) < 0) {
    return MakeErrnoError(Reason::kOutOfResources, errno, "taking the new image file");
  }
  NullMonitor nobody;
  auto opened = options_.reopen(nobody);
  if (!opened.ok()) return opened.status();
  auto tree = (*opened)->OpenTreeFromMetadata(saved_base_.get(), options_.tree, nobody);
  if (!tree.ok()) return tree.status();
  file_ = *std::move(opened);
  base_->MoveTo(*std::move(tree));
  if (absl::Status settled = staged_->FinishCommit(result.stored); !settled.ok()) return settled;
  libmount::TestSeam("worker-rebuild-finished");
  now.set_image_index(result.image_index);
  if (absl::Status taken = TakeNewImage(&now, nobody); !taken.ok()) return taken;
  now.set_commit_under_way(false);
  now.set_commit_done(true);
  absl::Status saved = state_.Save(now);
  if (saved.ok()) unlinkat(options_.staging.get(), kMovedName, 0);
  return saved;
}

absl::Status StagedMount::FindRebuilt(OperationMonitor& monitor) {
  internal::StagedMountState now = state_.Get();
  struct stat attributes;
  if (fstat(options_.image->get(), &attributes) != 0) return absl::ErrnoToStatus(errno, "looking at the image file");
  rebuilt_ = now.commit_new_inode() != 0 && attributes.st_ino == now.commit_new_inode();
  if (!rebuilt_) {
    options_.replacement.drop_temporary();
    if (absl::Status same = CheckSameImage(monitor); !same.ok()) return same;
    now.set_commit_under_way(false);
    return state_.Save(now);
  }
  if (now.commit_appends()) now.set_image_index(now.commit_old_images() + 1);
  if (absl::Status taken = TakeNewImage(&now, monitor); !taken.ok()) return taken;
  state_.Set(now);  // saved by FinishRebuilt
  return absl::OkStatus();
}

// Behind FindRebuilt, when the staged tree is open and nobody uses it yet.
absl::Status StagedMount::FinishRebuilt() {
  UniqueFd list(openat(options_.staging.get(), kMovedName, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  struct stat attributes;
  const bool there = list && fstat(list.get(), &attributes) == 0;
  if (!there || static_cast<uint64_t>(attributes.st_size) > kMaxMovedBytes) {
    return MakeError(Reason::kBadImageFormat, "the staging directory does not say what has moved in the image file");
  }
  std::string bytes(static_cast<size_t>(attributes.st_size), '\0');
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t count = pread(list.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return absl::ErrnoToStatus(count < 0 ? errno : EIO, "reading what has moved in the image file");
    done += static_cast<size_t>(count);
  }
  internal::StagedMovedBlobs message;
  std::vector<StagedTree::MovedBlob> moved;
  bool good = message.ParseFromString(bytes);
  for (const internal::StagedMovedBlobs::Blob& blob : message.blobs()) {
    StagedTree::MovedBlob& one = moved.emplace_back();
    good = good && SetHash(blob.from(), &one.from) && SetHash(blob.to(), &one.to);
    one.file = blob.file();
    one.stream = blob.stream();
    one.size = blob.size();
  }
  if (!good) return MakeError(Reason::kBadImageFormat, "what the staging directory says of moved data is damaged");
  if (absl::Status taken = staged_->TakeMovedBlobs(moved); !taken.ok()) return taken;
  // On the disk before the state that makes it unnecessary to do again.
  if (int error = staged_->Sync()) return MovedError(error);
  internal::StagedMountState now = state_.Get();
  now.set_commit_under_way(false);
  now.set_commit_done(true);
  absl::Status saved = state_.Save(now);
  if (saved.ok()) unlinkat(options_.staging.get(), kMovedName, 0);
  return saved;
}

void StagedMount::DescribeFile(internal::Committed* committed) const {
  struct stat attributes;
  if (!state_.Get().commit_rebuilds() || !committed->done() || fstat(options_.image->get(), &attributes) != 0) return;
  committed->set_image_device(attributes.st_dev);
  committed->set_image_inode(attributes.st_ino);
}

}  // namespace dismd
