// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/worker/staged_mount.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "daemon/worker/image_info_message.h"
#include "libmount/base/reason.h"
#include "libmount/base/test_seam.h"
#include "libmount/wim/wim_commit.h"

namespace dismd {
namespace {

using libmount::MakeErrnoError;
using libmount::MakeError;
using libmount::NullMonitor;
using libmount::OperationMonitor;
using libmount::Reason;
using libmount::UniqueFd;
using libmount::WimFile;

constexpr char kBaseName[] = "base";
constexpr char kNewBaseName[] = "base.new";
constexpr mode_t kFileMode = 0600;

// Saved metadata begin with a mark of 8 bytes and the hash of the rest (libmount/wim/saved_metadata.h).
constexpr off_t kHashAt = 8;
constexpr size_t kHashBytes = 20;

absl::StatusOr<std::string> HashOfSaved(int fd) {
  std::string hash(kHashBytes, '\0');
  if (pread(fd, hash.data(), hash.size(), kHashAt) != static_cast<ssize_t>(hash.size())) {
    return MakeError(Reason::kBadImageFormat, "the saved metadata of the image are damaged");
  }
  return hash;
}

// Of an image's metadata, as they are in the file now.
absl::StatusOr<std::string> HashOfImage(const WimFile& file, uint32_t index, OperationMonitor& monitor) {
  UniqueFd memory(memfd_create("metadata", MFD_CLOEXEC));
  if (!memory) return MakeErrnoError(Reason::kOutOfResources, errno, "memory for the metadata of the image");
  if (absl::Status saved = file.SaveMetadata(index, memory.get(), monitor); !saved.ok()) return saved;
  return HashOfSaved(memory.get());
}

// While it lives, changes of the file are our own.
class OwnChange {
 public:
  explicit OwnChange(libmount::WimTree* tree) : tree_(tree) { tree_->SuspendChangeDetection(); }
  ~OwnChange() { tree_->RenewChangeDetection(); }
  OwnChange(const OwnChange&) = delete;
  OwnChange& operator=(const OwnChange&) = delete;

