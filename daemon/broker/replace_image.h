// SPDX-License-Identifier: GPL-3.0-or-later
//
// A new file in the place of an image, with the caller's rights: made, exchanged, and removed where nothing came of it.
// Runs in a child (child.h): every call may wait for a file system of the caller's.
//
//   a file with a name of ours ─ written by the worker ─ owner, mode, attributes of the old one ─ fsync
//     ─ exchange the two names ─ unlink ours, which is the old file's by now ─ fsync of the directory
//
// A name of ours can be left where power is lost, or the child is killed: .dismd-MOUNT_ID.new; whoever finds it removes
// it. (O_TMPFILE would leave nothing, but the kernel does not tell where such a file is once it has a name.)

#ifndef DAEMON_BROKER_REPLACE_IMAGE_H_
#define DAEMON_BROKER_REPLACE_IMAGE_H_

#include <string>
#include <vector>

#include "dismd/internal/broker.pb.h"

namespace dismd {

std::string TemporaryName(const std::string& mount_id);

// REQUIRES, of all three: a child. Become `caller`. `image` is a descriptor of the image, `name` TemporaryName.

// `descriptors` gets the file.
void CreateTemporaryAs(const internal::Identity& caller, int image, const std::string& name,
                       internal::TemporaryAnswer* answer, std::vector<int>* descriptors);

// `file` came from a worker: it must be the one that CreateTemporaryAs made. Succeeds where it is in the image's place already.
void ReplaceImageAs(const internal::Identity& caller, int image, int file, const std::string& name,
                    internal::TemporaryAnswer* answer);

// `image_path` without links.
void RemoveTemporaryAs(const internal::Identity& caller, const std::string& image_path, const std::string& name);

}  // namespace dismd

#endif  // DAEMON_BROKER_REPLACE_IMAGE_H_
