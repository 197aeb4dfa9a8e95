// SPDX-License-Identifier: GPL-3.0-or-later
//
// A private dismd for a test: started from the build's own bin directory with a socket and a state directory of its
// own, waited for until its health service says SERVING, stopped by its pid, and looked after: what it leaves behind
// is a failure of the test.
//
//   PrivateService service;                       // in a fixture
//   ASSERT_TRUE(service.Start());                 // prints the service's log when it fails
//   ... "unix:" + service.socket_path() ...       // setenv("DISMD_ADDRESS", service.address().c_str(), 1)
//   EXPECT_EQ(service.Stop(), "");                // "" or what went wrong, one thing a line
//
// The test process becomes the subreaper of what it starts: a process that outlives the service is reparented to the
// test and found there.
//
// Thread safety: one thread at a time.

#ifndef TESTS_INTEGRATION_SERVICE_H_
#define TESTS_INTEGRATION_SERVICE_H_

#include <sys/types.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace dismd::testing {

// A directory under TMPDIR that goes with its owner. Mode 0755: every uid may pass through.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

struct MountEntry {
  std::string mount_point;
  std::string fs_type;  // "fuse", "fuse.dismd", ...
  std::string source;
};

// What /proc/self/mountinfo holds at or below `directory`.
std::vector<MountEntry> MountsBelow(const std::string& directory);

// The processes whose ancestor is `pid` (without itself), with their names from /proc/PID/comm.
std::vector<std::pair<pid_t, std::string>> DescendantsOf(pid_t pid);

class PrivateService {
 public:
  struct Options {
    // Further arguments of dismd, such as "--user".
    std::vector<std::string> arguments;
    // NAME=VALUE, added to the environment.
    std::vector<std::string> environment;
    // Run as this uid and gid (rootless mode); 0: as the test.
    uid_t uid = 0;
    gid_t gid = 0;
  };

  PrivateService() = default;
  // Stops the service if it runs; by SIGKILL when SIGTERM does not help.
  ~PrivateService();
  PrivateService(const PrivateService&) = delete;
  PrivateService& operator=(const PrivateService&) = delete;

  // False: it ended, or does not serve within half a minute; its log is then on stderr.
  // (Overloads, not a default argument: Options' own defaults are not complete inside the class.)
  bool Start() { return Start(Options()); }
  bool Start(const Options& options);

  // SIGTERM, then waits for the end. Returns what is wrong, one thing a line: an exit status other than 0, a socket,
  // process or mount left behind. Afterwards Start() may be called again, with the same socket and state.
  std::string Stop();

  // SIGKILL to the broker alone, and its exit awaited: for tests of what then happens.
  void Kill();

  // Waits until no process of the service is left but `dismd` and `dismd-front`: workers end a moment after their
  // mount. Returns the names of those that are still there at the deadline.
  std::string WaitForNoWorkers(std::chrono::milliseconds patience = std::chrono::seconds(10)) const;
  std::vector<pid_t> WorkerPids() const;

  bool running() const { return pid_ > 0; }
  pid_t pid() const { return pid_; }
  std::string address() const { return "unix:" + socket_path(); }
  std::string socket_path() const { return directory_ / "dismd.sock"; }
  std::string state_dir() const { return directory_ / "state"; }
  std::string log_path() const { return directory_ / "log"; }
  // Everything that the service wrote to stderr so far.
  std::string Log() const;
  // The directory that the above lie in; a test may put mount points there. Removed with the object.
  const std::string& directory() const { return directory_.path(); }

 private:
  bool WaitUntilServing();
  bool HasExited(int* status);

  TempDir directory_;
  pid_t pid_ = -1;
};

// Takes the identity of another user in this scope: effective uid and gid of the whole process, supplementary groups
// emptied. What the process connects to in this scope sees that user. Needs root.
class AsUser {
 public:
  AsUser(uid_t uid, gid_t gid);
  ~AsUser();
  AsUser(const AsUser&) = delete;
  AsUser& operator=(const AsUser&) = delete;

 private:
  std::vector<gid_t> groups_;
};

// The path of a program of this build, such as "dismctl"; of another where the variable DISMD_BIN_DIR names its bin
// directory.
std::string BinaryPath(const std::string& name);

// What is missing for tests that mount (root, /dev/fuse); "" when nothing is. Such a test fails with this text.
std::string WhyNoMounts();

}  // namespace dismd::testing

#endif  // TESTS_INTEGRATION_SERVICE_H_
