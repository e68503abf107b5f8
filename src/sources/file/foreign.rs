//! Files of other tools: a thread reads and maps them, while what came before is being stored.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, bounded};

use super::{
    Again, Arc, BUFFER_BYTES, Content, Error, Format, Identities, JoinHandle, Part, Progress,
    Reader, Result, Source, Taken, as_text,
};

/// Parts that are read ahead.
const PARTS_AHEAD: usize = 2;

/// A file that can be read from its beginning as often as it takes.
pub(crate) struct Input {
    path: PathBuf,
    progress: Progress,
    again: Again,
    content: Content,
}

/// Opens files of another tool, and collects what some of their records say of others.
///
/// # Errors
/// [`Error::Invalid`] when one can't be read.
pub(crate) fn inputs(files: &[PathBuf], reader: &mut Reader) -> Result<Vec<Input>> {
    let mut inputs = files.iter().map(|file| Input::open(file)).collect::<Result<Vec<_>>>()?;
    if reader.has_verdicts() {
        for input in &mut inputs {
            reader.collect(&input.path, &mut input.again)?;
        }
    }
    Ok(inputs)
}

impl Input {
    fn open(file: &Path) -> Result<Self> {
        let broken = |error: std::io::Error| {
            Error::invalid("", format!("can't read {}: {error}", file.display()))
        };
        let keep = |mut input: Box<dyn std::io::Read>| {
            // What comes through a pipe comes once: it is kept where it takes no memory.
            let mut kept = tempfile::tempfile()?;
            std::io::copy(&mut input, &mut kept)?;
            Ok(kept)
        };
        let kept = if file.as_os_str() == "-" {
            Some(keep(Box::new(std::io::stdin())).map_err(broken)?)
        } else {
            let opened = File::open(file).map_err(broken)?;
            let is_file = opened.metadata().map_err(broken)?.is_file();
            if is_file { None } else { Some(keep(Box::new(opened)).map_err(broken)?) }
        };
        let size = match &kept {
            Some(kept) => kept.metadata(),
            None => std::fs::metadata(file),
        };
        let progress = Progress::new(size.map_err(broken)?.len());
        let bar = progress.bar.clone();
        let path = file.to_owned();
        let (again, content): (Again, _) = match kept {
            None => {
                let again = move || {
                    bar.set_position(0);
                    as_text(bar.wrap_read(File::open(&path)?))
                };
                (Box::new(again), Content::File(file.to_owned()))
            }
            Some(kept) => {
                let content = Content::Kept(kept.try_clone().map_err(broken)?);
                let again = move || {
                    let mut kept = kept.try_clone()?;
                    kept.rewind()?;
                    as_text(BufReader::with_capacity(BUFFER_BYTES, kept))
                };
                (Box::new(again), content)
            }
        };
        Ok(Self { path: file.to_owned(), progress, again, content })
    }

    /// Gives what becomes of its records, as long as more is wanted.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub(crate) fn read(
        &mut self,
        reader: &Reader,
        take: impl FnMut(u64, Taken<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        reader.read(&self.path, &mut self.again, take)
    }
}

/// The events of a file, in parts, as they are read.
pub(super) struct Foreign {
    /// `None` when no more is wanted.
    parts: Option<Receiver<Result<Part>>>,
    thread: Option<JoinHandle<()>>,
}

impl Source {
    /// The events of another tool's file.
    ///
    /// # Errors
    /// [`Error::Fatal`] when no thread can be started.
    pub(crate) fn of(input: Input, reader: Arc<Reader>) -> Result<Self> {
        let Input { path, progress, mut again, content } = input;
        let name = path.display().to_string();
        let (parts_tx, parts_rx) = bounded(PARTS_AHEAD);
        let read = move || {
            let mut part = Part::default();
            let read = reader.read(&path, &mut again, |number, taken| {
                match taken {
                    Taken::Event(event) => part.push(number, event, None),
                    Taken::Refused(refusal, kept) => part.push(number, kept, Some(refusal)),
                    Taken::PassedOver => part.passed_over += 1,
                }
                if part.is_full() && parts_tx.send(Ok(std::mem::take(&mut part))).is_err() {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
            // Whoever no longer listens has what it wanted.
            let _ = parts_tx.send(Ok(part));
            if let Err(error) = read {
                let _ = parts_tx.send(Err(error));
            }
        };
        let thread = std::thread::Builder::new()
            .name("format".to_owned())
            .spawn(read)
            .map_err(|error| Error::Fatal(format!("can't start a thread: {error}")))?;
        let foreign = Foreign { parts: Some(parts_rx), thread: Some(thread) };
        let (format, identities) = (Format::Foreign(foreign), Identities::new(content));
        Ok(Self { name, format, number: 0, progress, identities })
    }
}

impl Foreign {
    /// The next part, which may hold no lines; `None` at the end.
    pub(super) fn next_part(&mut self) -> Result<Option<Part>> {
        if let Some(Ok(part)) = self.parts.as_ref().map(Receiver::recv) {
            return part.map(Some);
        }
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) {
            return Err(Error::Fatal("the thread that reads the file ended".to_owned()));
        }
        Ok(None)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // It ends when nobody listens.
        self.parts = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
