// SPDX-License-Identifier: Apache-2.0

#include "client/dismctl/options.h"

#include <algorithm>
#include <charconv>
#include <functional>

namespace dismd {
namespace {

struct OptionRule {
  const char* name;
  char letter;  // 0: none
  bool takes_value;
  std::vector<Command> commands;  // empty: all
  // False: the value makes no sense.
  std::function<bool(Options*, const std::string&)> apply;
};

struct CommandRule {
  const char* name;
  Command command;
  // What the words after the command are, in order.
  std::vector<std::pair<const char*, std::string Options::*>> words;
  bool words_needed = true;
};

const std::vector<CommandRule>& CommandRules() {
  static const auto* rules = new std::vector<CommandRule>{
      {"mount", Command::kMount, {{"IMAGE", &Options::image}, {"DIR", &Options::directory}}},
      {"unmount", Command::kUnmount, {{"DIR", &Options::directory}}},
      {"umount", Command::kUnmount, {{"DIR", &Options::directory}}},
      {"commit", Command::kCommit, {{"DIR", &Options::directory}}},
      {"remount", Command::kRemount, {{"DIR", &Options::directory}}},
      {"list", Command::kList, {}},
      {"info", Command::kInfo, {{"IMAGE", &Options::image}}},
      {"watch", Command::kWatch, {}},
      {"cleanup", Command::kCleanup, {{"DIR", &Options::directory}}, /*words_needed=*/false},
      {"status", Command::kStatus, {}},
  };
  return *rules;
}

bool ParseIndex(const std::string& text, std::optional<uint32_t>* index) {
  uint32_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  *index = value;
  return true;
}

bool ParseCompression(const std::string& text, v1::Compression* compression) {
  if (text == "xpress") return *compression = v1::COMPRESSION_XPRESS, true;
  if (text == "lzx") return *compression = v1::COMPRESSION_LZX, true;
  if (text == "lzms") return *compression = v1::COMPRESSION_LZMS, true;
  return false;
}

template <bool Options::*member>
bool SetFlag(Options* options, const std::string&) {
  options->*member = true;
  return true;
}

const std::vector<OptionRule>& OptionRules() {
  static const auto* rules = new std::vector<OptionRule>{
      {"address", 0, true, {}, [](Options* o, const std::string& value) { return !(o->address = value).empty(); }},
      {"json", 0, false, {}, SetFlag<&Options::json>},
      {"index",
       'i',
       true,
       {Command::kMount},
       [](Options* o, const std::string& value) { return ParseIndex(value, &o->index); }},
      {"name",
       'n',
       true,
       {Command::kMount},
       [](Options* o, const std::string& value) { return (o->name = value, true); }},
      {"partition",
       0,
       true,
       {Command::kMount},
       [](Options* o, const std::string& value) { return ParseIndex(value, &o->partition); }},
      {"read-only", 'r', false, {Command::kMount}, SetFlag<&Options::read_only>},
      {"check-integrity",
       0,
       false,
       {Command::kMount, Command::kUnmount, Command::kCommit},
       SetFlag<&Options::check_integrity>},
      {"allow-other", 0, false, {Command::kMount}, SetFlag<&Options::allow_other>},
      {"scratch-directory",
       0,
       true,
       {Command::kMount},
       [](Options* o, const std::string& value) { return (o->scratch_directory = value, true); }},
      {"unix-data", 0, false, {Command::kMount}, SetFlag<&Options::unix_data>},
      {"discard", 0, false, {Command::kUnmount}, SetFlag<&Options::discard>},
      {"commit", 0, false, {Command::kUnmount}, SetFlag<&Options::commit>},
      {"append", 0, false, {Command::kUnmount, Command::kCommit}, SetFlag<&Options::append>},
      {"rebuild", 0, false, {Command::kUnmount, Command::kCommit}, SetFlag<&Options::rebuild>},
      {"recompress",
       0,
       true,
       {Command::kUnmount, Command::kCommit},
       [](Options* o, const std::string& value) { return ParseCompression(value, &o->recompress); }},
      {"force", 0, false, {Command::kCleanup}, SetFlag<&Options::force>},
  };
  return *rules;
}

class Parser {
 public:
  Parser(const std::vector<std::string>& arguments, Options* options) : arguments_(arguments), options_(options) {}

