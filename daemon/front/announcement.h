// SPDX-License-Identifier: GPL-3.0-or-later
//
// Announcement: the other mounts of a file are told of a commit to it, before and after, so that they go on reading.
//
// Any user who may read the file can have mounts of it, and can stop their workers: all are asked at once, under one
// deadline, and one that is known not to answer is told and not waited for. It takes notice when it goes on.

#ifndef DAEMON_FRONT_ANNOUNCEMENT_H_
#define DAEMON_FRONT_ANNOUNCEMENT_H_

#include <string>
#include <vector>

#include "daemon/front/cancel_token.h"
#include "daemon/front/registry.h"
#include "dismd/internal/control.pb.h"

namespace dismd {

class Announcement {
 public:
  // Returns when all have answered who do. A cancelled `cancel` ends the waiting: then nothing may be written.
  Announcement(std::vector<MountView> others, std::string commit_id, CancelToken& cancel);
  // Tells all that the commit is over, and waits for those who answered before.
  ~Announcement();
  Announcement(const Announcement&) = delete;
  Announcement& operator=(const Announcement&) = delete;

 private:
  void Tell(const internal::FrontToWorker& request) const;

  const std::vector<MountView> others_;
  const std::string commit_id_;
  CancelToken& cancel_;
};

}  // namespace dismd

#endif  // DAEMON_FRONT_ANNOUNCEMENT_H_
