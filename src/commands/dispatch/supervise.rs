//! Runs one command to its end, with a time limit and with the signals that come meanwhile.
//!
//! # Process groups, terminals, and what is killed
//!
//! The command stays in our process group. A group of its own would have to be made the foreground
//! group of the terminal (else reading from it stops the command), taken back from it at the end
//! (which needs SIGTTOU blocked, so `unsafe` code) and handed over again whenever a shell stops and
//! resumes its job. In our group all of that is the shell's work, as for `time` or `nice`: Ctrl-C,
//! Ctrl-Z, `fg`, password prompts, `&`. A supervisor that kills our group with SIGKILL, against
//! which nothing can be done here, ends the command as well.
//!
//! So the group can't tell what to kill: it also holds the shell script around us and the rest of
//! a pipeline. What is signalled instead is the tree of processes below us, from `/proc`. We are
//! the *child subreaper* of that tree: a process whose parent has died becomes our child, not
//! init's, so that nothing the command has started gets out of it, in whatever group or session.
//! Signals reach parents before their children, like a group's reach them at once: a shell script
//! must not go on because its current command was killed.
//!
//! A signal that the terminal sends (Ctrl-C) has already reached the command, because it goes to
//! the whole group; passing it on would be a second one, which many programs take as "at once".
//! The kernel says who sent a signal, so only those of other processes are passed on. One that was
//! sent to the whole group by a process (`kill %1` in an interactive shell) arrives twice.
//!
//! One thread: a pipe that the signal handlers write to wakes it, SIGCHLD among them.

use std::collections::HashSet;
use std::io;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait,
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

use crate::error::complain;

/// Time between the SIGTERM at the time limit and the SIGKILL.
const KILL_AFTER: Duration = Duration::from_secs(5);
/// Time after the first SIGKILL in which the processes have to end: a root's may not be ours to
/// kill, and one in a system call that hangs does not die.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);
/// Pause between two looks at the tree while it is being ended.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Looks at the tree per signal, to find what was started since the look before.
const LOOKS_MAX: usize = 10;

/// Signals that ask us to end.
const INTERRUPTS: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// A request to end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interrupt {
    signal: Signal,
    /// Sent by the terminal to the whole foreground group.
    from_terminal: bool,
}

/// The signals that came, from the time on when this is made.
pub(super) struct Signals {
    delivery: SignalDelivery<UnixStream, WithOrigin>,
}

impl Signals {
    /// Starts to catch signals. One that was ignored stays so, here and in the command: `nohup`
    /// and the `&` of a script mean it.
    pub(super) fn catch() -> io::Result<Self> {
        let ignored = ignored_signals();
        let caught = INTERRUPTS.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
        let (read, write) = UnixStream::pair()?;
        let signals = caught.chain([SIGCHLD]);
        let delivery = SignalDelivery::with_pipe(read, write, WithOrigin::default(), signals)?;
        Ok(Self { delivery })
    }

    /// Waits until a signal comes, at most until the deadline, and returns those that ask us to
    /// end.
    pub(super) fn wait(&mut self, deadline: Option<Instant>) -> Vec<Interrupt> {
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Longer than the kernel can count is as good as no limit.
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
        });
        let mut pipe = [PollFd::new(self.delivery.get_read(), PollFlags::IN)];
        // It fails when a handler has run: then there is something in the pipe.
        let _ = poll(&mut pipe, timeout.as_ref());
        let caught = self.delivery.pending().filter_map(|origin| {
            let signal = Signal::from_named_raw(origin.signal)?;
            let from_terminal = matches!(origin.cause, Cause::Kernel);
            (signal != Signal::CHILD).then_some(Interrupt { signal, from_terminal })
        });
        caught.collect()
    }
}

