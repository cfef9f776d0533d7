//! Splits an event stream into its frames, as the bytes arrive.
//!
//! The relay forwards what a read returned; this splitter looks at the same bytes to say where each
//! frame ends and what its `data:` lines carry. A frame that lies within one read is not copied.
//!
//! Rules, from the HTML standard's section on event streams and from what providers really send:
//! * a line ends with `\n`, `\r\n` or a lone `\r`; a blank line ends a frame;
//! * one space after the colon is dropped; several `data` lines are joined by `\n`;
//! * comments (`: ping`) and other fields are skipped; a byte order mark at the start is ignored;
//! * bytes are never decoded here, so a character cut by a read survives;
//! * a last frame without its blank line counts (the standard would discard it, providers send it);
//! * a line, or a frame's data, over the limit is given up: the frame arrives as
//!   [`Payload::TooLong`] and at most twice the limit is ever held.
//!
//! Invariant: how the stream is cut into reads changes nothing but [`Frame::end`].

use memchr::memchr2;

/// The default limit of a line and of a frame's data.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What stands between two blank lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame<'a> {
    /// What its `data` lines carry.
    pub payload: Payload<'a>,
    /// The offset in the pushed bytes just behind the frame's blank line.
    pub end: usize,
}

/// The data of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Payload<'a> {
    /// Its `data` lines, joined.
    Data(&'a [u8]),
    /// It has no `data` line: a comment, or a blank line more.
    Nothing,
    /// It is over the limit.
    TooLong,
}

/// The state between two reads of one stream.
#[derive(Debug)]
pub struct Splitter {
    limit: usize,
    line: CutLine,
    frame: OpenFrame,
    first_line: bool,
    /// The last read ended with `\r`, so a `\n` now belongs to it.
    skip_line_feed: bool,
}

/// The beginning of a line that a read cut.
#[derive(Debug, Default)]
struct CutLine {
    held: Vec<u8>,
    /// The line is over the limit and what was held of it is gone.
    lost: bool,
}

/// What the lines of the current frame add up to.
#[derive(Debug, Default)]
struct OpenFrame {
    /// Data lines that could not be borrowed from one read.
    data: Vec<u8>,
    has_data: bool,
    too_long: bool,
    /// It has a line of any kind.
    begun: bool,
}

enum Line<'a> {
    Blank,
    Data(&'a [u8]),
    Other,
}

// === impl Splitter ===

impl Default for Splitter {
    fn default() -> Self {
        Self::new(FRAME_BYTES_MAX)
    }
}

