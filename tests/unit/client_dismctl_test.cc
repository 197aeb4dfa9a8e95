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

TEST_F(Dismctl, ASecondInterruptOfEitherKindEndsIt) {
  absl::Notification begun, ended;
  server_.service.on_mount = [&](auto*, const auto&, const auto& send) {
    send(Snapshot(10));
    begun.Notify();
    ended.WaitForNotification();
    return ErrorStatus(grpc::StatusCode::CANCELLED, v1::CANCELLED, "the mount was cancelled");
  };
  server_.service.cancelled = std::make_unique<absl::Notification>();
  Begin({"mount", "/a.wim", "/mnt", "--read-only"});
  begun.WaitForNotification();
  kill(pid_, SIGTERM);
  server_.service.cancelled->WaitForNotification();
  kill(pid_, SIGINT);
  EXPECT_EQ(Finish().exit_code, -SIGINT);
  ended.Notify();
}

v1::Operation Done(const std::string& mount_path) {
  v1::Operation done = Snapshot(100, v1::OPERATION_STATE_SUCCEEDED);
  v1::Mount* mount = done.mutable_mount();
  mount->set_mount_path(mount_path);
  mount->set_image_path("/images/a.wim");
  mount->set_image_index(3);
  mount->set_image_name("Pro");
  mount->set_status(v1::MOUNT_STATUS_OK);
  return done;
}

TEST_F(Dismctl, MountsReadWriteUnlessTold) {
  EXPECT_THAT(Run({"mount", "/a.wim", "/mnt"}).out, HasSubstr(" at /mnt read-write in "));
  EXPECT_FALSE(server_.service.Mounts().at(0).read_only());
  EXPECT_FALSE(server_.service.Mounts().at(0).unix_data());
  EXPECT_EQ(Run({"mount", "/a.wim", "/mnt", "--unix-data"}).exit_code, 0);
  EXPECT_TRUE(server_.service.Mounts().at(1).unix_data());
  EXPECT_EQ(server_.service.Mounts().at(1).scratch_directory(), "");
  EXPECT_EQ(Run({"mount", "/a.wim", "/mnt", "--scratch-directory=/some/../place"}).exit_code, 0);
  EXPECT_EQ(server_.service.Mounts().at(2).scratch_directory(), "/some/../place");
  server_.service.on_mount = [](auto*, const auto&, const auto&) {
    return ErrorStatus(grpc::StatusCode::FAILED_PRECONDITION, v1::IMAGE_READ_ONLY, "/a.wim cannot be written");
  };
  EXPECT_EQ(Run({"mount", "/a.wim", "/mnt"}).err,
            "dismctl: /a.wim cannot be written\nhint: mount it with --read-only\n");
  EXPECT_EQ(Run({"mount", "/a.wim", "/mnt", "-r"}).err, "dismctl: /a.wim cannot be written\n");
}

