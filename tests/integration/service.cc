// SPDX-License-Identifier: GPL-3.0-or-later

#include "tests/integration/service.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <thread>

#include "tests/integration/end_of_log.h"

extern char** environ;

namespace dismd::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kStartPatience = std::chrono::seconds(30);
// SIGTERM may wait for the grace time of a busy mount.
constexpr auto kStopPatience = std::chrono::seconds(60);
// For the service's other processes to end after it.
constexpr auto kEndPatience = std::chrono::seconds(10);
constexpr auto kPollInterval = std::chrono::milliseconds(10);

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// mountinfo writes blanks and the like as \ooo.
std::string Unescape(const std::string& text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      result += static_cast<char>(std::stoi(text.substr(i + 1, 3), nullptr, 8));
      i += 3;
    } else {
      result += text[i];
    }
  }
  return result;
}

// The parent of a process, from /proc/PID/stat; 0 when it has gone.
pid_t ParentOf(pid_t pid) {
  std::string stat = ReadFile("/proc/" + std::to_string(pid) + "/stat");
  size_t paren = stat.rfind(')');  // the name may hold anything, parentheses too
  if (paren == std::string::npos) return 0;
  std::istringstream rest(stat.substr(paren + 1));
  char state = 0;
  pid_t parent = 0;
  rest >> state >> parent;
  return state == 'Z' ? 0 : parent;
}

// Asks grpc.health.v1.Health/Check for the whole server. An empty HealthCheckRequest is no bytes at all, and a
// HealthCheckResponse{SERVING} is 08 01, so that no stub is needed.
bool IsServing(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // no back-off from the last failure
  auto channel = grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(2));
  grpc::CompletionQueue queue;
  grpc::ByteBuffer request(nullptr, 0);
  auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) return false;
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (response.Dump(&slices).ok()) {
    for (const grpc::Slice& slice : slices) bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes == std::string("\x08\x01", 2);
}

}  // namespace

TempDir::TempDir() {
  const char* base = getenv("TMPDIR");
  std::string path = std::string(base != nullptr ? base : "/tmp") + "/dismd-test-XXXXXX";
  if (mkdtemp(path.data()) == nullptr) {
    std::cerr << "cannot make " << path << ": " << strerror(errno) << "\n";
    abort();
  }
  chmod(path.c_str(), 0755);
  path_ = path;
}

TempDir::~TempDir() {
  // Never delete through a mount that a failed test left: the image's files would be meant next.
  if (!MountsBelow(path_).empty()) {
    std::cerr << path_ << " holds a mount and is left in place\n";
    return;
  }
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::vector<MountEntry> MountsBelow(const std::string& directory) {
  std::vector<MountEntry> result;
  std::ifstream mounts("/proc/self/mountinfo");
  std::string line;
  while (std::getline(mounts, line)) {
    std::istringstream fields(line);
    std::string id, parent, device, root, mount_point, word;
    fields >> id >> parent >> device >> root >> mount_point;
    while (fields >> word && word != "-") {
    }
    MountEntry entry;
    fields >> entry.fs_type >> entry.source;
    entry.mount_point = Unescape(mount_point);
    if (entry.mount_point == directory || entry.mount_point.rfind(directory + "/", 0) == 0) result.push_back(entry);
  }
  return result;
}

std::vector<std::pair<pid_t, std::string>> DescendantsOf(pid_t ancestor) {
  std::map<pid_t, pid_t> parents;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    pid_t pid = static_cast<pid_t>(atoi(entry.path().filename().c_str()));
    if (pid > 0) parents[pid] = ParentOf(pid);
  }
  std::vector<std::pair<pid_t, std::string>> result;
  for (const auto& [pid, parent] : parents) {
    if (parent == 0) continue;
    pid_t up = parent;
    while (up > 1 && up != ancestor) up = parents.count(up) ? parents[up] : 0;
    if (up != ancestor) continue;
    std::string name = ReadFile("/proc/" + std::to_string(pid) + "/comm");
    if (!name.empty() && name.back() == '\n') name.pop_back();
    result.emplace_back(pid, name);
  }
  return result;
}

// A worker that waits to be needed.
static bool IsSpare(pid_t pid) {
  return ReadFile("/proc/" + std::to_string(pid) + "/cmdline").find(std::string(1, '\0') + "--spare") !=
         std::string::npos;
}

PrivateService::~PrivateService() {
  if (!running()) return;
  std::string wrong = Stop();
  if (!wrong.empty()) std::cerr << "dismd did not end well:\n" << wrong;
}

