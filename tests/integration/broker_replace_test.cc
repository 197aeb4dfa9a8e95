// SPDX-License-Identifier: GPL-3.0-or-later
//
// The exchange of an image for the file that a worker wrote, when the worker does not say the truth.

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "daemon/broker/replace_image.h"
#include "gtest/gtest.h"
#include "libmount/base/reason.h"
#include "libmount/base/unique_fd.h"

namespace dismd {
namespace {

using libmount::Reason;
using libmount::UniqueFd;

constexpr uid_t kOwner = 4243;

class BrokerReplaceTest : public ::testing::Test {
 protected:
  BrokerReplaceTest() {
    std::string name = "/tmp/dismd-replace.XXXXXX";
    directory_ = mkdtemp(name.data());
    Write("image.wim", "old");
    EXPECT_EQ(chown(Path("image.wim").c_str(), kOwner, kOwner), 0);
    EXPECT_EQ(chmod(Path("image.wim").c_str(), 0644), 0);
    image_.reset(open(Path("image.wim").c_str(), O_RDWR | O_CLOEXEC));
  }
  ~BrokerReplaceTest() override { std::filesystem::remove_all(directory_); }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  void Write(const std::string& name, const std::string& content) const {
    std::ofstream(Path(name)) << content;
    EXPECT_EQ(chmod(Path(name).c_str(), 0600), 0);
  }
  std::string Read(const std::string& name) const {
    std::ifstream file(Path(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }

  // As the broker does it, in a child and for root, which keeps the right to make files like those of others. Returns
  // the reason; kUnspecified: it was done.
  Reason Replace(const std::string& file_name) {
    UniqueFd file(open(Path(file_name).c_str(), O_RDWR | O_CLOEXEC));
    const pid_t child = fork();
    if (child == 0) {
      internal::TemporaryAnswer answer;
      ReplaceImageAs({}, image_.get(), file.get(), kName, &answer);
      _exit(answer.has_error() ? static_cast<int>(answer.error().reason()) : 0);
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    return static_cast<Reason>(WEXITSTATUS(status));
  }

  static inline const std::string kName = TemporaryName("m-1");
  std::string directory_;
  UniqueFd image_;
};

TEST_F(BrokerReplaceTest, TheNewFileIsLikeTheOldOne) {
  Write(kName, "new");
  EXPECT_EQ(Replace(kName), Reason::kUnspecified);
  EXPECT_EQ(Read("image.wim"), "new");
  struct stat facts;
  ASSERT_EQ(stat(Path("image.wim").c_str(), &facts), 0);
  EXPECT_EQ(facts.st_uid, kOwner);
  EXPECT_EQ(facts.st_mode & 07777, 0644u);
  EXPECT_EQ(access(Path(kName).c_str(), F_OK), -1);
}

TEST_F(BrokerReplaceTest, AnotherFileIsLeftAsItIs) {
  Write("secret", "root's own");
  for (bool with_temporary : {false, true}) {
    if (with_temporary) Write(kName, "new");
    EXPECT_EQ(Replace("secret"), Reason::kAccessDenied);
    struct stat facts;
    ASSERT_EQ(stat(Path("secret").c_str(), &facts), 0);
    EXPECT_EQ(facts.st_uid, 0u);
    EXPECT_EQ(facts.st_mode & 07777, 0600u);
    EXPECT_EQ(Read("image.wim"), "old");
  }
}

}  // namespace
}  // namespace dismd
