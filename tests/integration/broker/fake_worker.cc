// SPDX-License-Identifier: GPL-3.0-or-later
//
// Stands in for dismd-worker: serves a directory with two files on the /dev/fuse descriptor that the broker sends.
// "hello" holds what the image holds. Reads of "stall" are never answered.
//
// The test speaks to it over the control socket: ReadImageInfo asks the broker for the file of that name beside the
// image, and answers with its content; Exit makes it exit with code 3.

#include <errno.h>
#include <linux/fuse.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "daemon/ipc/channel.h"
#include "daemon/worker/spare.h"
#include "dismd/internal/control.pb.h"

namespace {

using dismd::Channel;
using libmount::UniqueFd;

constexpr uint64_t kHello = 2, kStall = 3;
constexpr size_t kBufferBytes = (1 << 20) + 4096;

std::string ReadAll(int fd) {
  std::string text(65536, '\0');
  ssize_t n = pread(fd, text.data(), text.size(), 0);
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}

class Worker {
 public:
  int Run() {
    for (;;) {
      pollfd entries[3] = {{control_.fd(), POLLIN, 0}, {broker_.fd(), POLLIN, 0}, {fuse_.get(), POLLIN, 0}};
      if (poll(entries, fuse_ ? 3 : 2, -1) < 0) return 1;
      if (entries[1].revents != 0) OnBroker();
      if (control_open_ && entries[0].revents != 0 && !OnControl()) return 3;
      if (fuse_ && entries[2].revents != 0 && !OnKernel()) return 0;
    }
  }

 private:
  void OnBroker() {
    dismd::internal::BrokerToWorker message;
    std::vector<UniqueFd> fds;
    auto received = broker_.Receive(&message, &fds);
    if (!received.ok() || *received != Channel::Received::kMessage) _exit(4);
    if (message.has_fuse_descriptor()) fuse_ = std::move(fds.at(0));
    if (message.has_new_control()) {
      control_ = Channel(std::move(fds.at(0)));
      control_open_ = true;
      dismd::internal::WorkerToFront hello;
      hello.mutable_serving();
      control_.Send(hello).IgnoreError();
    }
    if (message.has_opened_sibling()) {
      dismd::internal::WorkerToFront answer;
      answer.set_request_id(message.opened_sibling().request_id());
      if (message.opened_sibling().has_error()) *answer.mutable_error() = message.opened_sibling().error();
      if (!fds.empty()) answer.mutable_image_info_read()->add_images()->set_image_name(ReadAll(fds[0].get()));
      control_.Send(answer).IgnoreError();
    }
  }

  bool OnControl() {
    dismd::internal::FrontToWorker message;
    std::vector<UniqueFd> fds;
    auto received = control_.Receive(&message, &fds);
    if (!received.ok() || *received != Channel::Received::kMessage) {
      control_ = Channel(UniqueFd());
      control_open_ = false;
      return true;
    }
    if (message.has_exit()) return false;
    if (message.has_read_image_info()) {
      dismd::internal::WorkerToBroker request;
      request.mutable_open_sibling()->set_request_id(message.request_id());
      request.mutable_open_sibling()->set_name(message.read_image_info().image_name_for_messages());
      broker_.Send(request).IgnoreError();
    }
    return true;
  }

  void Answer(const fuse_in_header& in, int error, const void* body = nullptr, size_t size = 0) {
    fuse_out_header out = {static_cast<uint32_t>(sizeof(out) + size), -error, in.unique};
    iovec parts[2] = {{&out, sizeof(out)}, {const_cast<void*>(body), size}};
    if (writev(fuse_.get(), parts, size == 0 ? 1 : 2) < 0) return;  // the request was interrupted
  }

  fuse_attr AttributesOf(uint64_t node) {
    fuse_attr attributes = {};
    attributes.ino = node;
    attributes.mode = node == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644;
    attributes.nlink = 1;
    attributes.size = node == FUSE_ROOT_ID ? 0 : ReadAll(5).size();
    attributes.uid = getuid();
    attributes.gid = getgid();
    return attributes;
  }

  bool OnKernel() {
    ssize_t n = read(fuse_.get(), buffer_.data(), buffer_.size());
    if (n < 0) return errno != ENODEV;
    auto* in = reinterpret_cast<fuse_in_header*>(buffer_.data());
    const char* body = buffer_.data() + sizeof(*in);
    switch (in->opcode) {
      case FUSE_INIT: {
        fuse_init_out out = {};
        out.major = FUSE_KERNEL_VERSION;
        out.minor = 31;
        out.max_write = 1 << 20;
        out.max_readahead = 1 << 20;
        Answer(*in, 0, &out, sizeof(out));
        dismd::internal::WorkerToFront serving;
        serving.mutable_serving();
        control_.Send(serving).IgnoreError();
        break;
      }
      case FUSE_GETATTR: {
        fuse_attr_out out = {};
        out.attr = AttributesOf(in->nodeid);
        Answer(*in, 0, &out, sizeof(out));
        break;
      }
      case FUSE_LOOKUP: {
        fuse_entry_out out = {};
        out.nodeid = strcmp(body, "hello") == 0 ? kHello : strcmp(body, "stall") == 0 ? kStall : 0;
        if (out.nodeid == 0) {
          Answer(*in, ENOENT);
          break;
        }
        out.attr = AttributesOf(out.nodeid);
        Answer(*in, 0, &out, sizeof(out));
        break;
      }
      case FUSE_READ: {
        if (in->nodeid == kStall) break;
        std::string text = ReadAll(5);
        Answer(*in, 0, text.data(), text.size());
        break;
      }
      case FUSE_STATFS: {
        fuse_statfs_out out = {};
        out.st.bsize = 4096;
        Answer(*in, 0, &out, sizeof(out));
        break;
      }
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
      case FUSE_INTERRUPT: break;
      case FUSE_OPENDIR:
      case FUSE_OPEN: {
        fuse_open_out out = {};
        Answer(*in, 0, &out, sizeof(out));
        break;
      }
      case FUSE_READDIR:
      case FUSE_RELEASE:
      case FUSE_RELEASEDIR: Answer(*in, 0); break;
      default: Answer(*in, ENOSYS);
    }
    return true;
  }

  Channel control_{UniqueFd(3)};
  Channel broker_{UniqueFd(4)};
  bool control_open_ = true;
  UniqueFd fuse_;
  std::vector<char> buffer_ = std::vector<char>(kBufferBytes);
};

}  // namespace

int main(int argc, char** argv) { return dismd::AwaitArguments(argc, argv).ok() ? Worker().Run() : 5; }
