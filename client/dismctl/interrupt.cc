// SPDX-License-Identifier: Apache-2.0

#include "client/dismctl/interrupt.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>

namespace dismd {
namespace {

int interrupt_fd = -1;

void OnSignal(int) {
  const int saved = errno;
  eventfd_write(interrupt_fd, 1);
  errno = saved;
}

}  // namespace

Interrupt::Interrupt() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  interrupt_fd = fd_.get();
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // the second one kills
  for (int signal : {SIGINT, SIGTERM}) {
    struct sigaction before;
    // nohup and the like: what was ignored stays ignored.
    if (sigaction(signal, nullptr, &before) == 0 && before.sa_handler == SIG_IGN) continue;
    sigaction(signal, &action, nullptr);
  }
}

bool Interrupt::Take() {
  pollfd entry = {fd_.get(), POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

}  // namespace dismd
