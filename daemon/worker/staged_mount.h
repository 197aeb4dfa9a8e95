// SPDX-License-Identifier: GPL-3.0-or-later
//
// StagedMount: an image that is changed and committed: its staged tree, and what must be remembered beside the edits so
// that another process can go on.
//
//   STAGING/log, data, lock   the edits (libmount/staging)
//   STAGING/base              the image's metadata as of the mount, since commits replace it there and node ids follow
//                             from it
//   STAGING/moved             while a file that was written anew takes the image's place: a StagedMovedBlobs
//   STAGING/mount             a StagedMountState: which image, and how far a commit has got
//
// A commit is begun in `mount` before the image file is touched, and ended there when all is done. A process that finds
// one begun looks into the image file: its metadata are the old ones (what was appended is cut off) or new ones (it was
// done, but for letting the staged data go: they are committed again some time, and stored once only). A commit that
// writes the file anew is in staged_rebuild.cc.
//
// Thread safety: Commit from one thread at a time; the others from any.

#ifndef DAEMON_WORKER_STAGED_MOUNT_H_
#define DAEMON_WORKER_STAGED_MOUNT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "daemon/worker/opened_image.h"
#include "daemon/worker/staged_state.h"
#include "dismd/internal/control.pb.h"
#include "libmount/base/monitor.h"
#include "libmount/base/unique_fd.h"
#include "libmount/staging/staged_tree.h"
#include "libmount/wim/movable_tree.h"
#include "libmount/wim/wim_commit.h"
#include "libmount/wim/wim_file.h"

namespace dismd {

class StagedMount {
 public:
  // Opens the image file anew, as it is now.
  using Reopen = std::function<absl::StatusOr<std::unique_ptr<libmount::WimFile>>(libmount::OperationMonitor& monitor)>;

  struct Options {
    const libmount::UniqueFd* image = nullptr;  // outlives the object
    libmount::UniqueFd staging;
    std::string image_name;  // the file's, for messages
    uint32_t image_index = 0;
    bool unix_data = false;
    bool resumed = false;  // takes the place of a process that died
    libmount::WimTreeOptions tree;
    Reopen reopen;
    ImageReplacement replacement;
  };

  // kImageChanged: edits are there, made to another state of the image; kBadImageFormat (also: the image holds what a
  // commit would lose); kOutOfResources.
  static absl::StatusOr<std::unique_ptr<StagedMount>> Open(Options options, libmount::OperationMonitor& monitor);

  libmount::WimTree* base() { return base_.get(); }
  libmount::StagedTree* tree() { return staged_.get(); }

  // kImageInUse: another program has the file locked. kImageChanged. kCancelled and others: the file is as before.
  absl::StatusOr<internal::Committed> Commit(const internal::Commit& request, libmount::OperationMonitor& monitor);

  internal::Committed LastCommit() const;
  internal::StagingState GetState() const;
  uint32_t image_index() const;

 private:
  explicit StagedMount(Options options) : options_(std::move(options)) {}

  absl::Status Begin(libmount::OperationMonitor& monitor);
  absl::Status GoOn(libmount::OperationMonitor& monitor);
  absl::Status FindOutcome(libmount::OperationMonitor& monitor);
  absl::Status CheckSameImage(libmount::OperationMonitor& monitor) const;
  absl::Status OpenTrees(libmount::OperationMonitor& monitor);
  absl::Status Write(const internal::Commit& request, libmount::OperationMonitor& monitor);
  // staged_rebuild.cc
  absl::Status Rebuild(const internal::Commit& request, internal::StagedMountState begun,
                       libmount::OperationMonitor& monitor);
  absl::StatusOr<libmount::WimCommitResult> WriteAnew(const internal::Commit& request, const libmount::UniqueFd& file,
                                                      libmount::OperationMonitor& monitor);
  absl::Status PrepareExchange(const libmount::UniqueFd& file, const libmount::WimCommitResult& result,
                               internal::StagedMountState* begun);
  absl::Status TakeNewFile(libmount::UniqueFd file, const libmount::WimCommitResult& result,
                           internal::StagedMountState now);
  absl::Status FindRebuilt(libmount::OperationMonitor& monitor);
  absl::Status FinishRebuilt();
  void DescribeFile(internal::Committed* committed) const;
  absl::Status TakeNewImage(internal::StagedMountState* state, libmount::OperationMonitor& monitor);

  Options options_;
  bool rebuilt_ = false;  // a process before this one had put a new file in the image's place, and got no further
  libmount::UniqueFd saved_base_;
  std::unique_ptr<libmount::WimFile> file_;
  std::unique_ptr<libmount::MovableTree> base_;
  std::unique_ptr<libmount::StagedTree> staged_;  // destroyed before its base
  StagedState state_{options_.staging.get()};
};

}  // namespace dismd

#endif  // DAEMON_WORKER_STAGED_MOUNT_H_
