/// @file
/// Runs commands in a folder that is gone afterwards, whatever happens.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/run/entry_lock.hpp>
#include <dm2/run/private_folder.hpp>
#include <dm2/run/watcher.hpp>

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace dm2::run {

/// A model could not be compiled. what() has the command, how it ended and the first lines of what it printed.
struct compile_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {

/// A program with its words.
struct compiler_command {
  std::vector<std::string> words;
  bool alone = false;  ///< begins when all before it have ended
};

/// The path of a program: as it is with a slash in it, else the first of PATH's folders that has it.
[[nodiscard]] inline std::string program_path(std::string const& word) {
  char const* const path = std::getenv("PATH");
  if (path == nullptr || word.find('/') != word.npos) return word;
  for (std::string_view rest = path; !rest.empty();) {
    std::string_view const folder = rest.substr(0, rest.find(':'));
    std::string full = std::string{folder} + '/' + word;
    if (!folder.empty() && ::access(full.c_str(), X_OK) == 0) return full;
    rest.remove_prefix(std::min(rest.size(), folder.size() + 1));
  }
  return word;
}

/// A command as a shell would take it.
[[nodiscard]] inline std::string shell_text(std::vector<std::string> const& words) {
  std::string out;
  for (std::string const& word : words) {
    bool const plain = !word.empty() && word.find_first_of(" \t\n'\"\\$`&|;<>()*?[]#~!{}") == word.npos;
    std::string quoted = "'";
    for (char const c : word) quoted += c == '\'' ? std::string{"'\\''"} : std::string{c};
    out += (out.empty() ? "" : " ") + (plain ? word : quoted + '\'');
  }
  return out;
}

/// The first lines of a file, up to 30 and 4,000 bytes; empty where it cannot be read.
[[nodiscard]] inline std::string first_lines(descriptor const& file) {
  std::string text(4000, '\0');
  ::ssize_t const got = file ? ::pread(file.get(), text.data(), text.size(), 0) : 0;
  text.resize(got > 0 ? std::size_t(got) : 0);
  std::size_t end = 0;
  for (int line = 0; line < 30 && end < text.size(); ++line) {
    std::size_t const next = text.find('\n', end);
    end = next == text.npos ? text.size() : next + 1;
  }
  text.resize(end);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

/// Commands that run under a watcher process. The folder is this object's from its construction on: it is removed with
/// all that is in it by the destructor, and where this process dies of whatever signal, by the watcher, which kills the
/// commands first. Both removed, the watcher gives the lock back, too.
class compiler_process {
 public:
  /// Starts the watcher; `folder` need not be there yet, and is the commands' TMPDIR and current folder. `lock` names
  /// the lock's file, which this process holds. Throws std::runtime_error where the system gives no process.
  compiler_process(std::vector<compiler_command> commands, std::filesystem::path folder, std::filesystem::path lock)
      : commands_{std::move(commands)}, folder_{std::move(folder)}, lock_{std::move(lock)} {
    prepare();
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) refuse("a socket", errno);
    channel_.reset(ends[0]);
    descriptor const theirs{ends[1]};
    ::sigset_t all, before;
    ::sigfillset(&all);
    ::pid_t const parent = ::getpid();
    ::pthread_sigmask(SIG_SETMASK, &all, &before);  // no handler of this program runs in the watcher
    child_ = ::fork();
    if (child_ == 0) {
      ::close(ends[0]);
      watcher{plan_, ends[1], parent}.run();
    }
    int const code = errno;
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (child_ < 0) refuse("a process", code);
  }
  compiler_process(compiler_process const&) = delete;
  compiler_process& operator=(compiler_process const&) = delete;
  ~compiler_process() {
    ::send(channel_.get(), &watch_end, 1, MSG_NOSIGNAL);
    while (::waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
    }
    remove_tree(AT_FDCWD, folder_.c_str());  // where the watcher was killed
  }

  /// Runs the commands, as many at once as there are processors. Throws compile_error where one fails, and
  /// compile_stopped where `stop` becomes true. Call once.
  void run(std::atomic<bool> const* stop) {
    ::send(channel_.get(), &watch_go, 1, MSG_NOSIGNAL);
    watch_message said{};
    for (::ssize_t got = -1; got < 0;) {
      if (stop != nullptr && *stop) throw compile_stopped{"stopped while compiling"};
      ::pollfd on{channel_.get(), POLLIN, 0};
      ::poll(&on, 1, 20);
      got = ::recv(channel_.get(), &said, sizeof said, MSG_DONTWAIT);
      if (got == 0 || (got < 0 && has_ended()))
        throw compile_error{"the process that runs the compiler was ended by another program"};
    }
    if (said.kind != watch_message::finished) throw compile_error{failure(said)};
  }

 private:
  [[noreturn]] void refuse(char const* what, int code) const {
    throw compile_error{"no compiler can be started: the system gives no " + std::string{what + 2} + ": " +
                        system_message(code)};
  }
  [[nodiscard]] bool has_ended() const noexcept {
    ::siginfo_t info{};
    int const got = ::waitid(P_PID, ::id_t(child_), &info, WEXITED | WNOHANG | WNOWAIT);
    return got != 0 || info.si_pid != 0;
  }
  /// Everything that the forked process reads: pointers into strings of this object.
  void prepare() {
    for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable)
      if (std::strncmp(*variable, "TMPDIR=", 7) != 0) environment_.emplace_back(*variable);
    environment_.push_back("TMPDIR=" + folder_.string());
    for (std::string& variable : environment_) plan_.environment.push_back(variable.data());
    plan_.environment.push_back(nullptr);
    plan_.folder = folder_.c_str();
    plan_.lock = lock_.c_str();
    plan_.jobs = int(std::max(1u, std::thread::hardware_concurrency()));
    for (compiler_command& command : commands_) {
      command.words.at(0) = program_path(command.words.at(0));
      watched_command& out = plan_.commands.emplace_back();
      for (std::string& word : command.words) out.words.push_back(word.data());
      out.words.push_back(nullptr);
      out.log = logs_.emplace_back(::memfd_create("dm2 compiler output", MFD_CLOEXEC)).get();
      out.alone = command.alone;
    }
  }
  [[nodiscard]] std::string failure(watch_message const& said) const {
    compiler_command const& command = commands_.at(std::size_t(said.command));
    if (said.kind == watch_message::not_started)
      return shell_text(command.words) + "\ncannot be started: " + system_message(said.value);
    std::string const printed = first_lines(logs_.at(std::size_t(said.command)));
    std::string out = shell_text(command.words);
    if (WIFSIGNALED(said.value))
      out += "\nwas ended by signal " + std::to_string(WTERMSIG(said.value)) + " (" +
             ::strsignal(WTERMSIG(said.value)) + ")";
    else
      out += "\nended with exit code " + std::to_string(WEXITSTATUS(said.value));
    if (printed.find("No space left on device") != printed.npos || printed.find("quota exceeded") != printed.npos)
      out += ": the disk of " + folder_.parent_path().string() +
             " is full. Free some of it, or name a folder on another one by XDG_CACHE_HOME";
    return out + (printed.empty() ? ", and printed nothing" : ":\n" + printed);
  }

  std::vector<compiler_command> commands_;
  std::filesystem::path folder_, lock_;
  std::vector<std::string> environment_;
  watch_plan plan_;
  std::vector<descriptor> logs_;  ///< in memory: on a full disk the message about it would be lost
  descriptor channel_;
  ::pid_t child_ = -1;
};

}  // namespace detail
}  // namespace dm2::run
