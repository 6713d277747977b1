//! Lengths, integers and texts; everything read is checked.

use super::Stream;

/// Bytes that are not a frame. The peer is broken or hostile; the connection is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// No frame has this tag.
    UnknownTag(u8),
    /// The frame is longer than its kind may be.
    TooLong {
        /// Its tag.
        tag: u8,
        /// Its length.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// A length of 0: no room for the tag.
    Empty,
    /// The frame ends within a field, or goes on after the last one.
    Length,
    /// A field has a value that it can't have; this is its name.
    Value(&'static str),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownTag(tag) => write!(f, "a frame with the unknown tag {tag}"),
            Self::TooLong { tag, length, max } => {
                write!(f, "a frame with tag {tag} of {length} bytes, where {max} are allowed")
            }
            Self::Empty => f.write_str("an empty frame"),
            Self::Length => f.write_str("a frame whose fields don't fit its length"),
            Self::Value(field) => write!(f, "a frame with a bad {field}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// What can be sent as a frame.
pub trait Frame: Sized {
    /// Longest frame with this tag, the tag included; none if there is no such tag.
    fn length_max(tag: u8) -> Option<usize>;

    /// Reads the fields.
    ///
    /// # Errors
    /// If they are not what the tag calls for.
    fn read(tag: u8, fields: &mut Reader<'_>) -> Result<Self, FrameError>;

    /// Writes the tag and the fields.
    fn write(&self, fields: &mut Writer<'_>);

    /// Appends the whole frame.
    ///
    /// # Errors
    /// If it would be too long for its kind; then nothing is appended.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        self.write(&mut Writer { out });
        let length = out.len() - start - 4;
        let tag = out.get(start + 4).copied().unwrap_or_default();
        let max = Self::length_max(tag).unwrap_or_default();
        match u32::try_from(length) {
            Ok(prefix) if length <= max => {
                out[start..start + 4].copy_from_slice(&prefix.to_le_bytes());
                Ok(())
            }
            _ => {
                out.truncate(start);
                Err(FrameError::TooLong { tag, length, max })
            }
        }
    }
}

/// Collects bytes as they come and takes frames out of them. Holds at most one incomplete frame beside what was pushed.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// Bytes at the front that were taken already.
    taken: usize,
}

impl Decoder {
    /// Adds bytes that were received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        if self.bytes.is_empty() {
            // What a long frame has needed is not kept.
            self.bytes.shrink_to(super::FRAME_BYTES_MAX);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame, if all of it is there.
    ///
    /// # Errors
    /// If what is there is not a frame. Every later call fails too.
    pub fn take<F: Frame>(&mut self) -> Result<Option<F>, FrameError> {
        let Some((frame, length)) = decode(&self.bytes[self.taken..])? else { return Ok(None) };
        self.taken += length;
        Ok(Some(frame))
    }
}

/// The frame that the bytes begin with, if all of it is there, and its length with all its parts.
///
/// # Errors
/// If they begin with something else.
pub fn decode<F: Frame>(bytes: &[u8]) -> Result<Option<(F, usize)>, FrameError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*prefix)).map_err(|_| FrameError::Length)?;
    if length == 0 {
        return Err(FrameError::Empty);
    }
    let Some(&tag) = rest.first() else { return Ok(None) };
    let max = F::length_max(tag).ok_or(FrameError::UnknownTag(tag))?;
    if length > max {
        return Err(FrameError::TooLong { tag, length, max });
    }
    let Some(fields) = rest.get(1..length) else { return Ok(None) };
    let mut reader = Reader { rest: fields };
    let frame = F::read(tag, &mut reader)?;
    if reader.rest.is_empty() { Ok(Some((frame, 4 + length))) } else { Err(FrameError::Length) }
}

/// Reads the fields of one frame.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], FrameError> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(FrameError::Length)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        self.take(N)?.try_into().map_err(|_| FrameError::Length)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FrameError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, FrameError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, FrameError> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn bool(&mut self) -> Result<bool, FrameError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FrameError::Value("flag")),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, FrameError> {
        let count = self.count()?;
        Ok(self.take(count)?.to_vec())
    }

    pub(super) fn text(&mut self) -> Result<String, FrameError> {
        String::from_utf8(self.bytes()?).map_err(|_| FrameError::Value("text"))
    }

    pub(super) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, FrameError>,
    ) -> Result<Option<T>, FrameError> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    /// A list. Its claimed length reserves no memory: each element takes at least one byte of the frame.
    pub(super) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, FrameError>,
    ) -> Result<Vec<T>, FrameError> {
        let count = self.count()?;
        if count > self.rest.len() {
            return Err(FrameError::Length);
        }
        (0..count).map(|_| read(self)).collect()
    }

    pub(super) fn stream(&mut self) -> Result<Stream, FrameError> {
        let index = usize::from(self.u8()?);
        Stream::ALL.get(index).copied().ok_or(FrameError::Value("stream"))
    }

    fn count(&mut self) -> Result<usize, FrameError> {
        usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|_| FrameError::Length)
    }
}

/// Writes the tag and the fields of one frame.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    pub(super) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.count(value.len());
        self.out.extend_from_slice(value);
    }

    pub(super) fn text(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    pub(super) fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn list<T>(&mut self, values: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.count(values.len());
        for value in values {
            write(self, value);
        }
    }

    pub(super) fn stream(&mut self, value: Stream) {
        self.u8(if value.index() == 0 { 0 } else { 1 });
    }

    /// A count beyond `u32` makes a frame that is too long anyway, which [`Frame::encode`] refuses.
    fn count(&mut self, count: usize) {
        self.out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
    }
}
