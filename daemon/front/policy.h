// SPDX-License-Identifier: GPL-3.0-or-later
//
// Policy: what the administrator permits beyond what the kernel does. Fixed for now; each refusal names its rule.

#ifndef DAEMON_FRONT_POLICY_H_
#define DAEMON_FRONT_POLICY_H_

#include "absl/status/status.h"
#include "daemon/front/caller.h"
#include "dismd/v1/dismd.pb.h"

namespace dismd {

struct Policy {
  // A mount that others may look inside makes its image's file owners and modes visible to all: root's to grant.
  bool users_may_allow_other = false;

  // DENIED_BY_POLICY.
  absl::Status MayMount(const Caller& caller, const v1::MountImageRequest& request) const;
};

}  // namespace dismd

#endif  // DAEMON_FRONT_POLICY_H_
