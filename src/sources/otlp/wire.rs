//! As much of the protobuf encoding as reading telemetry takes: fields by number, one after the other.
//!
//! Crates for protobuf build whole messages, which takes several times the memory of what came, and a
//! sender decides how many times. Here a request streams by: of what it holds, one span is in memory
//! at a time. (Encoding: protobuf.dev/programming-guides/encoding.)

use std::io::{self, ErrorKind, Read};

/// Largest span or log record that is read, in bytes; a larger one is passed over and counted.
pub(super) const ITEM_BYTES_MAX: usize = 1 << 20;
/// Largest resource that is read, in bytes; of a larger one nothing is known.
const RESOURCE_BYTES_MAX: usize = 1 << 16;
/// Groups in groups, which nobody sends, are followed this far.
const GROUPS_MAX: u32 = 16;

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    /// What `fixed64` and `double` fields hold.
    pub(super) fn fixed64(self) -> Option<u64> {
        match self {
            Self::Fixed64(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn varint(self) -> Option<u64> {
        match self {
            Self::Varint(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// An identifier of `N` bytes.
    pub(super) fn id<const N: usize>(self) -> Option<[u8; N]> {
        self.bytes()?.try_into().ok()
    }
}

/// What is no protobuf.
fn malformed(what: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// Seven bits a byte, the lowest first; `None` at the end of what there is.
fn varint(input: &mut impl Read) -> io::Result<Option<u64>> {
    let mut value = 0_u64;
    for place in 0..10 {
        let mut byte = [0];
        match input.read_exact(&mut byte) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return if place == 0 { Ok(None) } else { Err(malformed("it ends in a number")) };
            }
            Err(error) => return Err(error),
        }
        let bits = u64::from(byte[0] & 0x7f);
        if place == 9 && bits > 1 {
            break;
        }
        value |= bits << (7 * place);
        if byte[0] < 0x80 {
            return Ok(Some(value));
        }
    }
    Err(malformed("a number has more than 64 bits"))
}

/// Number and type of the next field; `None` at the end.
fn key(input: &mut impl Read) -> io::Result<Option<(u32, u8)>> {
    let Some(key) = varint(input)? else { return Ok(None) };
    let number = u32::try_from(key >> 3).ok().filter(|number| (1..1 << 29).contains(number));
    match number {
        Some(number) => Ok(Some((number, (key & 7) as u8))),
        None => Err(malformed("a field has an impossible number")),
    }
}

fn length(input: &mut impl Read) -> io::Result<u64> {
    varint(input)?.ok_or_else(|| malformed("it ends before a length"))
}

fn fixed<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => malformed("it ends in a field"),
        _ => error,
    })?;
    Ok(bytes)
}

/// Passes over what stands between here and the end of `count` bytes.
fn skip(input: &mut impl Read, count: u64) -> io::Result<()> {
    let passed = io::copy(&mut input.take(count), &mut io::sink())?;
    if passed < count { Err(malformed("it ends in a field")) } else { Ok(()) }
}

/// Passes over a field of this type.
fn skip_field(input: &mut impl Read, wire_type: u8, number: u32, depth: u32) -> io::Result<()> {
    match wire_type {
        0 => varint(input)?.map(drop).ok_or_else(|| malformed("it ends before a number")),
        1 => skip(input, 8),
        2 => {
            let count = length(input)?;
            skip(input, count)
        }
        3 if depth < GROUPS_MAX => loop {
            match key(input)? {
                None => return Err(malformed("it ends in a group")),
                Some((end, 4)) if end == number => return Ok(()),
                Some((inner, wire_type)) => skip_field(input, wire_type, inner, depth + 1)?,
            }
        },
        5 => skip(input, 4),
        _ => Err(malformed("a field has an impossible type")),
    }
}

/// The fields of a message that is in memory, in their order; ends at the first error.
pub(super) fn fields(message: &[u8]) -> Fields<'_> {
    Fields { rest: message }
}

pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn next_field(&mut self) -> io::Result<Option<(u32, Wire<'a>)>> {
        loop {
            let Some((number, wire_type)) = key(&mut self.rest)? else { return Ok(None) };
            let value = match wire_type {
                0 => {
                    let value = varint(&mut self.rest)?;
                    Wire::Varint(value.ok_or_else(|| malformed("it ends before a number"))?)
                }
                1 => Wire::Fixed64(u64::from_le_bytes(fixed(&mut self.rest)?)),
                2 => {
                    let count = usize::try_from(length(&mut self.rest)?).unwrap_or(usize::MAX);
                    let split = self.rest.split_at_checked(count);
                    let (value, rest) = split.ok_or_else(|| malformed("it ends in a field"))?;
                    self.rest = rest;
                    Wire::Bytes(value)
                }
                5 => Wire::Fixed32(u32::from_le_bytes(fixed(&mut self.rest)?)),
                _ => {
                    skip_field(&mut self.rest, wire_type, number, 0)?;
                    continue;
                }
            };
            return Ok(Some((number, value)));
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = io::Result<(u32, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_field().transpose();
        if matches!(next, Some(Err(_))) {
            self.rest = &[];
        }
        next
    }
}

/// Walks through an export request: `on_item` gets each span (or log record), and the resource that it
/// belongs to, both as messages; `on_large` is told of each that is longer than [`ITEM_BYTES_MAX`].
///
/// `TracesData`, `LogsData` and their parts have the same numbers: 1 is the resource's, 2 is the scope's, 2
/// is the item. A resource stands before its items, as every encoder writes it.
///
/// # Errors
/// What reading does, and [`ErrorKind::InvalidData`] where it is no such message.
pub(super) fn items(
    mut input: impl Read,
    mut on_item: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
    mut on_large: impl FnMut(),
) -> io::Result<()> {
    let (mut resource, mut item) = (Vec::new(), Vec::new());
    while let Some((number, wire_type)) = key(&mut input)? {
        if (number, wire_type) != (1, 2) {
            skip_field(&mut input, wire_type, number, 0)?;
            continue;
        }
        resource.clear();
        let mut of_resource = within(&mut input)?;
        while let Some((number, wire_type)) = key(&mut of_resource)? {
            match (number, wire_type) {
                (1, 2) => {
                    if !whole(&mut of_resource, &mut resource, RESOURCE_BYTES_MAX)? {
                        resource.clear();
                    }
                }
                (2, 2) => {
                    let mut of_scope = within(&mut of_resource)?;
                    while let Some((number, wire_type)) = key(&mut of_scope)? {
                        if (number, wire_type) != (2, 2) {
                            skip_field(&mut of_scope, wire_type, number, 0)?;
                        } else if whole(&mut of_scope, &mut item, ITEM_BYTES_MAX)? {
                            on_item(&item, &resource)?;
                        } else {
                            on_large();
                        }
                    }
                    ended(&of_scope)?;
                }
                _ => skip_field(&mut of_resource, wire_type, number, 0)?,
            }
        }
        ended(&of_resource)?;
    }
    Ok(())
}

/// The message that begins here, as an input of its own.
fn within<R: Read>(input: &mut R) -> io::Result<io::Take<&mut R>> {
    let count = length(input)?;
    Ok(input.take(count))
}

/// A message that was read to its end is there to its end.
fn ended<R>(message: &io::Take<R>) -> io::Result<()> {
    if message.limit() > 0 { Err(malformed("it ends in a message")) } else { Ok(()) }
}

/// Reads the message that begins here into `buffer`; whether it is no longer than `limit`. A longer one
/// is passed over.
fn whole(input: &mut impl Read, buffer: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    let count = length(input)?;
    buffer.clear();
    if count > limit as u64 {
        skip(input, count)?;
        return Ok(false);
    }
    // What is there, not what is announced, takes memory.
    let read = input.take(count).read_to_end(buffer)?;
    if (read as u64) < count { Err(malformed("it ends in a message")) } else { Ok(true) }
}

/// Appends a field that is a number, unless it is 0.
pub(super) fn put_varint(message: &mut Vec<u8>, number: u8, value: u64) {
    if value > 0 {
        message.push(number << 3);
        put(message, value);
    }
}

/// Appends a field that is text or a message, unless it is empty.
pub(super) fn put_bytes(message: &mut Vec<u8>, number: u8, value: &[u8]) {
    if !value.is_empty() {
        message.push(number << 3 | 2);
        put(message, value.len() as u64);
        message.extend_from_slice(value);
    }
}

fn put(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
    message.push(value as u8);
}
