// SPDX-License-Identifier: GPL-3.0-or-later
//
// The program dismctl, run as a shell runs it, against a service that the test plays: exit codes, output, Ctrl-C.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "tests/unit/client_fake_service.h"

extern char** environ;

namespace dismd::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Result {
  int exit_code;
  std::string out, err;
};

class Dismctl : public ::testing::Test {
 protected:
  // Starts it; Finish waits and collects.
  void Begin(std::vector<std::string> arguments, const std::string& program = "dismctl") {
    ASSERT_EQ(pipe2(out_, O_CLOEXEC), 0);
    ASSERT_EQ(pipe2(err_, O_CLOEXEC), 0);
    arguments.insert(arguments.begin(), std::string(DISMD_BIN_DIR) + "/" + program);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out_[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err_[1], STDERR_FILENO);
    ASSERT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(out_[1]);
    close(err_[1]);
  }

  Result Finish() {
    Result result;
    std::thread reader([&] { result.err = ReadAll(err_[0]); });
    result.out = ReadAll(out_[0]);
    reader.join();
    int status = 0;
    waitpid(pid_, &status, 0);
    result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return result;
  }

  Result Run(std::vector<std::string> arguments, const std::string& program = "dismctl") {
    Begin(std::move(arguments), program);
    return Finish();
  }

  static std::string ReadAll(int fd) {
    std::string text;
    char buffer[4096];
    for (ssize_t got; (got = read(fd, buffer, sizeof(buffer))) > 0;) text.append(buffer, static_cast<size_t>(got));
    close(fd);
    return text;
  }

  FakeServer server_;
  pid_t pid_ = -1;
  int out_[2], err_[2];
};

TEST_F(Dismctl, MountsAndUnmounts) {
  ASSERT_EQ(chdir("/usr"), 0);
  Result mount = Run({"mount", "a.wim", "share", "--read-only", "--index", "2", "--check-integrity", "--allow-other"});
  EXPECT_EQ(mount.exit_code, 0) << mount.err;
  EXPECT_THAT(mount.out, StartsWith("Mounted image 2 of /usr/a.wim at /usr/share read-only in "));
  const v1::MountImageRequest request = server_.service.Mounts().at(0);
  EXPECT_EQ(request.image_path(), "/usr/a.wim");
  EXPECT_EQ(request.mount_path(), "/usr/share");
  EXPECT_TRUE(request.read_only() && request.check_integrity() && request.allow_other());
  Result unmount = Run({"unmount", "share"});
  EXPECT_EQ(unmount.exit_code, 0) << unmount.err;
  EXPECT_EQ(unmount.out, "Unmounted /usr/share\n");
  EXPECT_EQ(server_.service.Unmounts().at(0).changes(), v1::CHANGES_UNSPECIFIED);
  EXPECT_EQ(Run({"unmount", "share", "--discard"}, "dism").exit_code, 0);
  EXPECT_EQ(server_.service.Unmounts().at(1).changes(), v1::CHANGES_DISCARD);
}

TEST_F(Dismctl, ProgressAsLinesAndAsJson) {
  server_.service.on_mount = [](auto*, const auto&, const auto& send) {
    send(Snapshot(10));
    send(Snapshot(100, v1::OPERATION_STATE_SUCCEEDED));
    return grpc::Status::OK;
  };
  Result json = Run({"mount", "/a.wim", "/mnt", "--json"});
  EXPECT_EQ(json.exit_code, 0);
  EXPECT_THAT(json.out, HasSubstr(R"("current":100,"total":100)"));
  EXPECT_THAT(json.out, HasSubstr(R"({"event":"mounted","mount":{"mount_id":)"));
  EXPECT_EQ(json.err, "");
}