TEST_F(Dismctl, Commits) {
  server_.service.on_commit = [](auto*, const v1::CommitImageRequest& request, const auto& send) {
    v1::Operation running = Snapshot(10);
    running.mutable_progress()->set_phase(v1::PHASE_COMMITTING);
    running.mutable_progress()->set_bytes_total(1 << 20);
    send(running);
    send(Done(request.mount_path()));
    return grpc::Status::OK;
  };
  Result plain = Run({"commit", "/mnt"});
  EXPECT_EQ(plain.exit_code, 0) << plain.err;
  EXPECT_THAT(plain.out, StartsWith("Committed /mnt to image 3 (Pro) of /images/a.wim in "));
  Result json = Run({"commit", "/mnt", "--append", "--check-integrity", "--rebuild", "--recompress=lzx", "--json"});
  EXPECT_THAT(json.out, HasSubstr(R"({"event":"committed","mount":{"mount_id":)"));
  const auto commits = server_.service.Commits();
  ASSERT_EQ(commits.size(), 2u);
  EXPECT_EQ(commits[0].mount_path(), "/mnt");
  EXPECT_EQ(commits[0].options().ByteSizeLong(), 0u);
  const v1::CommitOptions& options = commits[1].options();
  EXPECT_TRUE(options.append() && options.generate_integrity() && options.rebuild());
  EXPECT_EQ(options.recompress(), v1::COMPRESSION_LZX);
  server_.service.on_commit = [](auto*, const auto&, const auto&) {
    return ErrorStatus(grpc::StatusCode::FAILED_PRECONDITION, v1::MOUNT_READ_ONLY, "/mnt is mounted read-only");
  };
  Result refused = Run({"commit", "/mnt"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_EQ(refused.err, "dismctl: /mnt is mounted read-only\nhint: it has nothing to commit\n");
}

TEST_F(Dismctl, UnmountsWithAChoiceForTheChanges) {
  server_.service.on_unmount = [](auto*, const v1::UnmountImageRequest& request, const auto& send) {
    if (request.changes() == v1::CHANGES_UNSPECIFIED) {
      return ErrorStatus(grpc::StatusCode::INVALID_ARGUMENT, v1::INVALID_FLAGS, "/mnt is mounted read-write");
    }
    send(Done(request.mount_path()));
    return grpc::Status::OK;
  };
  Result neither = Run({"unmount", "/mnt"});
  EXPECT_EQ(neither.exit_code, 1);
  EXPECT_EQ(neither.err,
            "dismctl: /mnt is mounted read-write\nhint: choose --commit or --discard for the changes of this mount\n");
  Result commit = Run({"unmount", "/mnt", "--commit", "--append", "--recompress", "lzms"});
  EXPECT_EQ(commit.exit_code, 0) << commit.err;
  EXPECT_THAT(commit.out, StartsWith("Committed image 3 (Pro) of /images/a.wim and unmounted /mnt in "));
  EXPECT_EQ(Run({"unmount", "/mnt", "--commit", "--json"}).out.substr(0, 8), "{\"event\"");
  EXPECT_EQ(Run({"unmount", "/mnt", "--discard"}).out, "Unmounted /mnt\n");
  EXPECT_EQ(Run({"unmount", "/mnt", "--append"}).exit_code, 2);
  EXPECT_EQ(Run({"unmount", "/mnt", "--discard", "--rebuild"}).exit_code, 2);
  const auto unmounts = server_.service.Unmounts();
  ASSERT_EQ(unmounts.size(), 4u);
  EXPECT_EQ(unmounts[1].changes(), v1::CHANGES_COMMIT);
  EXPECT_TRUE(unmounts[1].commit().append());
  EXPECT_FALSE(unmounts[1].commit().rebuild());
  EXPECT_EQ(unmounts[1].commit().recompress(), v1::COMPRESSION_LZMS);
  EXPECT_EQ(unmounts[3].changes(), v1::CHANGES_DISCARD);
  EXPECT_FALSE(unmounts[3].has_commit());
}

TEST_F(Dismctl, RemountsAndCleansUp) {
  server_.service.on_remount = [](auto*, const v1::RemountImageRequest& request, const auto& send) {
    v1::Operation done = Done(request.mount_path());
    done.mutable_mount()->set_has_changes(true);
    done.mutable_mount()->set_changed_files(1);
    done.mutable_mount()->set_staged_bytes(4096);
    send(done);
    return grpc::Status::OK;
  };
  Result remount = Run({"remount", "/mnt"});
  EXPECT_THAT(remount.out, StartsWith("Remounted image 3 (Pro) of /images/a.wim at /mnt in "));
  EXPECT_THAT(remount.out, HasSubstr("\nKept: 1 changed file (4,096 bytes staged)\n"));
  EXPECT_THAT(Run({"remount", "/mnt", "--json"}).out, HasSubstr(R"("has_changes":true,"changed_files":1)"));

  v1::CleanupMountpointsRequest seen;
  server_.service.on_cleanup = [&seen](const auto& request, v1::CleanupMountpointsResponse* response) {
    seen = request;
    if (request.force()) {
      *response->add_removed() = Done(request.mount_path()).mount();
      response->mutable_removed(0)->set_has_changes(true);
      response->mutable_removed(0)->set_changed_files(1200);
      response->mutable_removed(0)->set_staged_bytes(7);
    }
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"cleanup"}).out, "There was nothing to clean up.\n");
  EXPECT_EQ(seen.mount_case(), v1::CleanupMountpointsRequest::MOUNT_NOT_SET);
  EXPECT_EQ(Run({"cleanup", "--force", "/mnt"}).out,
            "Removed /mnt; thrown away: 1,200 changed files (7 bytes staged)\n");
  EXPECT_EQ(seen.mount_path(), "/mnt");
  EXPECT_EQ(Run({"cleanup", "--force"}).exit_code, 2);
  server_.service.on_cleanup = [](const auto&, v1::CleanupMountpointsResponse* response) {
    v1::Mount* kept = response->add_kept();
    kept->set_mount_path("/mnt");
    kept->set_status_message("a.wim was not found");
    return grpc::Status::OK;
  };
  EXPECT_EQ(Run({"cleanup"}).out,
            "Kept /mnt, for its edits: a.wim was not found\n"
            "  (dismctl remount, once what is missing is back; cleanup --force throws the edits away)\n");
  EXPECT_THAT(Run({"cleanup", "--json"}).out, HasSubstr(R"("mounts":[],"kept":[{)"));
  server_.service.on_cleanup = [](const auto&, auto*) {
    return ErrorStatus(grpc::StatusCode::FAILED_PRECONDITION, v1::NEEDS_REMOUNT, "/mnt needs a remount");
  };
  Result refused = Run({"cleanup", "/mnt"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("dismctl remount /mnt; cleanup --force throws its edits away"));
}

TEST_F(Dismctl, AnInterruptedCommitTellsWhatBecameOfIt) {
  for (bool late : {false, true}) {
    server_.service.cancelled = std::make_unique<absl::Notification>();
    absl::Notification begun;
    server_.service.on_commit = [&](auto*, const auto&, const auto& send) {
      send(Snapshot(10));
      begun.Notify();
      server_.service.cancelled->WaitForNotification();
      if (!late) return ErrorStatus(grpc::StatusCode::CANCELLED, v1::CANCELLED, "the commit was cancelled");
      send(Done("/mnt"));
      return grpc::Status::OK;
    };
    Begin({"commit", "/mnt"});
    begun.WaitForNotification();
    kill(pid_, SIGINT);
    Result result = Finish();
    EXPECT_EQ(result.exit_code, late ? 0 : 4) << result.err;
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
