// SPDX-License-Identifier: GPL-3.0-or-later
//
// Opens what a caller named, with the caller's rights, and tells what it is. Runs in a child (child.h): every call may
// wait for a file system of the caller's.

#ifndef DAEMON_BROKER_INSPECT_H_
#define DAEMON_BROKER_INSPECT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "dismd/internal/broker.pb.h"
#include "libmount/base/unique_fd.h"

namespace dismd {

// A mount of ours, to be recognised where a path leads to it.
struct OwnMount {
  uint64_t slot_id = 0;
  internal::KernelMount mount;
};

// REQUIRES: a child. Becomes `caller`. `descriptors` gets what `answer` says it has; they stay open with the process.
void InspectPathsAs(const internal::Identity& caller, const internal::InspectPaths& request,
                    const std::vector<OwnMount>& own_mounts, internal::InspectAnswer* answer,
                    std::vector<int>* descriptors);

void ResolvePathAs(const internal::Identity& caller, const std::string& path, const std::vector<OwnMount>& own_mounts,
                   internal::ResolveAnswer* answer);

// `image_directory` is a descriptor of the directory that holds the slot's image. What is not there is looked for in
// `other_directories`, in order.
void OpenSiblingAs(const internal::Identity& caller, int image_directory,
                   const std::vector<std::string>& other_directories, const std::string& name,
                   const std::vector<OwnMount>& own_mounts, internal::OpenSiblingAnswer* answer,
                   std::vector<int>* descriptors);

// The directory that holds what `fd` refers to, and its name there; invalid if they do not belong together any more.
// `real_path` came from the kernel.
libmount::UniqueFd OpenParent(int fd, const std::string& real_path, std::string* name);

// Whether a directory has entries: 0 (it is empty), 1, or a negative errno. Asks the file system.
int CountEntries(int directory_fd);

// The file system's type as mountinfo has it, for messages and for telling FUSE programs apart.
std::string TypeOf(int fd);

bool IsAbsolutePath(const std::string& path);
// A name of one component that is neither "." nor "..".
bool IsPlainName(const std::string& name);
// Such names with slashes between them.
bool IsPlainPath(const std::string& path);

}  // namespace dismd

#endif  // DAEMON_BROKER_INSPECT_H_