impl Splitter {
    /// A splitter at the beginning of a stream, with a limit for each line and each frame's data.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: CutLine::default(),
            frame: OpenFrame::default(),
            first_line: true,
            skip_line_feed: false,
        }
    }

    /// Reads on, and calls `on_frame` for each frame that ends within `bytes`.
    pub fn push(&mut self, bytes: &[u8], mut on_frame: impl FnMut(Frame<'_>)) {
        let mut at = 0;
        if let Some(first) = bytes.first() {
            at = usize::from(self.skip_line_feed && *first == b'\n');
            self.skip_line_feed = false;
        }
        // The frame's only data line so far, where it lies within these bytes.
        let mut borrowed: Option<&[u8]> = None;
        while let Some(length) = memchr2(b'\n', b'\r', &bytes[at..]) {
            let line = &bytes[at..at + length];
            at = self.behind_line_end(bytes, at + length);
            let blank = if self.line.held.is_empty() && !self.line.lost {
                self.on_whole_line(line, &mut borrowed)
            } else {
                self.spill(&mut borrowed);
                self.hold(line);
                self.on_held_line()
            };
            if blank {
                let payload = self.payload(borrowed.take());
                on_frame(Frame { payload, end: at });
                self.begin_frame();
            }
        }
        self.spill(&mut borrowed);
        self.hold(&bytes[at..]);
    }

    /// Ends the stream, and calls `on_frame` where it ended within a frame that carries data.
    pub fn finish(&mut self, mut on_frame: impl FnMut(Frame<'_>)) {
        if !self.line.held.is_empty() || self.line.lost {
            self.on_held_line();
        }
        if self.frame.has_data || self.frame.too_long {
            let payload = self.payload(None);
            on_frame(Frame { payload, end: 0 });
        }
        self.begin_frame();
    }

    /// Whether the bytes so far end between two frames.
    pub fn at_boundary(&self) -> bool {
        !self.frame.begun && self.line.held.is_empty() && !self.line.lost
    }

    fn behind_line_end(&mut self, bytes: &[u8], line_end: usize) -> usize {
        let behind = line_end + 1;
        if bytes[line_end] == b'\n' {
            return behind;
        }
        match bytes.get(behind) {
            Some(b'\n') => behind + 1,
            Some(_) => behind,
            None => {
                self.skip_line_feed = true;
                behind
            }
        }
    }

    /// Takes a line that lies within one read; true where it ends the frame.
    fn on_whole_line<'a>(&mut self, line: &'a [u8], borrowed: &mut Option<&'a [u8]>) -> bool {
        let line = self.begin_line(line);
        match classify(line) {
            Line::Blank => return true,
            Line::Data(value) if !self.frame.has_data && value.len() <= self.limit => {
                self.frame.has_data = true;
                *borrowed = Some(value);
            }
            Line::Data(value) => {
                self.spill(borrowed);
                self.add_data(value);
            }
            Line::Other => {}
        }
        self.frame.begun = true;
        false
    }

    /// Takes the line that was put together from several reads; true where it ends the frame.
    fn on_held_line(&mut self) -> bool {
        let held = std::mem::take(&mut self.line.held);
        let lost = std::mem::take(&mut self.line.lost);
        let line = self.begin_line(&held);
        let blank = match classify(line) {
            _ if lost => false,
            Line::Blank => true,
            Line::Data(value) => {
                self.add_data(value);
                false
            }
            Line::Other => false,
        };
        self.frame.begun |= !blank;
        self.line.held = held;
        self.line.held.clear();
        blank
    }

    fn begin_line<'a>(&mut self, line: &'a [u8]) -> &'a [u8] {
        self.frame.too_long |= line.len() > self.limit;
        if !std::mem::take(&mut self.first_line) {
            return line;
        }
        line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line)
    }

    /// Copies what was borrowed, because the bytes it lies in are about to go.
    fn spill(&mut self, borrowed: &mut Option<&[u8]>) {
        if let Some(value) = borrowed.take() {
            self.frame.data.extend_from_slice(value);
        }
    }

    fn add_data(&mut self, value: &[u8]) {
        let separator = usize::from(self.frame.has_data);
        self.frame.too_long |= self.frame.data.len() + separator + value.len() > self.limit;
        if !self.frame.too_long {
            if self.frame.has_data {
                self.frame.data.push(b'\n');
            }
            self.frame.data.extend_from_slice(value);
        }
        self.frame.has_data = true;
    }

    fn hold(&mut self, part: &[u8]) {
        if self.line.lost {
            return;
        }
        if self.line.held.len() + part.len() > self.limit {
            self.line.lost = true;
            self.frame.too_long = true;
            self.line.held.clear();
            return;
        }
        self.line.held.extend_from_slice(part);
    }

    fn payload<'a>(&'a self, borrowed: Option<&'a [u8]>) -> Payload<'a> {
        match borrowed {
            _ if self.frame.too_long => Payload::TooLong,
            Some(data) => Payload::Data(data),
            None if self.frame.has_data => Payload::Data(&self.frame.data),
            None => Payload::Nothing,
        }
    }

    fn begin_frame(&mut self) {
        let mut data = std::mem::take(&mut self.frame.data);
        data.clear();
        self.frame = OpenFrame {
            data,
            ..OpenFrame::default()
        };
    }
}

// === free functions ===

fn classify(line: &[u8]) -> Line<'_> {
    if line.is_empty() {
        return Line::Blank;
    }
    match line.strip_prefix(b"data") {
        Some([]) => Line::Data(&[]),
        Some([b':', b' ', value @ ..] | [b':', value @ ..]) => Line::Data(value),
        _ => Line::Other,
    }
}

#[cfg(test)]
#[path = "sse/sse_test.rs"]
mod tests;
