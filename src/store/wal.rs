//! A look at SQLite's write-ahead log before SQLite reads it: SQLite takes what comes before the
//! first damaged frame for the whole log, and says nothing of what came after.
//!
//! Format: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The last bit tells the byte order of the checksums: set for big-endian.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

/// What is wrong with the log; `None` when it is sound, or is not there. The end of a log may be
/// torn by a power loss: its last transaction may be cut short, and was not acknowledged then. But
/// a transaction is synced before the next one begins, so a damaged one that others follow was
/// whole. (Only where every commit is synced.)
///
/// Somebody may be writing: damage is what two looks find alike.
pub(super) fn damage(log: &Path) -> Option<String> {
    // What can't be read here, SQLite can't read either, and says so.
    let finding = look(log).ok()??;
    (look(log).ok()?.as_ref() == Some(&finding)).then_some(finding)
}

fn look(log: &Path) -> io::Result<Option<String>> {
    let file = match File::open(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut file = BufReader::with_capacity(256 * 1024, file);
    let mut header = [0; HEADER_BYTES];
    if !fill(&mut file, &mut header)? || header == [0; HEADER_BYTES] {
        return Ok(None);
    }
    let Some(log) = Log::of(&header) else {
        return Ok(Some("its header fails its checksum".to_owned()));
    };
    let mut frame = vec![0; FRAME_HEADER_BYTES + log.page_bytes];
    let mut sum = log.sum;
    let mut first_damaged = None;
    let mut commits_after = 0_u64;
    for number in 1_u64.. {
        if !fill(&mut file, &mut frame)? {
            break;
        }
        let (head, page) = frame.split_at(FRAME_HEADER_BYTES);
        // A frame of an earlier round, over which nothing was written yet.
        if head[8..16] != log.salts {
            // So is whatever follows, unless this one is damaged.
            first_damaged.get_or_insert(number);
            continue;
        }
        if first_damaged.is_none() {
            sum = log.checksum(log.checksum(sum, &head[..8]), page);
            if sum == (word(&head[16..]), word(&head[20..])) {
                continue;
            }
            first_damaged = Some(number);
        }
        commits_after += u64::from(word(&head[4..]) != 0);
    }
    Ok(first_damaged.filter(|_| commits_after >= 2).map(|number| {
        format!("frame {number} fails its checksum, {commits_after} transactions end after it")
    }))
}

/// What the header says.
struct Log {
    big_endian: bool,
    page_bytes: usize,
    salts: [u8; 8],
    sum: (u32, u32),
}

impl Log {
    fn of(header: &[u8; HEADER_BYTES]) -> Option<Self> {
        let magic = word(header);
        let page_bytes = usize::try_from(word(&header[8..])).ok()?;
        let is_known = magic & !1 == MAGIC
            && word(&header[4..]) == VERSION
            && page_bytes.is_power_of_two()
            && (512..=65_536).contains(&page_bytes);
        let mut salts = [0; 8];
        salts.copy_from_slice(&header[16..24]);
        let sum = (word(&header[24..]), word(&header[28..]));
        let log = Self { big_endian: magic & 1 == 1, page_bytes, salts, sum };
        (is_known && log.checksum((0, 0), &header[..24]) == sum).then_some(log)
    }

    fn checksum(&self, sum: (u32, u32), bytes: &[u8]) -> (u32, u32) {
        let word = |bytes: &[u8; 4]| {
            if self.big_endian { u32::from_be_bytes(*bytes) } else { u32::from_le_bytes(*bytes) }
        };
        let words = bytes.as_chunks::<4>().0;
        words.as_chunks::<2>().0.iter().fold(sum, |(first, second), [one, other]| {
            let first = first.wrapping_add(word(one)).wrapping_add(second);
            (first, second.wrapping_add(word(other)).wrapping_add(first))
        })
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Whether there were enough bytes.
fn fill(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