 private:
  libmount::WimTree* const tree_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<StagedMount>> StagedMount::Open(Options options, OperationMonitor& monitor) {
  std::unique_ptr<StagedMount> mount(new StagedMount(std::move(options)));
  mount->saved_base_.reset(openat(mount->options_.staging.get(), kBaseName, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  absl::Status opened = mount->saved_base_ ? mount->GoOn(monitor) : mount->Begin(monitor);
  if (opened.ok()) opened = mount->OpenTrees(monitor);
  if (opened.ok() && mount->rebuilt_) opened = mount->FinishRebuilt();
  if (!opened.ok()) return opened;
  return mount;
}

absl::Status StagedMount::Begin(OperationMonitor& monitor) {
  auto file = options_.reopen(monitor);
  if (!file.ok()) return file.status();
  file_ = *std::move(file);
  if (options_.image_index == 0 || options_.image_index > file_->images().size()) {
    return MakeError(Reason::kImageChanged, absl::StrCat(options_.image_name, " was changed while it was opened"));
  }
  UniqueFd base(
      openat(options_.staging.get(), kNewBaseName, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, kFileMode));
  if (!base) return StagingError("cannot create a file");
  if (absl::Status saved = file_->SaveMetadata(options_.image_index, base.get(), monitor); !saved.ok()) return saved;
  absl::StatusOr<std::string> hash = HashOfSaved(base.get());
  if (!hash.ok()) return hash.status();
  internal::StagedMountState state;
  state.set_image_index(options_.image_index);
  state.set_image_name(ToValidUtf8(file_->images()[options_.image_index - 1].name));
  state.set_metadata_hash(*hash);
  state.set_unix_data(options_.unix_data);
  if (absl::Status saved = state_.Save(state); !saved.ok()) return saved;
  if (renameat(options_.staging.get(), kNewBaseName, options_.staging.get(), kBaseName) != 0 ||
      fsync(options_.staging.get()) != 0) {
    return StagingError("cannot name a file");
  }
  saved_base_ = std::move(base);
  return absl::OkStatus();
}

absl::Status StagedMount::GoOn(OperationMonitor& monitor) {
  if (absl::Status loaded = state_.Load(); !loaded.ok()) return loaded;
  ImageLock::Release(options_.image->get());
  auto file = options_.reopen(monitor);
  if (!file.ok()) return file.status();
  file_ = *std::move(file);
  if (state_.Get().commit_under_way())
    return state_.Get().commit_rebuilds() ? FindRebuilt(monitor) : FindOutcome(monitor);
  return CheckSameImage(monitor);
}

absl::Status StagedMount::CheckSameImage(OperationMonitor& monitor) const {
  absl::StatusOr<std::string> hash = HashOfImage(*file_, state_.Get().image_index(), monitor);
  if (!hash.ok()) return hash.status();
  if (*hash == state_.Get().metadata_hash()) return absl::OkStatus();
  return MakeError(Reason::kImageChanged,
                   absl::StrCat("another program changed image ", state_.Get().image_index(), " of ",
                                options_.image_name, " since it was mounted; put the file back, or discard the edits"));
}

absl::Status StagedMount::FindOutcome(OperationMonitor& monitor) {
  internal::StagedMountState now = state_.Get();
  bool done;
  if (now.commit_appends()) {
    done = file_->images().size() > now.commit_old_images();
    if (done) now.set_image_index(now.commit_old_images() + 1);
  } else {
    absl::StatusOr<std::string> hash = HashOfImage(*file_, now.image_index(), monitor);
    if (!hash.ok()) return hash.status();
    done = *hash != now.metadata_hash();
  }
  if (!done) {
    absl::Status cut =
        libmount::RemoveUncommittedTail(options_.image->get(), options_.image_name, now.commit_old_size());
    if (!cut.ok()) return cut;
    auto file = options_.reopen(monitor);  // its size is another
    if (!file.ok()) return file.status();
    file_ = *std::move(file);
  }
  now.set_commit_under_way(false);
  now.set_commit_done(done);
  if (done) {
    if (absl::Status taken = TakeNewImage(&now, monitor); !taken.ok()) return taken;
  }
  return state_.Save(now);
}

// What the file says of the image after a commit.
absl::Status StagedMount::TakeNewImage(internal::StagedMountState* state, OperationMonitor& monitor) {
  if (state->image_index() > file_->images().size()) {
    return MakeError(Reason::kImageChanged, absl::StrCat(options_.image_name, " has lost the image"));
  }
  absl::StatusOr<std::string> hash = HashOfImage(*file_, state->image_index(), monitor);
  if (!hash.ok()) return hash.status();
  state->set_metadata_hash(*hash);
  state->set_image_name(ToValidUtf8(file_->images()[state->image_index() - 1].name));
  return absl::OkStatus();
}

absl::Status StagedMount::OpenTrees(OperationMonitor& monitor) {
  auto base = file_->OpenTreeFromMetadata(saved_base_.get(), options_.tree, monitor);
  if (!base.ok()) return base.status();
  if ((*base)->base_image() == nullptr || (*base)->blob_store() == nullptr) {
    return absl::InternalError("the image cannot be laid under changes");
  }
  base_ = std::make_unique<libmount::MovableTree>(*std::move(base));
  if (base_->dropped_entries() != 0) {
    return MakeError(Reason::kBadImageFormat,
                     absl::StrCat(options_.image_name, " has ", base_->dropped_entries(),
                                  " damaged entries that cannot be shown, and that a commit would lose; mount it "
                                  "read-only, or repair it first"));
  }
  libmount::StagedTreeOptions options;
  options.uid = options_.tree.uid;
  options.gid = options_.tree.gid;
  options.unix_data = state_.Get().unix_data();
  options.resumed = options_.resumed;
  absl::StatusOr<std::string> identity = HashOfSaved(saved_base_.get());
  if (!identity.ok()) return identity.status();
  options.identity = *identity;
  auto staged = libmount::StagedTree::Open(options_.staging.Duplicate(), base_.get(), base_->base_image(),
                                           base_->blob_store(), options);
  if (!staged.ok()) return staged.status();
  staged_ = *std::move(staged);
  return absl::OkStatus();
}

absl::StatusOr<internal::Committed> StagedMount::Commit(const internal::Commit& request, OperationMonitor& monitor) {
  if (!staged_->has_changes() && !request.append() && !request.generate_integrity() && !request.rebuild()) {
    internal::Committed nothing;
    nothing.set_commit_id(request.commit_id());
    nothing.set_done(true);
    nothing.set_nothing_to_do(true);
    nothing.set_image_index(image_index());
    *nothing.mutable_staging() = GetState();
    return nothing;
  }
  const int image = options_.image->get();
  ImageLock lock(image);
  if (absl::Status held = lock.Check(options_.image_name); !held.ok()) return held;
  if (absl::Status same = base_->CheckImageUnchanged(); !same.ok()) return same;
  struct stat attributes;
  if (fstat(image, &attributes) != 0) return absl::ErrnoToStatus(errno, "looking at the image file");
  internal::StagedMountState begun = state_.Get();
  begun.set_commit_id(request.commit_id());
  begun.set_commit_under_way(true);
  begun.set_commit_done(false);
  begun.set_commit_appends(request.append());
  begun.set_commit_old_size(static_cast<uint64_t>(attributes.st_size));
  begun.set_commit_old_images(static_cast<uint32_t>(file_->images().size()));
  begun.set_commit_rebuilds(request.rebuild());
  begun.set_commit_new_inode(0);
  if (absl::Status saved = state_.Save(begun); !saved.ok()) return saved;
  libmount::TestSeam("worker-commit-begun", [&] { return monitor.cancelled(); });
  absl::Status written = request.rebuild() ? Rebuild(request, begun, monitor) : Write(request, monitor);
  if (!written.ok()) {
    begun.set_commit_under_way(false);
    state_.Save(begun).IgnoreError();  // the next process finds out by itself
    return written;
  }
  return LastCommit();
}

absl::Status StagedMount::Write(const internal::Commit& request, OperationMonitor& monitor) {
  OwnChange own(base_.get());
  auto contents = staged_->Snapshot();
  if (!contents.ok()) return contents.status();
  libmount::WimCommitOptions options;
  options.append = request.append();
  options.generate_integrity = request.generate_integrity();
  options.threads = options_.tree.decoder_threads;
  internal::StagedMountState now = state_.Get();
  auto result = libmount::CommitImage(options_.image->get(), options_.image_name, now.image_index(), **contents,
                                      options, monitor);
  contents->reset();
  if (!result.ok()) {
    staged_->AbandonCommit();
    return result.status();
  }
  libmount::TestSeam("worker-commit-written");
  // The image is the new one. What fails from here on does not undo it.
  NullMonitor nobody;
  absl::Status settled = base_->ReloadBlobs(nobody);
  if (settled.ok()) settled = staged_->FinishCommit(result->stored);
  if (!settled.ok()) staged_->AbandonCommit();  // the data are stored, and stay staged as well
  libmount::TestSeam("worker-commit-finished");
  auto file = options_.reopen(nobody);
  if (!file.ok()) return file.status();
  file_ = *std::move(file);
  now.set_image_index(result->image_index);
  now.set_commit_under_way(false);
  now.set_commit_done(true);
  if (absl::Status taken = TakeNewImage(&now, nobody); !taken.ok()) return taken;
  return state_.Save(now);
}

internal::Committed StagedMount::LastCommit() const {
  internal::Committed last;
  internal::StagedMountState now = state_.Get();
  last.set_commit_id(now.commit_id());
  last.set_done(now.commit_done());
  last.set_image_index(now.image_index());
  last.set_image_name(now.image_name());
  *last.mutable_staging() = GetState();
  DescribeFile(&last);
  return last;
}

internal::StagingState StagedMount::GetState() const {
  internal::StagingState out;
  libmount::StagedTree::Stats stats = staged_->GetStats();
  out.set_has_changes(staged_->has_changes());
  out.set_staged_bytes(stats.staged_bytes + stats.log_bytes);
  out.set_changed_files(stats.changed_nodes);
  out.set_unix_data(state_.Get().unix_data() || base_->base_image()->has_unix_data());
  return out;
}

uint32_t StagedMount::image_index() const { return state_.Get().image_index(); }

}  // namespace dismd
