// SPDX-License-Identifier: Apache-2.0

#include "client/dism/options.h"

#include <strings.h>

#include <algorithm>
#include <charconv>
#include <functional>

namespace dismd::dism {
namespace {

struct CommandRule {
  Command command;
  std::vector<const char*> names;
  // What it cannot do without, checked in this order.
  std::vector<const char*> needed;
};

const std::vector<CommandRule>& CommandRules() {
  static const auto* rules = new std::vector<CommandRule>{
      {Command::kMountImage, {"Mount-Image", "Mount-Wim"}, {"ImageFile", "MountDir"}},
      {Command::kUnmountImage, {"Unmount-Image", "Unmount-Wim"}, {"MountDir"}},
      {Command::kCommitImage, {"Commit-Image", "Commit-Wim"}, {"MountDir"}},
      {Command::kRemountImage, {"Remount-Image", "Remount-Wim"}, {"MountDir"}},
      {Command::kGetImageInfo, {"Get-ImageInfo", "Get-WimInfo"}, {"ImageFile"}},
      {Command::kGetMountedImageInfo, {"Get-MountedImageInfo", "Get-MountedWimInfo"}, {}},
      {Command::kCleanupMountpoints, {"Cleanup-Mountpoints", "Cleanup-Wim"}, {}},
  };
  return *rules;
}

struct OptionRule {
  std::vector<const char*> names;
  bool takes_value;
  std::vector<Command> commands;  // empty: all
  std::function<bool(Options*, const std::string&)> apply;
};

template <std::optional<std::string> Options::*member>
bool SetText(Options* options, const std::string& value) {
  options->*member = value;
  return !value.empty();
}

template <bool Options::*member>
bool SetFlag(Options* options, const std::string&) {
  options->*member = true;
  return true;
}

bool ParseNumber(const std::string& text, uint32_t* value) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

bool SetIndex(Options* options, const std::string& value) {
  uint32_t index = 0;
  if (!ParseNumber(value, &index)) return false;
  options->index = index;
  return true;
}

bool SetLogLevel(Options* options, const std::string& value) {
  uint32_t level = 0;
  if (!ParseNumber(value, &level) || level < 1 || level > 4) return false;
  options->log_level = static_cast<int>(level);
  return true;
}

bool SetFormat(Options* options, const std::string& value) {
  options->table = strcasecmp(value.c_str(), "Table") == 0;
  return options->table || strcasecmp(value.c_str(), "List") == 0;
}

bool Ignore(Options*, const std::string&) { return true; }

using enum Command;

const std::vector<OptionRule>& OptionRules() {
  static const auto* rules = new std::vector<OptionRule>{
      {{"ImageFile", "WimFile"}, true, {kMountImage, kGetImageInfo}, SetText<&Options::image_file>},
      {{"MountDir"}, true, {kMountImage, kUnmountImage, kCommitImage, kRemountImage}, SetText<&Options::mount_dir>},
      {{"Index"}, true, {kMountImage, kGetImageInfo}, SetIndex},
      {{"Name"}, true, {kMountImage, kGetImageInfo}, SetText<&Options::name>},
      {{"ReadOnly"}, false, {kMountImage}, SetFlag<&Options::read_only>},
      {{"Optimize"}, false, {kMountImage}, SetFlag<&Options::optimize>},
      {{"CheckIntegrity"}, false, {kMountImage, kUnmountImage, kCommitImage}, SetFlag<&Options::check_integrity>},
      {{"SupportEa"}, false, {kMountImage, kUnmountImage, kCommitImage}, SetFlag<&Options::support_ea>},
      {{"Commit"}, false, {kUnmountImage}, SetFlag<&Options::commit>},
      {{"Discard"}, false, {kUnmountImage}, SetFlag<&Options::discard>},
      {{"Append"}, false, {kUnmountImage, kCommitImage}, SetFlag<&Options::append>},
      {{"LogPath"}, true, {}, SetText<&Options::log_path>},
      {{"LogLevel"}, true, {}, SetLogLevel},
      {{"ScratchDir"}, true, {}, SetText<&Options::scratch_dir>},
      {{"Format"}, true, {}, SetFormat},
      {{"Quiet"}, false, {}, SetFlag<&Options::quiet>},
      {{"English"}, false, {}, Ignore},
      {{"NoRestart"}, false, {}, Ignore},
      {{"?", "Get-Help", "Help"}, false, {}, SetFlag<&Options::help>},
  };
  return *rules;
}

bool Matches(const std::vector<const char*>& names, const std::string& name) {
  return std::any_of(names.begin(), names.end(),
                     [&name](const char* one) { return strcasecmp(one, name.c_str()) == 0; });
}

std::string Unquoted(const std::string& text) {
  const bool quoted = text.size() >= 2 && text.front() == text.back() && (text[0] == '"' || text[0] == '\'');
  return quoted ? text.substr(1, text.size() - 2) : text;
}

class Parser {
 public:
  explicit Parser(Options* options) : options_(options) {}

