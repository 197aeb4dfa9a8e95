// SPDX-License-Identifier: Apache-2.0
//
// Interrupt: SIGINT and SIGTERM as a cancel source. The first asks the running call to stop and lets it come to its
// end; the second ends the program at once (the service notices, and cancels a mount that was being made).

#ifndef CLIENT_DISMCTL_INTERRUPT_H_
#define CLIENT_DISMCTL_INTERRUPT_H_

#include "client/common/service.h"
#include "client/common/unique_fd.h"

namespace dismd {

class Interrupt final : public CancelSource {
 public:
  // One a process.
  Interrupt();

  int fd() const override { return fd_.get(); }
  // Stays true.
  bool Take() override;

 private:
  UniqueFd fd_;
};

}  // namespace dismd

#endif  // CLIENT_DISMCTL_INTERRUPT_H_