/// The signals that this process was started to ignore, a bit each from signal 1 on.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Why a command did not get to its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CutShort {
    /// The time limit passed.
    TimedOut,
    /// We were asked to end.
    Interrupted,
}

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// What the system says; none of a process that could not be killed.
    pub(super) status: Option<WaitStatus>,
    /// What came first, if anything did.
    pub(super) cut_short: Option<CutShort>,
    /// Wall time to the end; of one that timed out, until then.
    pub(super) elapsed: Duration,
    /// The last thing that interrupted it was Ctrl-C at a terminal.
    pub(super) by_ctrl_c: bool,
}

impl Ended {
    fn note(&mut self, interrupt: Interrupt) {
        self.cut_short.get_or_insert(CutShort::Interrupted);
        self.by_ctrl_c = interrupt.from_terminal && interrupt.signal == Signal::INT;
    }
}

/// How far the ending of a command has got.
#[derive(Clone, Copy)]
enum Stage {
    /// It may take its time.
    Running,
    /// It was asked to end; killed from then on.
    Ending(Instant),
    /// It is being killed; given up from then on.
    Killing(Instant),
}

/// Runs the command. After its time limit, if there is one, it is ended with all that it started;
/// interrupts are passed on to it, and a second one kills.
///
/// # Errors
/// When it can't be started.
pub(super) fn run(
    command: &mut Command,
    time_limit: Option<Duration>,
    signals: &mut Signals,
) -> io::Result<Ended> {
    // A shell that had children and became this program by `exec` leaves them to us.
    let strangers = processes().into_iter().filter(|other| other.parent == getpid());
    let strangers = strangers.map(|other| other.pid).collect();
    // Without it, what loses its parent is not found, and everything else is.
    let _ = set_child_subreaper(Some(getpid()));
    let started = Instant::now();
    let child = command.spawn()?;
    let child = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::InvalidData)?;
    let mut tree = Tree { child, status: None, strangers };

    let limit = time_limit.and_then(|limit| started.checked_add(limit));
    let mut ended =
        Ended { status: None, cut_short: None, elapsed: Duration::ZERO, by_ctrl_c: false };
    let mut stage = Stage::Running;
    let mut passed_on = 0;
    loop {
        tree.reap();
        if ended.status.is_none() && tree.status.is_some() {
            ended.status = tree.status;
            if ended.cut_short != Some(CutShort::TimedOut) {
                ended.elapsed = started.elapsed();
            }
        }
        // What it started may outlive it, unless all of it is being ended.
        if tree.status.is_some() && (matches!(stage, Stage::Running) || !tree.is_alive()) {
            // The signal that ended it may have come since the last look: whoever runs late, on a
            // busy machine, finds both. It must not count as the agent's failure.
            for interrupt in signals.wait(Some(Instant::now())) {
                ended.note(interrupt);
            }
            break;
        }
        let now = Instant::now();
        let look_again = now + LOOK_AGAIN_AFTER;
        let wake = match stage {
            Stage::Running if limit.is_some_and(|limit| limit <= now) => {
                if ended.cut_short.is_none() {
                    ended.cut_short = Some(CutShort::TimedOut);
                    ended.elapsed = now - started;
                }
                tree.ask_to_end(Signal::TERM);
                stage = Stage::Ending(now + KILL_AFTER);
                Some(look_again)
            }
            Stage::Running => limit,
            Stage::Ending(kill_at) if kill_at <= now => {
                stage = Stage::Killing(now + GIVE_UP_AFTER);
                Some(now)
            }
            Stage::Ending(kill_at) => Some(kill_at.min(look_again)),
            Stage::Killing(give_up_at) if give_up_at <= now => {
                complain("some processes of the command can't be killed; they are left running");
                break;
            }
            Stage::Killing(_) => {
                tree.signal(Signal::KILL);
                Some(look_again)
            }
        };
        for interrupt in signals.wait(wake) {
            ended.note(interrupt);
            if interrupt.from_terminal {
                // The command has it too, and decides itself what to make of it.
            } else if passed_on == 0 && matches!(stage, Stage::Running) {
                passed_on += 1;
                tree.ask_to_end(interrupt.signal);
            } else if !matches!(stage, Stage::Killing(_)) {
                stage = Stage::Killing(Instant::now() + GIVE_UP_AFTER);
            }
        }
    }
    if ended.status.is_none() && ended.cut_short != Some(CutShort::TimedOut) {
        ended.elapsed = started.elapsed();
    }
    Ok(ended)
}