TEST_F(Dismctl, FailuresHaveAReasonAHintAndAnExitCode) {
  server_.service.on_mount = [](auto*, const auto&, const auto&) {
    return ErrorStatus(grpc::StatusCode::UNIMPLEMENTED, v1::NOT_IMPLEMENTED, "read-write mounts do not exist \x1b[31m");
  };
  Result result = Run({"mount", "/a.wim", "/mnt", "--json"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.err, "dismctl: read-write mounts do not exist \\x1b[31m\nhint: mount it with --read-only\n");
  EXPECT_EQ(result.out,
            "{\"event\":\"error\",\"reason\":\"NOT_IMPLEMENTED\",\"message\":\"read-write mounts do not exist "
            "\\u001b[31m\"}\n");
  EXPECT_EQ(Run({"mount", "/a.wim"}).exit_code, 2);
  EXPECT_EQ(Run({"/Mount-Image", "/ImageFile:a"}, "dism").exit_code, 2);
  server_.Stop();
  result = Run({"list"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, HasSubstr("no dismd service answers"));
}

TEST_F(Dismctl, InterruptCancelsAndWaitsForTheOutcome) {
  for (int signal : {SIGINT, SIGTERM}) {
    server_.service.cancelled = std::make_unique<absl::Notification>();
    absl::Notification begun;
    bool late = signal == SIGTERM;
    server_.service.on_mount = [&](auto*, const auto&, const auto& send) {
      send(Snapshot(10));
      begun.Notify();
      server_.service.cancelled->WaitForNotification();
      if (!late) return ErrorStatus(grpc::StatusCode::CANCELLED, v1::CANCELLED, "the mount was cancelled");
      send(Snapshot(100, v1::OPERATION_STATE_SUCCEEDED));
      return grpc::Status::OK;
    };
    Begin({"mount", "/a.wim", "/mnt", "--read-only"});
    begun.WaitForNotification();
    kill(pid_, signal);
    Result result = Finish();
    EXPECT_EQ(result.exit_code, late ? 0 : 4) << result.err;
    if (!late) {
      EXPECT_THAT(result.err, HasSubstr("dismctl: the mount was cancelled"));
    }
  }
}

TEST_F(Dismctl, WatchShowsEveryEventUntilInterrupted) {
  absl::Notification sent;
  server_.service.on_watch = [&](grpc::ServerContext* context, grpc::ServerWriter<v1::WatchMountsResponse>* writer) {
    for (int i = 0; i < 50; ++i) {
      v1::WatchMountsResponse response;
      response.set_event(i == 49 ? v1::MOUNT_EVENT_SYNCED : v1::MOUNT_EVENT_ADDED);
      if (i < 49) response.mutable_mount()->set_mount_path("/mnt/" + std::to_string(i));
      writer->Write(response);
    }
    sent.Notify();
    WaitUntilCancelled(context);
    return grpc::Status::CANCELLED;
  };
  Begin({"watch", "--json"});
  std::string text;
  char buffer[4096];
  while (text.find("synced") == std::string::npos) {
    ssize_t got = read(out_[0], buffer, sizeof(buffer));
    ASSERT_GT(got, 0) << text;
    text.append(buffer, static_cast<size_t>(got));
  }
  for (int i = 0; i < 49; ++i) EXPECT_THAT(text, HasSubstr("\"/mnt/" + std::to_string(i) + "\""));
  kill(pid_, SIGINT);
  EXPECT_EQ(Finish().exit_code, 0);
}

TEST_F(Dismctl, ListInfoStatus) {
  EXPECT_EQ(Run({"list"}).out, "Nothing is mounted.\n");
  EXPECT_EQ(Run({"list", "--json"}).out, "{\"mounts\":[]}\n");
  server_.service.on_list = [](v1::ListMountsResponse* response) {
    v1::Mount* mount = response->add_mounts();
    mount->set_mount_path("/mnt");
    mount->set_image_path("/images/a.wim");
    mount->set_image_index(3);
    mount->set_read_only(true);
    mount->set_owner_uid(1000);
    mount->set_status(v1::MOUNT_STATUS_INVALID);
    mount->set_status_message("the image was changed");
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"list"}).out,
            "MOUNT POINT  IMAGE          INDEX  MODE  STATUS   OWNER\n"
            "/mnt         /images/a.wim  3      ro    invalid  1000\n"
            "/mnt: the image was changed\n");
  server_.service.on_info = [](const auto&, v1::GetImageInfoResponse* response) {
    v1::ImageInfo* image = response->add_images();
    image->set_image_index(1);
    image->set_image_name("Office\x07");
    image->set_image_size(1234567);
    return grpc::Status::OK;
  };
  Result info = Run({"info", "/a.wim"});
  EXPECT_THAT(info.out, HasSubstr("/a.wim: 1 image\n"));
  EXPECT_THAT(info.out, HasSubstr("Office\\x07\n"));
  EXPECT_THAT(info.out, HasSubstr("1,234,567 bytes"));
  EXPECT_THAT(Run({"info", "/a.wim", "--json"}).out, HasSubstr(R"("image_size":1234567)"));
  EXPECT_THAT(Run({"status", "--json"}).out, HasSubstr(R"("version":"9.8.7","rootless":false,"caller_uid":1234)"));
  Result help = Run({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, StartsWith("dismctl - "));
}

}  // namespace
}  // namespace dismd::testing
