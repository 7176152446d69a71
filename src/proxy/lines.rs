//! The access log's way out: from every worker through a bounded queue to one thread that writes.
//!
//! ```text
//!  worker: Lines ──(a piece per tick, or when full)──▶ queue ──▶ writer ──▶ file, or standard error
//!                          │ does not fit: dropped, counted              ▲ `reopen`: at its next look
//! ```
//!
//! A disk that is slow or full costs lines, and never a request. A line is never torn: what a failed write left of one
//! is ended before the next.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

/// A worker hands over what it has when it is this much, or at the end of a tick.
const PIECE: usize = 16 * 1024;
/// Pieces that may wait for the writer: 8 MiB.
const WAITING_PIECES: usize = 512;
/// How often an idle writer looks whether it is to open its file again.
const LOOK: Duration = Duration::from_millis(200);

/// Where the lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    StandardError,
    File(PathBuf),
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Json,
    /// Among the log's other lines, with what tells it from them.
    JsonAmongOthers,
    /// Among the log's other lines, for people.
    Human,
}

/// A running writer, as seen by whoever started it.
#[derive(Debug)]
pub struct Log {
    sink: Sink,
    thread: thread::JoinHandle<()>,
}

/// The way in; one copy per worker.
#[derive(Debug, Clone)]
pub struct Sink {
    style: Style,
    queue: SyncSender<Piece>,
    shared: Arc<Shared>,
}

/// What a log can be asked while it runs, and after.
#[derive(Debug, Default)]
pub struct Shared {
    reopen: AtomicBool,
    dropped: AtomicU64,
}

/// Some whole lines.
#[derive(Debug, Default)]
struct Piece {
    text: Vec<u8>,
    lines: u64,
}

impl Log {
    /// Opens the file, which is made when missing, and starts the writer.
    pub fn start(target: &Target, style: Style) -> io::Result<Log> {
        let output = match target {
            Target::StandardError => Output::StandardError,
            Target::File(path) => Output::File { file: open(path)?, path: path.clone() },
        };
        let (queue, pieces) = sync_channel(WAITING_PIECES);
        let shared = Arc::<Shared>::default();
        let writer = Writer { output, shared: shared.clone(), torn: false, failing: false };
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&pieces))?;
        Ok(Log { sink: Sink { style, queue, shared }, thread })
    }

    #[must_use]
    pub fn sink(&self) -> Sink {
        self.sink.clone()
    }

    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        self.sink.shared.clone()
    }

    /// No more lines are to come from here. The returned thread ends once every worker's lines are written.
    pub fn close(self) -> thread::JoinHandle<()> {
        self.thread
    }
}

impl Shared {
    /// Has the file opened anew: after it was moved away, say.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    /// Lines that were asked for and not written.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn drop_lines(&self, lines: u64) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }
}

/// One worker's lines, on their way to the queue. What is left goes there when this is dropped.
#[derive(Debug)]
pub struct Lines {
    sink: Sink,
    text: RefCell<Vec<u8>>,
    count: Cell<u64>,
}

impl Lines {
    #[must_use]
    pub fn new(sink: Sink) -> Lines {
        Lines { sink, text: RefCell::default(), count: Cell::new(0) }
    }

    #[must_use]
    pub fn style(&self) -> Style {
        self.sink.style
    }

    /// Adds a line, which `write` writes without its end.
    pub fn add(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let full = {
            let mut text = self.text.borrow_mut();
            if text.capacity() == 0 {
                text.reserve(PIECE + PIECE / 4);
            }
            write(&mut text);
            text.push(b'\n');
            text.len() >= PIECE
        };
        self.count.set(self.count.get() + 1);
        if full {
            self.flush();
        }
    }

