/// @file
/// A process that runs compilers and cleans up when its parent dies.
#pragma once

#include <dm2/core/compiler.hpp>
#include <dm2/run/remove_tree.hpp>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <vector>

namespace dm2::run::detail {

/// One program to start, as execve takes it.
struct watched_command {
  std::vector<char*> words;  ///< with a null pointer at the end; the first is a path
  int log = -1;              ///< the open file that gets what it prints
  bool alone = false;        ///< begins when all before it have ended
  ::pid_t running = 0;       ///< its process and its group, while it runs
};

/// All that the watcher needs, made before the fork: behind it nothing may be allocated.
struct watch_plan {
  std::vector<watched_command> commands;
  std::vector<char*> environment;  ///< with a null pointer at the end
  char const* folder = nullptr;    ///< where the commands run, removed at the end
  char const* lock = nullptr;      ///< removed at the end where the parent has died
  int jobs = 1;                    ///< commands at once, at most
};

/// What the parent says: that the commands may run, and that it needs the watcher no more.
inline constexpr char watch_go = 'g', watch_end = 'e';

/// What the watcher says when its commands are done.
struct watch_message {
  enum : int { finished, failed, not_started } kind = finished;
  int command = 0;  ///< the one that failed
  int value = 0;    ///< failed: waitpid's status; not_started: errno
};

/// The forked process. A program with threads leaves locks of theirs taken in it, so it calls what POSIX allows in
/// signal handlers, and system calls, alone.
class watcher {
 public:
  watcher(watch_plan& plan, int channel, ::pid_t parent) noexcept : plan_{plan}, channel_{channel}, parent_{parent} {}

  /// Waits for watch_go, runs the commands, says how that went, and waits for watch_end. Then, or when the parent dies
  /// or SIGTERM comes, kills what runs, removes the folder and exits. All signals are blocked by the caller.
  [[noreturn]] void run() noexcept {
    become_watcher();
    for (;;) {
      while (may_start()) start(plan_.commands[next_++]);
      say_result();
      ::pollfd on[2] = {{channel_, POLLIN, 0}, {signals_, POLLIN, 0}};
      ::poll(on, 2, 200);  // the time is for kernels without PR_SET_PDEATHSIG
      if (::getppid() != parent_ || told_to_end() || (on[0].revents != 0 && !may_go_on())) break;
      reap();
    }
    kill_groups();
    remove_tree(AT_FDCWD, plan_.folder);
    // A dying parent's channel ends before its children get another parent. The lock is held until this process exits.
    if (hung_up_ || ::getppid() != parent_) ::unlink(plan_.lock);
    ::_exit(0);
  }

 private:
  void become_watcher() noexcept {
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // what compilers start and leave behind can be waited for
    ::setpgid(0, 0);                     // Ctrl-C and a killed group are the parent's
    struct ::sigaction standard {};
    standard.sa_handler = SIG_DFL;
    for (int signal = 1; signal < NSIG; ++signal) ::sigaction(signal, &standard, nullptr);
    ::sigset_t heard;
    ::sigemptyset(&heard);
    ::sigaddset(&heard, SIGTERM);
    ::sigaddset(&heard, SIGCHLD);
    signals_ = ::signalfd(-1, &heard, SFD_CLOEXEC | SFD_NONBLOCK);
    int const nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3 && nothing >= 0; ++fd) ::dup2(nothing, fd);  // readers of the parent's output see its end
#ifdef SYS_close_range
    ::syscall(SYS_close_range, 3u, ~0u, 4u);  // CLOSE_RANGE_CLOEXEC: no file of the parent's reaches a compiler
#endif
  }
  [[nodiscard]] bool may_start() const noexcept {
    if (!go_ || failed_ || next_ == plan_.commands.size()) return false;
    return running_ == 0 || (running_ < plan_.jobs && !plan_.commands[next_].alone);
  }
  void start(watched_command& command) noexcept {
    ::pid_t const child = ::fork();
    if (child == 0) become(command);
    if (child < 0) return fail(watch_message::not_started, int(&command - plan_.commands.data()), errno);
    ::setpgid(child, child);  // as the child does: whoever comes first
    command.running = child;
    running_ += 1;
  }
  [[noreturn]] void become(watched_command const& command) const noexcept {
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (command.log >= 0) ::dup2(command.log, 1), ::dup2(command.log, 2);
    ::sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    if (::chdir(plan_.folder) == 0) ::execve(command.words[0], command.words.data(), plan_.environment.data());
    watch_message const said{watch_message::not_started, int(&command - plan_.commands.data()), errno};
    ::send(channel_, &said, sizeof said, MSG_NOSIGNAL);
    ::_exit(127);
  }
  /// The first failure counts; what else runs is killed.
  void fail(decltype(watch_message::kind) kind, int command, int value) noexcept {
    if (failed_) return;
    failed_ = true;
    result_ = {kind, command, value};
    for (watched_command const& other : plan_.commands)
      if (other.running > 0) ::kill(-other.running, SIGKILL);
  }
  void reap() noexcept {
    int status = 0;
    for (::pid_t child = 0; (child = ::waitpid(-1, &status, WNOHANG)) > 0;)
      for (std::size_t i = 0; i < plan_.commands.size(); ++i) {
        if (plan_.commands[i].running != child) continue;
        plan_.commands[i].running = 0;
        running_ -= 1;
        if (status != 0) fail(watch_message::failed, int(i), status);
      }
  }
  void say_result() noexcept {
    if (said_ || !go_ || running_ > 0 || (!failed_ && next_ < plan_.commands.size())) return;
    ::send(channel_, &result_, sizeof result_, MSG_NOSIGNAL);
    said_ = true;
  }
  /// Reads the signals that came: SIGCHLD is for reap().
  [[nodiscard]] bool told_to_end() noexcept {
    ::signalfd_siginfo info;
    while (::read(signals_, &info, sizeof info) == ::ssize_t(sizeof info))
      if (info.ssi_signo == SIGTERM) return true;
    return false;
  }
  /// Reads what the parent says: false where that is to end, and at the channel's end.
  [[nodiscard]] bool may_go_on() noexcept {
    char said = 0;
    ::ssize_t const got = ::recv(channel_, &said, 1, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    go_ = go_ || (got == 1 && said == watch_go);
    hung_up_ = got != 1;
    return got == 1 && said != watch_end;
  }
  /// Kills all compilers and waits, 5 s at most, until no process of their groups is left to write a file.
  void kill_groups() noexcept {
    for (int round = 0; round < 500; ++round) {
      bool left = false;
      for (watched_command& command : plan_.commands) {
        if (command.running == 0) continue;
        if (::kill(-command.running, SIGKILL) != 0) command.running = 0;  // the last one of the group is gone
        left = left || command.running != 0;
      }
      while (::waitpid(-1, nullptr, WNOHANG) > 0) {
      }
      if (!left) return;
      ::poll(nullptr, 0, round < 20 ? 1 : 10);
    }
  }

  watch_plan& plan_;
  int channel_, signals_ = -1;
  ::pid_t parent_;
  std::size_t next_ = 0;
  int running_ = 0;
  bool go_ = false, failed_ = false, said_ = false;
  bool hung_up_ = false;  // the channel has ended without watch_end: the parent has died
  watch_message result_;
};

}  // namespace dm2::run::detail
