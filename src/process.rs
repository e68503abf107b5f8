//! What the kernel says of this process. Linux only; elsewhere everything is `None`.
//!
//! Of our own instead of procfs: that crate takes the start of the process from `/proc/stat`, which
//! the systemd unit hides.

use std::fs;

/// Resources in use.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system time, seconds.
    pub cpu_seconds: f64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Address space, bytes.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// The most of them that may be open; `None` without a limit.
    pub max_fds: Option<u64>,
}

impl Usage {
    /// The present usage; `None` where there is no `/proc`.
    pub fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let open_fds = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        let max_fds = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Some(Self { open_fds, max_fds, ..Self::of_stat(&stat)? })
    }

    /// Reads a line of `/proc/[pid]/stat` (`proc_pid_stat(5)`, fields 14, 15, 20, 23 and 24).
    #[expect(clippy::cast_precision_loss, reason = "clock ticks stay far below 2^53")]
    fn of_stat(stat: &str) -> Option<Self> {
        // The name of the program, in parentheses, may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // The first of these is field 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = field(14)? + field(15)?;
        Some(Self {
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            threads: field(20)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * rustix::param::page_size() as u64,
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_program_is_called() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 2 0 0 0 150 50 0 0 20 0 9 0 100 4096 3 18 1";
        let usage = Usage::of_stat(stat).unwrap();
        let ticks_per_second = u32::try_from(rustix::param::clock_ticks_per_second()).unwrap();
        assert!((usage.cpu_seconds - 200.0 / f64::from(ticks_per_second)).abs() < 1e-9);
        assert_eq!(usage.threads, 9);
        assert_eq!(usage.virtual_bytes, 4_096);
        assert_eq!(usage.resident_bytes, 3 * rustix::param::page_size() as u64);
        for nonsense in
            ["", "7 (a", "7 (a) S 1 2", "7 (a) S x x x x x x x x x x x x x x x x x x x x"]
        {
            assert_eq!(Usage::of_stat(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::read().unwrap();
        assert!(usage.resident_bytes > 1 << 20 && usage.virtual_bytes >= usage.resident_bytes);
        assert!(usage.threads >= 1 && usage.open_fds >= 3, "{usage:?}");
    }
}
