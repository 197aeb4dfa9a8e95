// SPDX-License-Identifier: GPL-3.0-or-later
//
// The registry: which mounts keep a file from being changed as a whole, and which mounts that keeps away.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/front/registry.h"
#include "libmount/base/reason.h"

namespace dismd {
namespace {

using libmount::Reason;
using libmount::ReasonOf;
using testing::HasSubstr;

constexpr uint32_t kAnna = 1000;
constexpr ImageFile kParent{1, 10}, kChild{1, 11};

class FrontRegistry : public testing::Test {
 protected:
  std::unique_ptr<MountSeat> Seat() { return *registry_.Reserve(kAnna); }
  static absl::Status Claim(MountSeat& seat, const ImageFile& file, std::vector<ImageFile> parents = {}) {
    return seat.ClaimImage(file, PathOf(file), std::move(parents), 1, /*read_write=*/false);
  }
  static std::string PathOf(const ImageFile& file) { return file == kParent ? "/parent.vhdx" : "/child.vhdx"; }

  // A mount of the file; returns its id.
  std::string Mount(const ImageFile& file, std::vector<ImageFile> parents = {}) {
    std::unique_ptr<MountSeat> seat = Seat();
    ++slots_;
    EXPECT_TRUE(seat->Claim(slots_, "/mnt" + std::to_string(slots_)).ok());
    EXPECT_TRUE(Claim(*seat, file, std::move(parents)).ok());
    v1::Mount mount;
    mount.set_mount_id(seat->mount_id());
    mount.set_owner_uid(kAnna);
    mount.set_image_type(v1::IMAGE_TYPE_VHD);
    mount.set_status(v1::MOUNT_STATUS_OK);
    seat->Publish(mount, nullptr);
    return mount.mount_id();
  }
  absl::Status BeginExclusive(const std::string& id) { return registry_.BeginExclusive(id); }
  void Unmount(const std::string& id) {
    CancelToken never;
    ASSERT_TRUE(registry_.BeginUnmount(id, never).ok());
    registry_.EndUnmount(id, /*removed=*/true);
  }

  MountRegistry registry_{[](uint64_t) {}};
  uint64_t slots_ = 0;
};

TEST_F(FrontRegistry, AnUnmountThatMayNotWaitIsRefusedWhileThereIsAnother) {
  const std::string mount = Mount(kParent);
  ASSERT_TRUE(registry_.BeginUnmountNow(mount).ok());
  EXPECT_EQ(ReasonOf(registry_.BeginUnmountNow(mount).status()), Reason::kOperationInProgress);
  registry_.EndUnmount(mount, /*removed=*/false);
  EXPECT_TRUE(registry_.BeginUnmountNow(mount).ok());
  registry_.EndUnmount(mount, /*removed=*/true);
  EXPECT_EQ(ReasonOf(registry_.BeginUnmountNow(mount).status()), Reason::kNotMounted);
}

TEST_F(FrontRegistry, AFileThatOthersShowIsNotChangedAsAWhole) {
  const std::string mount = Mount(kParent);
  const std::string other = Mount(kParent);
  absl::Status refused = BeginExclusive(mount);
  EXPECT_EQ(ReasonOf(refused), Reason::kImageInUse);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("/mnt2"));
  Unmount(other);
  const std::string child = Mount(kChild, {kParent});
  refused = BeginExclusive(mount);
  EXPECT_EQ(ReasonOf(refused), Reason::kImageInUse);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("stands on /parent.vhdx"));
  EXPECT_TRUE(BeginExclusive(child).ok()) << "the other way round nothing changes beneath anybody";
  registry_.EndExclusive(child, nullptr);
  Unmount(child);
  EXPECT_TRUE(BeginExclusive(mount).ok());
}

TEST_F(FrontRegistry, AFileThatChangesAsAWholeIsNotMounted) {
  const std::string mount = Mount(kParent);
  std::unique_ptr<MountSeat> before = Seat();
  ASSERT_TRUE(BeginExclusive(mount).ok());
  EXPECT_EQ(ReasonOf(Seat()->CheckWhole(kParent, PathOf(kParent))), Reason::kImageInUse);
  EXPECT_EQ(ReasonOf(Claim(*Seat(), kParent)), Reason::kImageInUse);
  EXPECT_EQ(ReasonOf(Claim(*Seat(), kChild, {kParent})), Reason::kImageInUse);
  EXPECT_TRUE(Claim(*Seat(), kChild).ok());
  registry_.EndExclusive(mount, nullptr);
  EXPECT_EQ(ReasonOf(Claim(*before, kChild, {kParent})), Reason::kImageInUse) << "it may have read what was";
  EXPECT_TRUE(Claim(*Seat(), kChild, {kParent}).ok());
  EXPECT_TRUE(Seat()->CheckWhole(kParent, PathOf(kParent)).ok());
}

TEST_F(FrontRegistry, ADiskWithABrokenOffCommitIsNotMountedElsewhere) {
  const std::string mount = Mount(kParent);
  registry_.SetCommitPending(mount, true);
  EXPECT_EQ(ReasonOf(Seat()->CheckWhole(kParent, PathOf(kParent))), Reason::kImageInUse);
  EXPECT_TRUE(Seat()->CheckWhole(kChild, PathOf(kChild)).ok());
  registry_.SetCommitPending(mount, false);
  EXPECT_TRUE(Seat()->CheckWhole(kParent, PathOf(kParent)).ok());
}

TEST_F(FrontRegistry, WhatADiskStandsOnIsKnownToTheNextFront) {
  internal::KnownSlot known;
  known.set_mount_id("m-1");
  known.set_image_path(PathOf(kChild));
  known.set_image_device(kChild.device);
  known.set_image_inode(kChild.inode);
  known.set_needs_remount(true);
  v1::Mount record;
  record.set_commit_pending(true);
  known.set_registry_record(RecordOf(record, {kParent}));
  registry_.Restore(known, nullptr);
  const std::string mount = Mount(kParent);
  EXPECT_EQ(ReasonOf(BeginExclusive(mount)), Reason::kImageInUse);
  EXPECT_EQ(ReasonOf(Seat()->CheckWhole(kChild, PathOf(kChild))), Reason::kImageInUse);
}

}  // namespace
}  // namespace dismd
