// SPDX-License-Identifier: GPL-3.0-or-later
//
// What FuseServer over a WritableTree answers to each request that changes something, byte for byte.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "libmount/fuse/fuse_server.h"
#include "libmount/fuse/inflight_table.h"
#include "tests/unit/fake_kernel.h"
#include "tests/unit/journaled_tree.h"

namespace libmount {
namespace {

constexpr uint64_t kForeverSeconds = UINT64_MAX;
using K = FakeKernel;

class FuseWriteTest : public ::testing::Test {
 protected:
  FuseWriteTest() {
    file_ = tree_.MakeNode({}, kRootNode, "file", S_IFREG | 0644, 0)->node;
    directory_ = tree_.MakeDirectory({}, kRootNode, "dir", 0755)->node;
    server_.emplace(&tree_, FuseServerOptions());
    EXPECT_TRUE(server_->Start(kernel_.TakeServerEnd(), nullptr, nullptr).ok());
    fuse_init_in in = K::InitRequest();
    in.flags |= FUSE_HANDLE_KILLPRIV_V2 | FUSE_HANDLE_KILLPRIV;
    init_ = kernel_.Ask(FUSE_INIT, 0, K::Bytes(in)).As<fuse_init_out>();
  }
  ~FuseWriteTest() override {
    kernel_.Unmount();
    server_.reset();
  }

  K::Reply Create(std::string_view name, uint32_t flags = O_RDWR, uint32_t mode = S_IFREG | 0640) {
    return kernel_.Ask(FUSE_CREATE, kRootNode, K::Bytes(fuse_create_in{.flags = flags, .mode = mode}) + K::Name(name));
  }
  K::Reply MakeDirectory(NodeId parent, std::string_view name) {
    return kernel_.Ask(FUSE_MKDIR, parent, K::Bytes(fuse_mkdir_in{.mode = 0750}) + K::Name(name));
  }
  K::Reply Open(NodeId node, uint32_t opcode = FUSE_OPEN) {
    return kernel_.Ask(opcode, node, K::Bytes(fuse_open_in{.flags = O_RDWR}));
  }
  K::Reply Write(NodeId node, uint64_t offset, const std::string& data, uint32_t flags = 0) {
    return kernel_.Ask(
        FUSE_WRITE, node,
        K::Bytes(fuse_write_in{.offset = offset, .size = static_cast<uint32_t>(data.size()), .write_flags = flags}) +
            data);
  }
  int Rename(std::string_view from, std::string_view to, uint32_t flags = 0, NodeId parent = kRootNode,
             NodeId new_parent = kRootNode) {
    return kernel_
        .Ask(FUSE_RENAME2, parent,
             K::Bytes(fuse_rename2_in{.newdir = new_parent, .flags = flags}) + K::Name(from) + K::Name(to))
        .error;
  }
  K::Reply SetAttr(NodeId node, fuse_setattr_in in) { return kernel_.Ask(FUSE_SETATTR, node, K::Bytes(in)); }
  int SetXattr(NodeId node, std::string_view name, const std::string& value, uint32_t flags = 0) {
    return kernel_
        .Ask(FUSE_SETXATTR, node,
             K::Bytes(fuse_setxattr_in{.size = static_cast<uint32_t>(value.size()), .flags = flags}).substr(0, 8) +
                 K::Name(name) + value)
        .error;
  }
  int Name(uint32_t opcode, NodeId parent, std::string_view name) {
    return kernel_.Ask(opcode, parent, K::Name(name)).error;
  }
  fuse_attr Attr(NodeId node) { return kernel_.GetAttr(node).As<fuse_attr_out>().attr; }
  // Of an invalidation that was told of.
  static std::string EntryName(const K::Notification& notification) {
    return notification.body.substr(sizeof(fuse_notify_inval_entry_out)).c_str();
  }

