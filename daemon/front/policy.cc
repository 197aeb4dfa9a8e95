// SPDX-License-Identifier: GPL-3.0-or-later

#include "daemon/front/policy.h"

#include "libmount/base/reason.h"

namespace dismd {

absl::Status Policy::MayMount(const Caller& caller, const v1::MountImageRequest& request) const {
  if (request.allow_other() && !users_may_allow_other && !caller.is_root()) {
    return libmount::MakeError(
        libmount::Reason::kDeniedByPolicy,
        "the service's rule \"users_may_allow_other\" is off: only root may make a mount that others "
        "can look inside; mount without allow_other");
  }
  return absl::OkStatus();
}

}  // namespace dismd