  bool Parse(std::string* error) {
    bool only_words = false;
    while (next_ < arguments_.size() && error_.empty() && !help_) {
      const std::string& argument = arguments_[next_++];
      if (only_words || argument.size() < 2 || argument[0] != '-') {
        Word(argument);
      } else if (argument == "--") {
        only_words = true;
      } else {
        Option(argument);
      }
    }
    if (help_) return true;
    if (error_.empty()) CheckWhole();
    *error = error_;
    return error_.empty();
  }

 private:
  void Word(const std::string& word) {
    if (command_ != nullptr) {
      if (words_ == command_->words.size()) {
        error_ = std::string(command_->name) + ": too many arguments: " + word;
      } else {
        options_->*command_->words[words_++].second = word;
      }
      return;
    }
    if (word == "help") {
      help_ = true;
      options_->command = Command::kHelp;
      if (next_ < arguments_.size()) options_->help_topic = arguments_[next_];
      return;
    }
    for (const CommandRule& rule : CommandRules()) {
      if (word != rule.name) continue;
      command_ = &rule;
      options_->command = rule.command;
      return;
    }
    error_ = "unknown command: " + word;
  }

  void Option(const std::string& argument) {
    if (argument == "--help" || argument == "-h") {
      help_ = true;
      options_->command = Command::kHelp;
      if (command_ != nullptr) options_->help_topic = command_->name;
      return;
    }
    if (argument == "--version") {
      help_ = true;
      options_->command = Command::kVersion;
      return;
    }
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    for (const OptionRule& rule : OptionRules()) {
      if (name != std::string("--") + rule.name && (rule.letter == 0 || name != std::string("-") + rule.letter)) {
        continue;
      }
      std::string value;
      if (rule.takes_value) {
        if (equals != std::string::npos) {
          value = argument.substr(equals + 1);
        } else if (next_ < arguments_.size()) {
          value = arguments_[next_++];
        } else {
          error_ = name + " needs a value";
          return;
        }
      } else if (equals != std::string::npos) {
        error_ = name + " takes no value";
        return;
      }
      if (!rule.apply(options_, value)) error_ = name + ": " + (value.empty() ? "empty value" : "bad value: " + value);
      used_.push_back(&rule);
      return;
    }
    error_ = "unknown option: " + argument;
  }

  void CheckWhole() {
    if (command_ == nullptr) {
      error_ = "a command is missing";
    } else if (command_->words_needed && words_ < command_->words.size()) {
      error_ = std::string(command_->name) + ": " + command_->words[words_].first + " is missing";
    } else if (options_->index && options_->name) {
      error_ = "--index and --name exclude each other";
    } else if (options_->commit && options_->discard) {
      error_ = "--commit and --discard exclude each other";
    } else if (options_->command == Command::kUnmount && !options_->commit && HasCommitOptions()) {
      error_ = "--append, --check-integrity, --rebuild and --recompress go with --commit";
    } else if (options_->force && options_->directory.empty()) {
      error_ = "--force takes one mount: DIR is missing";
    }
    // Options may stand before the command: only now it is known whether they go with it.
    for (const OptionRule* rule : used_) {
      const auto& commands = rule->commands;
      if (!error_.empty() || commands.empty()) continue;
      if (std::find(commands.begin(), commands.end(), options_->command) == commands.end()) {
        error_ = std::string(command_->name) + " has no option --" + rule->name;
      }
    }
  }

  bool HasCommitOptions() const {
    return options_->append || options_->check_integrity || options_->rebuild || options_->recompress != 0;
  }

  const std::vector<std::string>& arguments_;
  Options* const options_;
  size_t next_ = 0;
  size_t words_ = 0;
  bool help_ = false;  // or --version: nothing else counts
  const CommandRule* command_ = nullptr;
  std::vector<const OptionRule*> used_;
  std::string error_;
};

}  // namespace

bool ParseOptions(const std::vector<std::string>& arguments, Options* options, std::string* error) {
  return Parser(arguments, options).Parse(error);
}

}  // namespace dismd