  bool Parse(const std::vector<std::string>& arguments, std::string* error) {
    for (const std::string& argument : arguments) {
      if (!Take(Unquoted(argument))) break;
    }
    if (error_.empty() && !options_->help) CheckWhole();
    *error = error_;
    return error_.empty();
  }

 private:
  bool Take(const std::string& argument) {
    if (argument.size() < 2 || (argument[0] != '/' && argument[0] != '-')) {
      error_ = "The option " + argument + " is not recognized in this context.";
      return false;
    }
    const size_t end = argument.find_first_of(":=");
    const std::string name = argument.substr(1, end == std::string::npos ? end : end - 1);
    const bool has_value = end != std::string::npos;
    const std::string value = has_value ? Unquoted(argument.substr(end + 1)) : "";
    for (const CommandRule& rule : CommandRules()) {
      if (Matches(rule.names, name)) return TakeCommand(rule, has_value, name);
    }
    for (const OptionRule& rule : OptionRules()) {
      if (Matches(rule.names, name)) return TakeOption(rule, has_value, name, value);
    }
    error_ = "The " + Unprefixed(name) + " option is unknown.";
    return false;
  }

  bool TakeCommand(const CommandRule& rule, bool has_value, const std::string& name) {
    if (has_value) {
      error_ = "The " + Unprefixed(name) + " option takes no value.";
    } else if (command_ != nullptr) {
      error_ = "Only one command can be given: /" + std::string(*command_->names.begin()) + " or /" + name + ".";
    } else {
      command_ = &rule;
      options_->command = rule.command;
    }
    return error_.empty();
  }

  bool TakeOption(const OptionRule& rule, bool has_value, const std::string& name, const std::string& value) {
    if (std::find(used_.begin(), used_.end(), &rule) != used_.end()) {
      error_ = "The " + Unprefixed(name) + " option was given twice.";
    } else if (rule.takes_value && value.empty()) {
      error_ = "The " + Unprefixed(name) + " option needs a value.";
    } else if (!rule.takes_value && has_value) {
      error_ = "The " + Unprefixed(name) + " option takes no value.";
    } else if (!rule.apply(options_, value)) {
      error_ = "The value \"" + value + "\" is not valid for the " + Unprefixed(name) + " option.";
    }
    used_.push_back(&rule);
    return error_.empty();
  }

  void CheckWhole() {
    if (command_ == nullptr) {
      error_ = "A command is missing.";
      return;
    }
    const std::string command = std::string("/") + *command_->names.begin();
    for (const OptionRule* rule : used_) {
      const auto& commands = rule->commands;
      if (commands.empty() || std::find(commands.begin(), commands.end(), command_->command) != commands.end()) {
        continue;
      }
      error_ =
          "The " + Unprefixed(*rule->names.begin()) + " option is not recognized in this context: " + command + ".";
      return;
    }
    for (const char* needed : command_->needed) {
      const bool there =
          Matches({needed}, "ImageFile") ? options_->image_file.has_value() : options_->mount_dir.has_value();
      if (!there) {
        error_ = "The " + Unprefixed(needed) + " option is required by " + command + ".";
        return;
      }
    }
    if (options_->index && options_->name) {
      error_ = "The index and name options exclude each other.";
    } else if (command_->command == kMountImage && !options_->index && !options_->name) {
      error_ = "The index or name option is required by " + command + ".";
    } else if (command_->command == kUnmountImage && options_->commit == options_->discard) {
      error_ = "Specify either /Commit or /Discard with " + command + ".";
    } else if (options_->discard && (options_->append || options_->check_integrity)) {
      error_ = "/Append and /CheckIntegrity go with /Commit.";
    }
  }

  // "mountdir", as dism.exe names options in its messages.
  static std::string Unprefixed(const std::string& name) {
    std::string lower = name;
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
    return lower;
  }

  Options* const options_;
  const CommandRule* command_ = nullptr;
  std::vector<const OptionRule*> used_;
  std::string error_;
};

}  // namespace

bool ParseOptions(const std::vector<std::string>& arguments, Options* options, std::string* error) {
  return Parser(options).Parse(arguments, error);
}

}  // namespace dismd::dism
