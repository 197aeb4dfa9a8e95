// SPDX-License-Identifier: Apache-2.0
//
// DismLog: a log file with lines as DISM writes them, for the tools that read its logs:
//
//   2026-01-31 12:00:00, Info                  DISM   API: PID=812 TID=814 DismApi: ... - DismMountImage
//
// Each line is added by one write, so that several processes may use one file.
//
// Thread safety: everything may be called from any thread.

#ifndef CLIENT_COMMON_DISM_LOG_H_
#define CLIENT_COMMON_DISM_LOG_H_

#include <memory>
#include <string>

#include "client/common/unique_fd.h"

namespace dismd {

class DismLog {
 public:
  // DismLogLevel's numbers: who wants one also gets those before it.
  enum class Level { kError = 0, kWarning = 1, kInfo = 2, kDebug = 3 };

  // Opens `path` for adding, and makes it where there is none; not its directory. Null: errno says why. `component`:
  // "API", or "DISM.EXE".
  static std::unique_ptr<DismLog> Open(const std::string& path, Level most, std::string component);

  bool Wants(Level level) const { return level <= most_; }
  void Write(Level level, const std::string& text);

  // The line without its end; control characters of `text` are taken out, since names come from images.
  static std::string Line(Level level, const std::string& component, const std::string& text);

 private:
  DismLog(UniqueFd fd, Level most, std::string component);

  const UniqueFd fd_;
  const Level most_;
  const std::string component_;
};

}  // namespace dismd

#endif  // CLIENT_COMMON_DISM_LOG_H_