    pub fn flush(&self) {
        let piece = Piece { text: self.text.take(), lines: self.count.take() };
        let lines = piece.lines;
        if lines > 0 && self.sink.queue.try_send(piece).is_err() {
            self.sink.shared.drop_lines(lines);
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

#[derive(Debug)]
enum Output {
    StandardError,
    File { file: File, path: PathBuf },
}

/// Addresses and paths of clients are nobody else's business.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

impl Output {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        match self {
            Output::StandardError => io::stderr().lock().write(text),
            Output::File { file, .. } => file.write(text),
        }
    }
}

#[derive(Debug)]
struct Writer {
    output: Output,
    shared: Arc<Shared>,
    /// The last write ended within a line.
    torn: bool,
    /// The last write failed, and that was said.
    failing: bool,
}

impl Writer {
    fn run(mut self, pieces: &Receiver<Piece>) {
        loop {
            let next = pieces.recv_timeout(LOOK);
            if self.shared.reopen.swap(false, Ordering::Relaxed) {
                self.reopen();
            }
            match next {
                Ok(piece) => self.write(&piece),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let dropped = self.shared.dropped();
        if dropped > 0 {
            tracing::warn!(dropped, "the access log is not complete");
        }
    }

    /// A file that cannot be opened again leaves the old one in use: better there than nowhere.
    fn reopen(&mut self) {
        let Output::File { file, path } = &mut self.output else { return };
        match open(path) {
            Ok(opened) => {
                *file = opened;
                self.torn = false;
                tracing::info!(path = %path.display(), "the access log was opened again");
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the access log cannot be opened again; the old file goes on");
            }
        }
    }

    fn write(&mut self, piece: &Piece) {
        let written = if self.torn { self.all(b"\n").map_err(|(_, error)| (0, error)) } else { Ok(()) };
        match written.and_then(|()| self.all(&piece.text)) {
            Ok(()) => (self.torn, self.failing) = (false, false),
            Err((written, error)) => {
                let (done, lost) = piece.text.split_at(written);
                self.torn = done.last().map_or(self.torn, |last| *last != b'\n');
                self.shared.drop_lines(lost.split(|byte| *byte == b'\n').skip(1).count() as u64);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "the access log cannot be written; lines are dropped until it can");
                }
            }
        }
    }

    /// On failure: how much was written before it.
    fn all(&mut self, text: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut written = 0;
        while written < text.len() {
            match self.output.write(&text[written..]) {
                Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((written, error)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn numbered(number: u32) -> impl FnOnce(&mut Vec<u8>) {
        move |text| text.extend_from_slice(format!("line {number}").as_bytes())
    }

    fn log(path: &Path) -> Log {
        Log::start(&Target::File(path.to_owned()), Style::Json).unwrap()
    }

    #[test]
    fn every_line_is_in_the_file_when_the_writer_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        fs::write(&path, "before\n").unwrap();
        let log = log(&path);
        let (lines, shared) = (Lines::new(log.sink()), log.shared());
        (0..3_000).for_each(|number| lines.add(numbered(number)));
        drop(lines);
        log.close().join().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("before\nline 0\nline 1\n") && text.ends_with("line 2999\n"));
        assert_eq!((text.lines().count(), shared.dropped()), (3_001, 0));
    }

    #[test]
    fn lines_that_do_not_fit_are_dropped_and_counted() {
        let (queue, pieces) = sync_channel(1);
        let sink = Sink { style: Style::Json, queue, shared: Arc::default() };
        let lines = Lines::new(sink.clone());
        lines.add(numbered(1));
        lines.flush();
        lines.add(numbered(2));
        lines.add(numbered(3));
        lines.flush();
        assert_eq!(sink.shared.dropped(), 2);
        assert_eq!(pieces.recv().unwrap().text, b"line 1\n");
        lines.add(numbered(4));
        drop(lines);
        assert_eq!(pieces.recv().unwrap().text, b"line 4\n");
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else { return };
        let output = Output::File { file: full, path: "access.log".into() };
        let shared = Arc::<Shared>::default();
        let mut writer = Writer { output, shared: shared.clone(), torn: false, failing: false };
        writer.write(&Piece { text: b"one\ntwo\n".to_vec(), lines: 2 });
        assert_eq!((shared.dropped(), writer.failing, writer.torn), (2, true, false));
    }

    #[test]
    fn a_line_that_was_torn_is_ended_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let output = Output::File { file: open(&path).unwrap(), path: path.clone() };
        let mut writer = Writer { output, shared: Arc::default(), torn: false, failing: false };
        writer.all(b"half a li").unwrap();
        writer.torn = true;
        writer.write(&Piece { text: b"whole\n".to_vec(), lines: 1 });
        assert_eq!(fs::read_to_string(&path).unwrap(), "half a li\nwhole\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Log::start(&Target::File(folder.path().to_owned()), Style::Json).is_err());
    }
}
