// SPDX-License-Identifier: GPL-3.0-or-later
//
// Staging directories in a directory that a caller named (its scratch directory), with the caller's rights. Runs in a
// child (child.h): every call may wait for a file system of the caller's.
//
//   SCRATCH/dismd-MOUNT_ID    0700, owned by the uid of the mount's worker; what lies inside are files of the worker's
//
// It is recognised by its name and its owner. Not by device and inode: not every file system has the same ones after a
// restart of the machine, and edits must be found again.

#ifndef DAEMON_BROKER_SCRATCH_DIRECTORY_H_
#define DAEMON_BROKER_SCRATCH_DIRECTORY_H_

#include <string>
#include <vector>

#include "dismd/internal/broker.pb.h"

namespace dismd {

// REQUIRES, of all: a child. All but InspectScratch become the record's owner.

// In the record's scratch directory, which may be reached by links. `descriptors` gets it. INVALID_PATH: no directory,
// on a network, or of a file system that has no owners; ACCESS_DENIED; DISK_FULL. Nothing is left then.
void MakeScratchAs(const internal::SlotRecord& record, internal::ScratchAnswer* answer, std::vector<int>* descriptors);

// One that is there, by a path without links. INVALID_PATH: it is not; ACCESS_DENIED.
void OpenScratchAs(const internal::SlotRecord& record, internal::ScratchAnswer* answer, std::vector<int>* descriptors);

// With the files in it. Succeeds where it is gone already.
void RemoveScratchAs(const internal::SlotRecord& record, internal::ScratchAnswer* answer);

// Whether it is there, for the caller that this child has become.
void InspectScratch(const internal::SlotRecord& record, internal::PathFacts* facts);

}  // namespace dismd

#endif  // DAEMON_BROKER_SCRATCH_DIRECTORY_H_
