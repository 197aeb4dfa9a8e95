// SPDX-License-Identifier: Apache-2.0

#include "client/common/dism_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

namespace dismd {
namespace {

const char* NameOf(DismLog::Level level) {
  switch (level) {
    case DismLog::Level::kError: return "Error";
    case DismLog::Level::kWarning: return "Warning";
    default: return "Info";  // as DISM's own debug lines
  }
}

}  // namespace

DismLog::DismLog(UniqueFd fd, Level most, std::string component)
    : fd_(std::move(fd)), most_(most), component_(std::move(component)) {}

std::unique_ptr<DismLog> DismLog::Open(const std::string& path, Level most, std::string component) {
  // O_NONBLOCK: a fifo that nobody reads must not hold the program.
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666));
  if (!fd.valid()) return nullptr;
  return std::unique_ptr<DismLog>(new DismLog(std::move(fd), most, std::move(component)));
}

std::string DismLog::Line(Level level, const std::string& component, const std::string& text) {
  const time_t now = time(nullptr);
  tm parts = {};
  localtime_r(&now, &parts);
  char stamp[32];
  strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S", &parts);
  char head[160];
  snprintf(head, sizeof(head), "%s, %-22sDISM   %s: PID=%d TID=%d ", stamp, NameOf(level), component.c_str(),
           static_cast<int>(getpid()), static_cast<int>(gettid()));
  std::string line = head;
  for (unsigned char c : text) line += c < 0x20 || c == 0x7F ? ' ' : static_cast<char>(c);
  return line;
}

void DismLog::Write(Level level, const std::string& text) {
  if (!Wants(level)) return;
  const std::string line = Line(level, component_, text) + "\r\n";
  // What does not fit on a full disk is lost: a log is not worth a failure.
  [[maybe_unused]] const ssize_t written = write(fd_.get(), line.data(), line.size());
}

}  // namespace dismd