/// The command and everything below it.
struct Tree {
    child: Pid,
    /// Of the command itself, once it has ended: from then on its id may be somebody else's.
    status: Option<WaitStatus>,
    /// Our children before the command was one.
    strangers: HashSet<Pid>,
}

impl Tree {
    /// Takes note of the children that have ended: the command, and what it left to us.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.child && self.status.is_none() {
                self.status = Some(status);
            }
            self.strangers.remove(&pid);
        }
    }

    /// The processes of the tree, parents before their children.
    fn members(&self) -> Vec<Process> {
        let all = processes();
        let mut members: Vec<Process> = Vec::new();
        let below = |parent: Pid| {
            let children = all.iter().filter(move |process| process.parent == parent);
            children.filter(|process| !self.strangers.contains(&process.pid)).copied()
        };
        members.extend(below(getpid()));
        let mut seen = 0;
        while let Some(process) = members.get(seen) {
            members.extend(below(process.pid));
            seen += 1;
        }
        // Where /proc does not show it, the command itself is still known.
        if self.status.is_none() && members.iter().all(|process| process.pid != self.child) {
            members.push(Process { pid: self.child, parent: getpid(), is_zombie: false });
        }
        members
    }

    fn is_alive(&self) -> bool {
        self.members().iter().any(|process| !process.is_zombie)
    }

    fn signal(&self, signal: Signal) {
        let mut signalled = HashSet::new();
        for _ in 0..LOOKS_MAX {
            let mut members = self.members();
            members.retain(|process| signalled.insert(process.pid));
            if members.is_empty() {
                break;
            }
            for process in members {
                // It may have ended, or belong to another user.
                let _ = kill_process(process.pid, signal);
            }
        }
    }

    /// Sends the signal so that a process which is stopped gets it too.
    fn ask_to_end(&self, signal: Signal) {
        self.signal(signal);
        self.signal(Signal::CONT);
    }
}

/// A process of this machine.
#[derive(Debug, Clone, Copy)]
struct Process {
    pid: Pid,
    parent: Pid,
    /// It has ended, and its parent has not yet taken note.
    is_zombie: bool,
}

/// All processes that `/proc` shows.
fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let processes = pids.filter_map(|pid| {
        // It may have ended since; its name need not be UTF-8.
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        process(&String::from_utf8_lossy(&stat))
    });
    processes.collect()
}

/// Reads a line such as `7 (a name) S 1 ...`; the name may hold anything.
fn process(stat: &str) -> Option<Process> {
    let (pid, _) = stat.split_once(' ')?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let (state, parent) = (fields.next()?, fields.next()?);
    Some(Process {
        pid: Pid::from_raw(pid.parse().ok()?)?,
        // The first processes have none, and are nobody's command.
        parent: Pid::from_raw(parent.parse().ok()?)?,
        is_zombie: matches!(state, "Z" | "X"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let check = |stat: &str, expected: Option<(i32, i32, bool)>| {
            let seen = process(stat)
                .map(|seen| (seen.pid.as_raw_pid(), seen.parent.as_raw_pid(), seen.is_zombie));
            assert_eq!(seen, expected, "{stat:?}");
        };
        check("7 (sh) S 5 7 7 0 -1", Some((7, 5, false)));
        check("7 (a) Z 9 (b) Z 5 7 7", Some((7, 5, true)));
        check("7 (two\nlines) R 5 1", Some((7, 5, false)));
        check("1 (init) S 0 1 1", None);
        check("", None);
        check("7 (sh", None);
    }

    #[test]
    fn this_process_is_found_below_its_parent() {
        let own = processes().into_iter().find(|process| process.pid == getpid());
        let own = own.expect("/proc shows this process");
        assert_eq!((Some(own.parent), own.is_zombie), (rustix::process::getppid(), false));
    }
}