bool PrivateService::Start(const Options& options) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  mkdir(state_dir().c_str(), 0700);
  if (options.uid != 0) {
    if (chown(directory().c_str(), options.uid, options.gid) != 0) return false;
    if (chown(state_dir().c_str(), options.uid, options.gid) != 0) return false;
  }
  std::vector<std::string> arguments = {BinaryPath("dismd"), "--socket", socket_path(), "--state-dir", state_dir()};
  if (options.uid != 0) {
    std::vector<std::string> prefix = {"/usr/bin/setpriv", "--reuid=" + std::to_string(options.uid),
                                       "--regid=" + std::to_string(options.gid), "--clear-groups", "--"};
    arguments.insert(arguments.begin(), prefix.begin(), prefix.end());
  }
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.push_back(*entry);
  environment.insert(environment.end(), options.environment.begin(), options.environment.end());

  std::vector<char*> argv, envp;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  for (std::string& entry : environment) envp.push_back(entry.data());
  argv.push_back(nullptr);
  envp.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log_path().c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  int error = posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    pid_ = -1;
    std::cerr << "cannot start " << argv[0] << ": " << strerror(error) << "\n";
    return false;
  }
  if (WaitUntilServing()) return true;
  std::cerr << "dismd does not serve on " << socket_path() << "; " << EndOfLog(Log());
  if (running()) Stop();
  return false;
}

bool PrivateService::WaitUntilServing() {
  for (auto deadline = Clock::now() + kStartPatience; Clock::now() < deadline;) {
    int status = 0;
    if (HasExited(&status)) {
      std::cerr << "dismd ended with wait status " << status << "\n";
      return false;
    }
    if (access(socket_path().c_str(), F_OK) == 0 && IsServing(address())) return true;
    std::this_thread::sleep_for(kPollInterval);
  }
  return false;
}

bool PrivateService::HasExited(int* status) {
  if (waitpid(pid_, status, WNOHANG) != pid_) return false;
  pid_ = -1;
  return true;
}

std::string PrivateService::Stop() {
  if (!running()) return "dismd was not running\n";
  std::string wrong;
  const pid_t pid = pid_;
  // Afterwards those that are still alive are found among our own descendants.
  const auto before = DescendantsOf(pid);
  kill(pid, SIGTERM);
  int status = 0;
  auto deadline = Clock::now() + kStopPatience;
  while (!HasExited(&status) && Clock::now() < deadline) std::this_thread::sleep_for(kPollInterval);
  if (running()) {
    wrong += "dismd did not end within " + std::to_string(kStopPatience.count()) + " s of SIGTERM\n";
    Kill();
  } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    wrong += "dismd ended with wait status " + std::to_string(status) + "\n";
  }
  // Those that dismd has killed may take a moment more.
  deadline = Clock::now() + kEndPatience;
  for (const auto& [child, name] : before) {
    // Reparented to us: reap it when it is dead, so that the pid counts as gone.
    while (waitpid(child, nullptr, WNOHANG) == 0 && Clock::now() < deadline) std::this_thread::sleep_for(kPollInterval);
    if (ParentOf(child) == 0) continue;
    wrong += "process " + std::to_string(child) + " (" + name + ") outlived the service\n";
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
  for (const MountEntry& mount : MountsBelow(directory())) {
    wrong += "a mount is left at " + mount.mount_point + " (" + mount.fs_type + ")\n";
  }
  if (access(socket_path().c_str(), F_OK) == 0) wrong += "the socket " + socket_path() + " is left\n";
  return wrong;
}

void PrivateService::Kill() {
  if (!running()) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

std::vector<pid_t> PrivateService::WorkerPids() const {
  std::vector<pid_t> result;
  for (const auto& [pid, name] : DescendantsOf(pid_)) {
    if (name.rfind("dismd-worker", 0) == 0 && !IsSpare(pid)) result.push_back(pid);
  }
  return result;
}

std::string PrivateService::WaitForNoWorkers(std::chrono::milliseconds patience) const {
  for (auto deadline = Clock::now() + patience;; std::this_thread::sleep_for(kPollInterval)) {
    std::string left;
    for (const auto& [pid, name] : DescendantsOf(pid_)) {
      if (name != "dismd-front" && !IsSpare(pid)) left += name + " (" + std::to_string(pid) + ")\n";
    }
    if (left.empty() || Clock::now() >= deadline) return left;
  }
}

std::string PrivateService::Log() const { return ReadFile(log_path()); }

AsUser::AsUser(uid_t uid, gid_t gid) {
  groups_.resize(static_cast<size_t>(std::max(0, getgroups(0, nullptr))));
  if (getgroups(static_cast<int>(groups_.size()), groups_.data()) < 0 || setgroups(0, nullptr) != 0 ||
      setegid(gid) != 0 || seteuid(uid) != 0) {
    std::cerr << "cannot become uid " << uid << ": " << strerror(errno) << "\n";
    abort();
  }
}

AsUser::~AsUser() {
  if (seteuid(0) != 0 || setegid(0) != 0 || setgroups(groups_.size(), groups_.data()) != 0) {
    std::cerr << "cannot become root again: " << strerror(errno) << "\n";
    abort();
  }
}

std::string BinaryPath(const std::string& name) {
  const char* directory = getenv("DISMD_BIN_DIR");
  return std::string(directory != nullptr ? directory : DISMD_BIN_DIR) + "/" + name;
}

std::string WhyNoMounts() {
  if (getuid() != 0) return "these tests mount: run them as root";
  if (access("/dev/fuse", R_OK | W_OK) != 0) return "these tests mount: /dev/fuse is missing (modprobe fuse?)";
  return "";
}

}  // namespace dismd::testing