  JournaledTree tree_;
  NodeId file_, directory_;
  FakeKernel kernel_;
  fuse_init_out init_ = {};
  std::optional<FuseServer> server_;
};

TEST_F(FuseWriteTest, InitLeavesToTheKernelWhatItDoesBetter) {
  EXPECT_EQ(init_.flags & (FUSE_WRITEBACK_CACHE | FUSE_ATOMIC_O_TRUNC | FUSE_POSIX_ACL | FUSE_DONT_MASK |
                           FUSE_POSIX_LOCKS | FUSE_FLOCK_LOCKS | FUSE_CACHE_SYMLINKS | FUSE_AUTO_INVAL_DATA |
                           FUSE_HANDLE_KILLPRIV | FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT),
            0u);
  const uint32_t wanted = FUSE_DO_READDIRPLUS | FUSE_PARALLEL_DIROPS | FUSE_HANDLE_KILLPRIV_V2 | FUSE_MAX_PAGES;
  EXPECT_EQ(init_.flags & wanted, wanted);
  EXPECT_EQ(init_.max_write, kFuseMaxRead);
}

TEST_F(FuseWriteTest, CreateMakesAndOpens) {
  K::Reply reply = Create("new");
  ASSERT_EQ(reply.error, 0);
  ASSERT_EQ(reply.body.size(), sizeof(fuse_entry_out) + sizeof(fuse_open_out));
  auto entry = reply.As<fuse_entry_out>();
  EXPECT_EQ(entry.entry_valid, kForeverSeconds);
  EXPECT_EQ(entry.attr_valid, kForeverSeconds);
  EXPECT_EQ(entry.attr.mode, S_IFREG | 0640u);
  EXPECT_EQ(entry.attr.uid, 1000u);
  fuse_open_out open;
  memcpy(&open, reply.body.data() + sizeof(fuse_entry_out), sizeof(open));
  EXPECT_EQ(open.fh, 0u);
  EXPECT_EQ(open.open_flags, static_cast<uint32_t>(FOPEN_KEEP_CACHE));
  EXPECT_EQ(tree_.open_count(entry.nodeid), 1);
  EXPECT_EQ(kernel_.Ask(FUSE_RELEASE, entry.nodeid, K::Bytes(fuse_release_in{})).error, 0);
  EXPECT_EQ(tree_.open_count(entry.nodeid), 0);
}

TEST_F(FuseWriteTest, CreateOfAFileThatIsThere) {
  Write(file_, 0, "old");
  EXPECT_EQ(Create("file", O_RDWR | O_EXCL).error, -EEXIST);
  EXPECT_EQ(Create("file").As<fuse_entry_out>().nodeid, file_);
  EXPECT_EQ(Attr(file_).size, 3u);
  EXPECT_EQ(Create("file", O_RDWR | O_TRUNC).As<fuse_entry_out>().nodeid, file_);
  EXPECT_EQ(Attr(file_).size, 0u);
  EXPECT_EQ(tree_.open_count(file_), 2);
  EXPECT_EQ(Create("dir").error, -EEXIST);
  EXPECT_EQ(Create(std::string(256, 'x')).error, -ENAMETOOLONG);
  EXPECT_EQ(kernel_.Ask(FUSE_CREATE, file_, K::Bytes(fuse_create_in{.mode = S_IFREG}) + K::Name("x")).error, -ENOTDIR);
}

TEST_F(FuseWriteTest, OpenKeepsWhatTheKernelHas) {
  EXPECT_EQ(Open(file_).As<fuse_open_out>().open_flags, static_cast<uint32_t>(FOPEN_KEEP_CACHE));
  EXPECT_EQ(Open(directory_, FUSE_OPENDIR).As<fuse_open_out>().open_flags,
            static_cast<uint32_t>(FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR));
  EXPECT_EQ(tree_.open_count(directory_), 1);
  EXPECT_EQ(kernel_.Ask(FUSE_RELEASEDIR, directory_, K::Bytes(fuse_release_in{})).error, 0);
  EXPECT_EQ(tree_.open_count(directory_), 0);
}

// ESTALE makes the kernel look the name up again instead of believing its cache.
TEST_F(FuseWriteTest, NodesThatAreGoneAreStale) {
  constexpr NodeId kGone = 4711;
  EXPECT_EQ(kernel_.GetAttr(kGone).error, -ESTALE);
  EXPECT_EQ(Open(kGone).error, -ESTALE);
  EXPECT_EQ(SetAttr(kGone, {.valid = FATTR_MODE}).error, -ESTALE);
  EXPECT_EQ(Write(kGone, 0, "x").error, -ESTALE);
  EXPECT_EQ(SetXattr(kGone, "user.x", "x"), -ESTALE);
  EXPECT_EQ(kernel_.GetXattr(kGone, "user.x", 0).error, -ESTALE);
}

TEST_F(FuseWriteTest, AnOpenFileOutlivesItsName) {
  Open(file_);
  EXPECT_EQ(Name(FUSE_UNLINK, kRootNode, "file"), 0);
  EXPECT_EQ(Write(file_, 0, "still").error, 0);
  EXPECT_EQ(kernel_.Read(file_, 0, 4096).body, "still");
  EXPECT_EQ(Attr(file_).nlink, 0u);
  kernel_.Ask(FUSE_RELEASE, file_, K::Bytes(fuse_release_in{}));
  EXPECT_EQ(kernel_.GetAttr(file_).error, -ESTALE);
}

TEST_F(FuseWriteTest, NamesAreMadeAndRemoved) {
  auto made = MakeDirectory(kRootNode, "sub").As<fuse_entry_out>();
  EXPECT_EQ(made.attr.mode, S_IFDIR | 0750u);
  EXPECT_EQ(MakeDirectory(kRootNode, "sub").error, -EEXIST);
  EXPECT_EQ(kernel_.Ask(FUSE_MKNOD, made.nodeid, K::Bytes(fuse_mknod_in{.mode = S_IFIFO | 0600}) + K::Name("p"))
                .As<fuse_entry_out>()
                .attr.mode,
            S_IFIFO | 0600u);
  EXPECT_EQ(Name(FUSE_RMDIR, kRootNode, "sub"), -ENOTEMPTY);
  EXPECT_EQ(Name(FUSE_UNLINK, kRootNode, "sub"), -EISDIR);
  EXPECT_EQ(Name(FUSE_RMDIR, kRootNode, "file"), -ENOTDIR);
  EXPECT_EQ(Name(FUSE_UNLINK, made.nodeid, "p"), 0);
  EXPECT_EQ(Name(FUSE_UNLINK, made.nodeid, "p"), -ENOENT);
  EXPECT_EQ(Name(FUSE_RMDIR, kRootNode, "sub"), 0);
  K::Reply link = kernel_.Ask(FUSE_SYMLINK, kRootNode, K::Name("link") + K::Name("../target"));
  ASSERT_EQ(link.error, 0);
  EXPECT_EQ(kernel_.Ask(FUSE_READLINK, link.As<fuse_entry_out>().nodeid, "").body, "../target");
  K::Reply second = kernel_.Ask(FUSE_LINK, directory_, K::Bytes(fuse_link_in{.oldnodeid = file_}) + K::Name("second"));
  EXPECT_EQ(second.As<fuse_entry_out>().nodeid, file_);
  EXPECT_EQ(second.As<fuse_entry_out>().attr.nlink, 2u);
  EXPECT_EQ(kernel_.Ask(FUSE_LINK, kRootNode, K::Bytes(fuse_link_in{.oldnodeid = directory_}) + K::Name("d")).error,
            -EPERM);
}

TEST_F(FuseWriteTest, RenameKnowsItsFlags) {
  Create("other");
  EXPECT_EQ(Rename("file", "other", RENAME_NOREPLACE), -EEXIST);
  EXPECT_EQ(Rename("file", "absent", RENAME_EXCHANGE), -ENOENT);
  EXPECT_EQ(Rename("file", "other", 8), -EINVAL);
  EXPECT_EQ(Rename("file", "dir"), -EISDIR);
  EXPECT_EQ(Rename("dir", "file"), -ENOTDIR);
  EXPECT_EQ(Rename("dir", "below", 0, kRootNode, directory_), -EINVAL);
  EXPECT_EQ(Rename("file", "other", RENAME_EXCHANGE), 0);
  EXPECT_EQ(kernel_.Lookup(kRootNode, "other").As<fuse_entry_out>().nodeid, file_);
  EXPECT_EQ(Rename("other", "moved", 0, kRootNode, directory_), 0);
  EXPECT_EQ(kernel_.Lookup(kRootNode, "other").error, -ENOENT);
  EXPECT_EQ(
      kernel_.Ask(FUSE_RENAME, kRootNode, K::Bytes(fuse_rename_in{directory_}) + K::Name("file") + K::Name("f")).error,
      0)
      << "of older kernels";
}

TEST_F(FuseWriteTest, WhatIsMadeInASetGroupIdDirectoryBelongsToItsGroup) {
  AttributeChanges changes;
  changes.mode = 02775;
  changes.gid = 7;
  ASSERT_TRUE(tree_.SetAttributes({}, kRootNode, changes).ok());
  EXPECT_EQ(Create("new").As<fuse_entry_out>().attr.gid, 7u);
  auto made = MakeDirectory(kRootNode, "sub").As<fuse_entry_out>();
  EXPECT_EQ(made.attr.gid, 7u);
  EXPECT_EQ(made.attr.mode, S_IFDIR | 02750u);
}

TEST_F(FuseWriteTest, WritesReachTheTreeWhole) {
  std::string data(128 << 10, '\0');  // as much as a socket takes; mounts are tested with 1 MiB
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 31 >> 4);
  EXPECT_EQ(Write(file_, 5, data).As<fuse_write_out>().size, data.size());
  std::string back(data.size(), '\0');
  ASSERT_EQ(*tree_.Read(file_, 5, absl::MakeSpan(back)), back.size());
  EXPECT_TRUE(back == data);
  EXPECT_EQ(Write(file_, INT64_MAX - 1, "abc").error, -EFBIG);
  EXPECT_EQ(Write(file_, UINT64_MAX - 1, "abc").error, -EINVAL);
  EXPECT_EQ(server_->GetStats().bytes_written, data.size());
}

TEST_F(FuseWriteTest, ErrorsOfTheTreeReachTheWriter) {
  for (int error : {ENOSPC, EDQUOT, EIO}) {
    tree_.SetError(error);
    EXPECT_EQ(Write(file_, 0, "x").error, -error);
    EXPECT_EQ(Create("x").error, -error);
    EXPECT_EQ(Rename("file", "x"), -error);
    EXPECT_EQ(SetAttr(file_, {.valid = FATTR_SIZE, .size = 5}).error, -error);
  }
  tree_.SetError(0);
  EXPECT_EQ(Write(file_, 0, "x").error, 0);
}

TEST_F(FuseWriteTest, AttributesAreSet) {
  fuse_setattr_in in = {};
  in.valid = FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME;
  in.mode = S_IFREG | 0601;
  in.uid = 5, in.gid = 6, in.size = 12345;
  in.atime = 11, in.atimensec = 100, in.mtime = 22, in.mtimensec = 200;
  auto out = SetAttr(file_, in).As<fuse_attr_out>();
  EXPECT_EQ(out.attr_valid, kForeverSeconds);
  EXPECT_EQ(out.attr.mode, S_IFREG | 0601u);
  EXPECT_EQ(out.attr.uid, 5u);
  EXPECT_EQ(out.attr.gid, 6u);
  EXPECT_EQ(out.attr.size, 12345u);
  EXPECT_EQ(out.attr.atime, 11u);
  EXPECT_EQ(out.attr.mtimensec, 200u);
  auto now = SetAttr(file_, {.valid = FATTR_MTIME | FATTR_MTIME_NOW | FATTR_ATIME | FATTR_ATIME_NOW});
  EXPECT_GT(now.As<fuse_attr_out>().attr.mtime, 1'600'000'000u);
  EXPECT_EQ(SetAttr(file_, {.valid = FATTR_SIZE, .size = UINT64_MAX}).error, -EINVAL);
  EXPECT_EQ(SetAttr(directory_, {.valid = FATTR_SIZE, .size = 1}).error, -EISDIR);
}

TEST_F(FuseWriteTest, PrivilegesGoWithAChange) {
  auto make = [&](uint32_t mode) { SetAttr(file_, {.valid = FATTR_MODE, .mode = mode}); };
  make(06755);
  Write(file_, 0, "x");
  EXPECT_EQ(Attr(file_).mode & 07777, 06755u) << "root may";
  Write(file_, 0, "x", FUSE_WRITE_KILL_SUIDGID);
  EXPECT_EQ(Attr(file_).mode & 07777, 0755u);
  make(06744);
  SetAttr(file_, {.valid = FATTR_SIZE | FATTR_KILL_SUIDGID});
  EXPECT_EQ(Attr(file_).mode & 07777, 02744u) << "without group execution it means mandatory locks";
  make(06755);
  SetAttr(file_, {.valid = FATTR_UID | FATTR_KILL_SUIDGID, .uid = 9});
  EXPECT_EQ(Attr(file_).mode & 07777, 0755u);
  make(06755);
  EXPECT_EQ(kernel_.Ask(FUSE_FALLOCATE, file_, K::Bytes(fuse_fallocate_in{.length = 10})).error, 0);
  EXPECT_EQ(Attr(file_).mode & 07777, 0755u);
}

TEST_F(FuseWriteTest, SpaceAndHoles) {
  auto allocate = [&](uint64_t offset, uint64_t length, uint32_t mode) {
    return kernel_
        .Ask(FUSE_FALLOCATE, file_, K::Bytes(fuse_fallocate_in{.offset = offset, .length = length, .mode = mode}))
        .error;
  };
  EXPECT_EQ(allocate(0, 65536, 0), 0);
  EXPECT_EQ(Attr(file_).size, 65536u);
  EXPECT_EQ(allocate(65536, 4096, FALLOC_FL_KEEP_SIZE), 0);
  EXPECT_EQ(Attr(file_).size, 65536u);
  EXPECT_EQ(allocate(0, 0, 0), -EINVAL);
  EXPECT_EQ(allocate(UINT64_MAX, 5, 0), -EINVAL);
  EXPECT_EQ(allocate(0, 4096, FALLOC_FL_COLLAPSE_RANGE), -EOPNOTSUPP);
  auto seek = [&](uint64_t offset, uint32_t whence) {
    return kernel_.Ask(FUSE_LSEEK, file_, K::Bytes(fuse_lseek_in{.offset = offset, .whence = whence}));
  };
  Write(file_, 8192, "data");
  EXPECT_EQ(seek(0, SEEK_DATA).As<fuse_lseek_out>().offset, 8192u);
  EXPECT_EQ(seek(1 << 20, SEEK_DATA).error, -ENXIO);
  EXPECT_EQ(seek(UINT64_MAX, SEEK_HOLE).error, -ENXIO);
}

TEST_F(FuseWriteTest, SyncingAndClosing) {
  EXPECT_EQ(kernel_.Ask(FUSE_FSYNC, file_, K::Bytes(fuse_fsync_in{})).error, 0);
  EXPECT_EQ(kernel_.Ask(FUSE_FSYNCDIR, directory_, K::Bytes(fuse_fsync_in{})).error, 0);
  EXPECT_EQ(kernel_.Ask(FUSE_FLUSH, file_, K::Bytes(fuse_flush_in{})).error, -ENOSYS) << "nothing is held back";
  EXPECT_EQ(kernel_.Ask(FUSE_COPY_FILE_RANGE, file_, K::Bytes(fuse_copy_file_range_in{})).error, -ENOSYS);
  EXPECT_EQ(kernel_.Ask(FUSE_SETLK, file_, K::Bytes(fuse_lk_in{})).error, -ENOSYS) << "locks stay in the kernel";
  EXPECT_EQ(kernel_.Ask(FUSE_STATFS, kRootNode, "").As<fuse_statfs_out>().st.namelen, 255u);
}

TEST_F(FuseWriteTest, XattrsAreSetAndRemoved) {
  EXPECT_EQ(SetXattr(file_, "system.ntfs_ea", "12"), 0);
  EXPECT_EQ(kernel_.GetXattr(file_, "system.ntfs_ea", 100).body, "12");
  EXPECT_EQ(SetXattr(file_, "system.ntfs_ea", "3", XATTR_CREATE), -EEXIST);
  EXPECT_EQ(SetXattr(file_, "system.ntfs_acl", "3", XATTR_REPLACE), -ENODATA);
  EXPECT_EQ(SetXattr(file_, "trusted.x", "3"), -EOPNOTSUPP);
  EXPECT_EQ(SetXattr(file_, "security.capability", "3"), -EOPNOTSUPP);
  EXPECT_EQ(SetXattr(file_, "system.posix_acl_access", "3"), -EOPNOTSUPP);
  EXPECT_EQ(Name(FUSE_REMOVEXATTR, file_, "system.ntfs_ea"), 0);
  EXPECT_EQ(Name(FUSE_REMOVEXATTR, file_, "system.ntfs_ea"), -ENODATA);
  EXPECT_EQ(Name(FUSE_REMOVEXATTR, file_, "security.selinux"), -ENODATA);
}

// A value longer than what was sent must not be read from behind the request.
TEST_F(FuseWriteTest, AnXattrThatClaimsMoreThanWasSentIsRefused) {
  auto claim = [&](uint32_t size, const std::string& rest) {
    return kernel_.Ask(FUSE_SETXATTR, file_, K::Bytes(fuse_setxattr_in{.size = size}).substr(0, 8) + rest).error;
  };
  EXPECT_EQ(claim(1, K::Name("user.x")), -EIO);
  EXPECT_EQ(claim(UINT32_MAX, K::Name("user.x") + "abc"), -EIO);
  EXPECT_EQ(claim(0, "user.x"), -EIO) << "a name without its end";
  EXPECT_EQ(claim(3, K::Name("user.x") + "abc"), 0);
}

// --- What the kernel may keep

TEST_F(FuseWriteTest, OnlyAFilesOwnNameLivesLong) {
  EXPECT_EQ(kernel_.Lookup(kRootNode, "file").As<fuse_entry_out>().entry_valid, kForeverSeconds);
  auto other = kernel_.Lookup(kRootNode, "FILE").As<fuse_entry_out>();
  EXPECT_EQ(other.nodeid, file_);
  EXPECT_EQ(other.entry_valid, 0u);
  EXPECT_EQ(other.attr_valid, kForeverSeconds) << "the node is the same";
  EXPECT_EQ(kernel_.Lookup(kRootNode, "absent").error, -ENOENT) << "not kept as absent";
}

TEST_F(FuseWriteTest, RemovingByAnotherCaseInvalidatesTheOwnName) {
  ASSERT_EQ(Name(FUSE_UNLINK, kRootNode, "FILE"), 0);
  ASSERT_EQ(Name(FUSE_RMDIR, kRootNode, "DIR"), 0);
  ASSERT_TRUE(kernel_.AwaitNotifications(2));
  EXPECT_EQ(kernel_.notifications()[0].code, FUSE_NOTIFY_INVAL_ENTRY);
  EXPECT_EQ(EntryName(kernel_.notifications()[0]), "file");
  EXPECT_EQ(EntryName(kernel_.notifications()[1]), "dir");
}

// The kernel may have sent the OPEN before it was told that the name is gone.
TEST_F(FuseWriteTest, AFileThatLivesOnIsNotOpenedByItsFormerName) {
  ASSERT_EQ(Open(file_).error, 0);
  ASSERT_EQ(Name(FUSE_UNLINK, kRootNode, "FILE"), 0);
  ASSERT_EQ(Name(FUSE_RMDIR, kRootNode, "DIR"), 0);
  ASSERT_TRUE(kernel_.AwaitNotifications(2));  // and so the first is over
  EXPECT_EQ(kernel_.GetAttr(file_).error, 0);
  EXPECT_EQ(Open(file_).error, -ESTALE);
}

TEST_F(FuseWriteTest, RenamingByAnotherCaseInvalidatesTheOwnNames) {
  Create("target");
  ASSERT_EQ(Rename("FILE", "TARGET"), 0);
  ASSERT_TRUE(kernel_.AwaitNotifications(2));
  EXPECT_EQ(EntryName(kernel_.notifications()[0]), "file");
  EXPECT_EQ(EntryName(kernel_.notifications()[1]), "target");
  EXPECT_EQ(Rename("TARGET", "back"), 0);
  Create("last");
  EXPECT_EQ(Name(FUSE_UNLINK, kRootNode, "LAST"), 0);
  ASSERT_TRUE(kernel_.AwaitNotifications(3));
  EXPECT_EQ(EntryName(kernel_.notifications()[2]), "last") << "nothing was told of the exact rename between";
}

TEST_F(FuseWriteTest, NamedStreamsAreNotCached) {
  ASSERT_EQ(SetXattr(file_, "user.stream", "value"), 0);
  auto entry = kernel_.Lookup(kRootNode, "file:stream").As<fuse_entry_out>();
  ASSERT_NE(entry.nodeid, 0u);
  EXPECT_EQ(entry.entry_valid, 0u);
  EXPECT_EQ(entry.attr_valid, 0u);
  EXPECT_EQ(kernel_.GetAttr(entry.nodeid).As<fuse_attr_out>().attr_valid, 0u);
  EXPECT_EQ(Open(entry.nodeid).As<fuse_open_out>().open_flags, static_cast<uint32_t>(FOPEN_DIRECT_IO));
  EXPECT_EQ(kernel_.Read(entry.nodeid, 0, 100).body, "value");
  EXPECT_EQ(Write(entry.nodeid, 0, "V").error, 0);
  EXPECT_EQ(kernel_.GetXattr(file_, "user.stream", 100).body, "Value");
  // The file's times may have changed.
  ASSERT_TRUE(kernel_.AwaitNotifications(1));
  fuse_notify_inval_inode_out out;
  memcpy(&out, kernel_.notifications()[0].body.data(), sizeof(out));
  EXPECT_EQ(out.ino, file_);
  EXPECT_EQ(out.off, -1) << "attributes only: no page is waited for";
}

// A kernel from 6.6 on, and a table that outlives the process.
class FuseDirectOpenTest : public FuseWriteTest {
 protected:
  FuseDirectOpenTest() { Restart(*InflightTable::Create(), K::InitRequestOfLinux66()); }
  void Restart(UniqueFd table, const fuse_init_in& in) {
    table_ = std::move(table);
    kernel_.Unmount();
    server_.reset();
    kernel_ = FakeKernel();
    server_.emplace(&tree_, FuseServerOptions());
    absl::Notification initialized;
    EXPECT_TRUE(server_
                    ->Start(
                        kernel_.TakeServerEnd(), {.init = {}, .inflight = table_.Duplicate()},
                        [&] { initialized.Notify(); }, nullptr)
                    .ok());
    init_ = kernel_.Ask(FUSE_INIT, 0, K::Bytes(in)).As<fuse_init_out>();
    EXPECT_TRUE(initialized.WaitForNotificationWithTimeout(absl::Seconds(20)));
  }
  // Another process goes on.
  void Recover() {
    FuseServer::InitExchange init = *server_->init_exchange();
    kernel_.Unmount();
    server_.reset();
    kernel_ = FakeKernel();
    server_.emplace(&tree_, FuseServerOptions());
    EXPECT_TRUE(
        server_->Start(kernel_.TakeServerEnd(), {.init = init, .inflight = table_.Duplicate()}, nullptr, nullptr).ok());
  }

  static fuse_open_out Opened(const K::Reply& created) {
    fuse_open_out open = {};
    EXPECT_EQ(created.body.size(), sizeof(fuse_entry_out) + sizeof(open));
    memcpy(&open, created.body.data() + sizeof(fuse_entry_out), std::min(sizeof(open), created.body.size()));
    return open;
  }
  uint32_t OpenFlags(NodeId node) { return Open(node).As<fuse_open_out>().open_flags; }
  void Release(NodeId node, uint64_t handle) {
    EXPECT_EQ(kernel_.Ask(FUSE_RELEASE, node, K::Bytes(fuse_release_in{.fh = handle})).error, 0);
  }
  void WriteThrough(uint64_t handle, NodeId node) {
    fuse_write_in in = {.fh = handle, .size = 3};
    EXPECT_EQ(kernel_.Ask(FUSE_WRITE, node, K::Bytes(in) + "abc").error, 0);
  }

  UniqueFd table_;
};

constexpr uint32_t kDirect = FOPEN_DIRECT_IO;
constexpr uint32_t kKeep = FOPEN_KEEP_CACHE;

TEST_F(FuseDirectOpenTest, WhoMakesAFileAndOnlyWritesBypassesThePageCache) {
  K::Reply reply = Create("new", O_WRONLY | O_EXCL);
  const NodeId node = reply.As<fuse_entry_out>().nodeid;
  EXPECT_EQ(Opened(reply).open_flags, kDirect);
  WriteThrough(Opened(reply).fh, node);
  Release(node, Opened(reply).fh);
  EXPECT_EQ(tree_.open_count(node), 0);
  EXPECT_EQ(OpenFlags(node), kKeep) << "nobody else had it open: there are no pages that could be wrong";
  EXPECT_TRUE(kernel_.notifications().empty());
}

TEST_F(FuseDirectOpenTest, OthersDoNot) {
  EXPECT_EQ(Opened(Create("read-write", O_RDWR)).open_flags, kKeep) << "may read and map what it wrote";
  EXPECT_EQ(Opened(Create("file", O_WRONLY)).open_flags, kKeep) << "was there, and may be in the cache";
  ASSERT_EQ(SetXattr(file_, "user.s", "value"), 0);
  EXPECT_EQ(Opened(Create("file:other", O_WRONLY)).fh, 0u) << "a stream is as it always is";
}

TEST_F(FuseDirectOpenTest, WhileOneWritesDirectlyAllDo) {
  K::Reply made = Create("new", O_WRONLY);
  const NodeId node = made.As<fuse_entry_out>().nodeid;
  const uint64_t handle = Opened(made).fh;
  EXPECT_NE(handle, 0u);
  auto second = Open(node).As<fuse_open_out>();
  EXPECT_EQ(second.open_flags, kDirect);
  EXPECT_EQ(second.fh, handle);
  K::Reply third = Create("new", O_RDWR);
  EXPECT_EQ(third.As<fuse_entry_out>().nodeid, node);
  EXPECT_EQ(Opened(third).open_flags, kDirect);

  Release(node, handle);
  Release(node, handle);
  EXPECT_EQ(OpenFlags(node), kDirect);
  Release(node, handle);
  Release(node, handle);
  EXPECT_EQ(OpenFlags(node), 0u) << "pages that a mapping left go";
  EXPECT_EQ(OpenFlags(node), kKeep);
}

TEST_F(FuseDirectOpenTest, WhatAMappingHoldsIsInvalidated) {
  K::Reply made = Create("new", O_WRONLY);
  const NodeId node = made.As<fuse_entry_out>().nodeid;
  WriteThrough(Opened(made).fh, node);
  EXPECT_EQ(OpenFlags(node), kDirect);
  WriteThrough(Opened(made).fh, node);
  ASSERT_TRUE(kernel_.AwaitNotifications(1));
  EXPECT_EQ(kernel_.notifications()[0].code, FUSE_NOTIFY_INVAL_INODE);
  fuse_notify_inval_inode_out out;
  memcpy(&out, kernel_.notifications()[0].body.data(), sizeof(out));
  EXPECT_EQ(out.ino, node);
  EXPECT_EQ(out.off, 0) << "pages too";
  EXPECT_EQ(out.len, 0) << "all of them";
}

TEST_F(FuseDirectOpenTest, AnotherProcessKnowsWhatIsOpen) {
  K::Reply made = Create("new", O_WRONLY);
  const NodeId node = made.As<fuse_entry_out>().nodeid;
  K::Reply closed = Create("closed", O_WRONLY);
  Release(closed.As<fuse_entry_out>().nodeid, Opened(closed).fh);
  Recover();
  EXPECT_EQ(OpenFlags(node), kDirect);
  EXPECT_EQ(OpenFlags(closed.As<fuse_entry_out>().nodeid), kKeep);
  Release(node, Opened(made).fh);
  Release(node, Opened(made).fh);
  EXPECT_EQ(OpenFlags(node), 0u);
}

TEST_F(FuseDirectOpenTest, TooManyAreOpenedAsOthers) {
  int direct = 0;
  fuse_open_out last = {};
  for (int i = 0; i < 200; ++i) {
    last = Opened(Create("new" + std::to_string(i), O_WRONLY));
    direct += last.open_flags == kDirect ? 1 : 0;
  }
  EXPECT_EQ(direct, 128);
  EXPECT_EQ(last.open_flags, kKeep);
  EXPECT_EQ(last.fh, 0u);
}

// What the kernel would have to bring in while a process is killed would cost the request (inflight_table.h).
TEST_F(FuseDirectOpenTest, MemoryForALargeRequestIsThereBeforeIt) {
  table_ = *InflightTable::Create();
  auto held = [this] {
    struct stat facts;
    EXPECT_EQ(fstat(table_.get(), &facts), 0);
    return static_cast<uint64_t>(facts.st_blocks) * 512;
  };
  kernel_.Unmount();
  server_.reset();
  kernel_ = FakeKernel();
  absl::Notification idle;
  FuseServerOptions options;
  options.on_idle = [&] {
    if (!idle.HasBeenNotified()) idle.Notify();
  };
  server_.emplace(&tree_, options);
  ASSERT_LT(held(), kFuseMaxRead);
  ASSERT_TRUE(
      server_->Start(kernel_.TakeServerEnd(), {.init = {}, .inflight = table_.Duplicate()}, nullptr, nullptr).ok());
  for (absl::Time end = absl::Now() + absl::Seconds(20); held() < kFuseMaxRead && absl::Now() < end;) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_GE(held(), kFuseMaxRead) << "nothing was asked for yet";
  kernel_.Ask(FUSE_INIT, 0, K::Bytes(K::InitRequestOfLinux66()));
  ASSERT_TRUE(idle.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_LT(held(), kFuseMaxRead) << "given back";
  EXPECT_EQ(kernel_.GetAttr(file_).error, 0);
  EXPECT_GE(held(), kFuseMaxRead);
}

TEST_F(FuseDirectOpenTest, OlderKernelsAreNotAskedTo) {
  Restart(*InflightTable::Create(), K::InitRequest());
  EXPECT_EQ(init_.flags & FUSE_INIT_EXT, 0u);
  EXPECT_EQ(Opened(Create("new", O_WRONLY)).open_flags, kKeep);
}

TEST_F(FuseDirectOpenTest, NorWhereTheProcessTakesItsTableWithIt) {
  Restart(UniqueFd(), K::InitRequestOfLinux66());
  EXPECT_EQ(Opened(Create("new", O_WRONLY)).open_flags, kKeep);
}

TEST_F(FuseWriteTest, AttributesThatShowInStatAreInvalidated) {
  ASSERT_EQ(SetXattr(file_, "system.ntfs_attrib", std::string("\1\0\0\0", 4)), 0);
  ASSERT_TRUE(kernel_.AwaitNotifications(1));
  EXPECT_EQ(kernel_.notifications()[0].code, FUSE_NOTIFY_INVAL_INODE);
  EXPECT_EQ(Attr(file_).mode & 0777, 0444u);
}

TEST_F(FuseWriteTest, AFileThatBecomesALinkIsLookedUpAnew) {
  ASSERT_EQ(SetXattr(file_, "system.ntfs_reparse_data", "target"), 0);
  EXPECT_EQ(kernel_.GetAttr(file_).error, -ESTALE) << "the kernel would make the node bad for ever";
  EXPECT_EQ(Open(file_).error, -ESTALE);
  EXPECT_EQ(kernel_.Lookup(kRootNode, "file").As<fuse_entry_out>().attr.mode & S_IFMT, static_cast<uint32_t>(S_IFLNK));
  EXPECT_EQ(kernel_.GetAttr(file_).error, 0);
}

TEST_F(FuseWriteTest, InterruptsAreDeclined) {
  EXPECT_EQ(kernel_.Ask(FUSE_INTERRUPT, 0, K::Bytes(fuse_interrupt_in{4})).error, -ENOSYS);
}

}  // namespace
}  // namespace libmount
