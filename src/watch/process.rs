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

/// How much memory this process may take.
#[derive(Debug, Clone, Copy)]
pub struct MemoryLimit {
    /// Of resident memory, bytes; `u64::MAX` without a limit.
    pub resident_max: u64,
    /// Of address space, bytes; `u64::MAX` without a limit.
    pub virtual_max: u64,
    /// Reads what is used: address space and resident memory, bytes.
    pub read: fn() -> Option<(u64, u64)>,
}

impl MemoryLimit {
    /// So much resident memory, or whatever else limits it more.
    pub fn new(resident_max: Option<u64>) -> Self {
        let container = fs::read_to_string("/proc/self/cgroup").ok();
        let container =
            container.and_then(|groups| cgroup_max(&groups, &|path| fs::read_to_string(path).ok()));
        let machine = fs::read_to_string("/proc/meminfo").ok();
        let machine = machine.and_then(|text| mem_total(&text));
        let virtual_max = rustix::process::getrlimit(rustix::process::Resource::As).current;
        Self {
            resident_max: [resident_max, container, machine]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(u64::MAX),
            virtual_max: virtual_max.unwrap_or(u64::MAX),
            read: statm,
        }
    }

    /// The used share of what is nearest to its limit; `None` where that can't be read.
    #[expect(clippy::cast_precision_loss, reason = "shares need no more digits")]
    pub fn share(&self) -> Option<f64> {
        let (virtual_bytes, resident_bytes) = (self.read)()?;
        let share = |used: u64, max: u64| used as f64 / max.max(1) as f64;
        let virtual_share = share(virtual_bytes, self.virtual_max);
        Some(virtual_share.max(share(resident_bytes, self.resident_max)))
    }
}

/// Address space and resident memory, bytes (`proc_pid_statm(5)`).
fn statm() -> Option<(u64, u64)> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split_ascii_whitespace().map_while(|field| field.parse::<u64>().ok());
    let page_size = rustix::param::page_size() as u64;
    Some((pages.next()? * page_size, pages.next()? * page_size))
}

/// The memory of the machine, bytes (`proc_meminfo(5)`).
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1_024)
}

/// The tightest limit of the control groups (`cgroups(7)`) that a `/proc/[pid]/cgroup` names and of those
/// around them, bytes.
fn cgroup_max(groups: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let limits = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or(""), fields.next().unwrap_or("/"));
        let (root, files): (_, &[&str]) = match controllers {
            // Above the first the kernel slows a process down until it stands still, above the second it kills.
            "" => ("/sys/fs/cgroup", &["memory.high", "memory.max"]),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", &["memory.limit_in_bytes"])
            }
            _ => return Vec::new(),
        };
        let paths = std::iter::successors(Some(path.trim_end_matches('/')), |path| {
            path.rsplit_once('/').map(|(parent, _)| parent)
        });
        // Without a limit it says "max", which is no number.
        let limit = |path, file| read(&format!("{root}{path}/{file}"))?.trim().parse::<u64>().ok();
        paths.flat_map(|path| files.iter().filter_map(move |file| limit(path, file))).collect()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_of_a_group_and_those_around_it_counts() {
        #[track_caller]
        fn check(groups: &str, files: &[(&str, &str)], max: Option<u64>) {
            let read = |path: &str| {
                let found = files.iter().find(|(name, _)| *name == path);
                found.map(|(_, text)| (*text).to_owned())
            };
            assert_eq!(cgroup_max(groups, &read), max, "{groups:?}");
        }
        let nested: &[(&str, &str)] = &[
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "300\n"),
            ("/sys/fs/cgroup/memory.max", "500\n"),
        ];
        check("0::/a/b\n", nested, Some(300));
        check("0::/\n", nested, Some(500));
        check("0::/elsewhere\n", nested, Some(500));
        check("0::/a/b\n", &nested[..1], None);
        let slowed =
            &[("/sys/fs/cgroup/s/memory.high", "200\n"), ("/sys/fs/cgroup/s/memory.max", "400\n")];
        check("0::/s\n", slowed, Some(200));
        let first: &[(&str, &str)] = &[("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "77")];
        check("5:cpu,memory:/x\n4:cpu:/y\n", first, Some(77));
        check("4:cpu:/x\n", first, None);
        for nonsense in ["", "\n", "0", "0:", "::::", "5:memory"] {
            check(nonsense, &[], None);
        }
    }

    #[test]
    fn what_is_nearest_to_its_limit_counts() {
        let limit = |virtual_max, resident_max| MemoryLimit {
            virtual_max,
            resident_max,
            read: || Some((800, 300)),
        };
        assert!(limit(u64::MAX, u64::MAX).share().unwrap() < 1e-9);
        assert_eq!(limit(1_000, 1_000).share(), Some(0.8));
        assert_eq!(limit(8_000, 400).share(), Some(0.75));
        assert_eq!(MemoryLimit { read: || None, ..limit(1, 1) }.share(), None);
        assert_eq!(mem_total("MemFree: 1 kB\nMemTotal:       16 kB\n"), Some(16_384));
        // This machine has some, and this process uses some of it.
        let share = MemoryLimit::new(None).share().unwrap();
        assert!(share > 0.0 && share < 1.0, "{share}");
    }

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
