//! Recordings: every frame with its time, one JSON object a line, written beside the screen and replayed without a
//! daemon.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, BufWriter, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use pcpm_api::types::WatchFrame;
use serde::{Deserialize, Serialize};

use super::{
    feed::{Arrival, Inbox},
    num::float,
    state::Replay,
};

/// The version of what is written.
const FORMAT: u32 = 1;

/// The longest line that is read: a frame of 10,000 slots has a tenth of it.
const LONGEST_LINE: u64 = 64 * 1024 * 1024;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    pcpm_recording: u32,
    pcpm_version: String,
}

/// Every other line.
#[derive(Serialize)]
struct Written<'a> {
    at_ms: u64,
    frame: &'a WatchFrame,
}

#[derive(Deserialize)]
struct Read {
    frame: WatchFrame,
}

/// A file that frames are written to.
pub(crate) struct Recorder {
    file: BufWriter<File>,
    begun: Instant,
}

impl Recorder {
    /// # Errors
    /// The file exists, or cannot be made.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let file = file.with_context(|| format!("create the recording {}", path.display()))?;
        let mut recorder = Self {
            file: BufWriter::new(file),
            begun: Instant::now(),
        };
        recorder.line(&Header {
            pcpm_recording: FORMAT,
            pcpm_version: env!("CARGO_PKG_VERSION").to_owned(),
        })?;
        Ok(recorder)
    }

    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&mut self, frame: &WatchFrame) -> Result<()> {
        let at_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.line(&Written { at_ms, frame })
    }

    fn line(&mut self, line: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.file, line).context("write the recording")?;
        self.file.write_all(b"\n").context("write the recording")?;
        // Whoever is killed leaves whole lines.
        self.file.flush().context("write the recording")
    }
}

/// A recording that is read: where its frames stand.
pub(crate) struct Recording {
    file: BufReader<File>,
    /// Time and place of every frame.
    frames: Vec<(u64, u64)>,
}

impl Recording {
    /// # Errors
    /// It cannot be read, or is none.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let open = || -> Result<Self> {
            let mut file = BufReader::new(File::open(path)?);
            let mut line = Vec::new();
            read_line(&mut file, &mut line)?;
            let header: Result<Header, _> = serde_json::from_slice(&line);
            match header {
                Ok(Header {
                    pcpm_recording: FORMAT,
                    ..
                }) => {}
                Ok(header) => bail!(
                    "of format {}, this program reads {FORMAT}",
                    header.pcpm_recording
                ),
                Err(_) => bail!("no recording of 'pcpm top'"),
            }
            let frames = index(&mut file)?;
            if frames.is_empty() {
                bail!("a recording without a frame");
            }
            Ok(Self { file, frames })
        };
        open().with_context(|| format!("read {}", path.display()))
    }

    pub(crate) fn length_ms(&self) -> u64 {
        let (first, last) = (self.frames.first(), self.frames.last());
        last.zip(first).map_or(0, |(last, first)| last.0 - first.0)
    }

    fn at_ms(&self, number: usize) -> Option<u64> {
        let (first, _) = self.frames.first()?;
        let (at_ms, _) = self.frames.get(number)?;
        Some(at_ms - first)
    }

    /// A frame by its number.
    ///
    /// # Errors
    /// It cannot be read any more.
    pub(crate) fn frame(&mut self, number: usize) -> Result<WatchFrame> {
        let (_, place) = self.frames[number];
        self.file
            .seek(SeekFrom::Start(place))
            .context("read the recording")?;
        let mut line = Vec::new();
        read_line(&mut self.file, &mut line)?;
        let read: Read = serde_json::from_slice(&line).context("read a frame of the recording")?;
        Ok(read.frame)
    }

    /// How many frames there are up to that time.
    pub(crate) fn until(&self, at_ms: u64) -> usize {
        let first = self.frames.first().map_or(0, |(at_ms, _)| *at_ms);
        self.frames
            .partition_point(|(frame_ms, _)| frame_ms - first <= at_ms)
    }
}

/// Times and places of all frames; a last line that was not written to its end is left out.
fn index(file: &mut BufReader<File>) -> Result<Vec<(u64, u64)>> {
    #[derive(Deserialize)]
    struct Time {
        at_ms: u64,
    }
    let mut frames: Vec<(u64, u64)> = Vec::new();
    let mut line = Vec::new();
    loop {
        let place = file.stream_position()?;
        if !read_line(file, &mut line)? {
            return Ok(frames);
        }
        let Ok(Time { at_ms }) = serde_json::from_slice(&line) else {
            return Ok(frames);
        };
        let before = frames.last().map_or(at_ms, |(before, _)| *before);
        frames.push((at_ms.max(before), place));
    }
}

/// Whether there was a whole line.
fn read_line(file: &mut BufReader<File>, line: &mut Vec<u8>) -> Result<bool> {
    use std::io::Read as _;
    line.clear();
    file.by_ref().take(LONGEST_LINE).read_until(b'\n', line)?;
    Ok(line.last() == Some(&b'\n'))
}

/// What the one who watches a replay wants of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Control {
    Pause(bool),
    Speed(f64),
    /// So many milliseconds on, or back.
    Seek(i64),
}

/// A recording being replayed.
struct Player {
    recording: Recording,
    /// The frame that comes next.
    next: usize,
    position_ms: f64,
    speed: f64,
    paused: bool,
    moved: Instant,
}

/// Replays a recording into the inbox until nobody wants it.
pub(crate) fn replay(
    recording: Recording,
    speed: f64,
    at: Duration,
    controls: &Receiver<Control>,
    inbox: &Inbox,
) {
    let mut player = Player {
        recording,
        next: 0,
        position_ms: at.as_secs_f64() * 1000.0,
        speed,
        paused: false,
        moved: Instant::now(),
    };
    // Nobody wants it any more.
    let _ = player.run(controls, inbox);
}

/// The one who watches went away, or the file did.
struct Over;

impl Player {
    fn run(&mut self, controls: &Receiver<Control>, inbox: &Inbox) -> Result<(), Over> {
        self.catch_up(inbox)?;
        loop {
            match controls.recv_timeout(self.pause_before_next()) {
                Ok(control) => {
                    self.advance();
                    self.control(control, inbox)?;
                }
                Err(RecvTimeoutError::Timeout) => self.advance(),
                Err(RecvTimeoutError::Disconnected) => return Err(Over),
            }
            self.catch_up(inbox)?;
        }
    }

    fn pause_before_next(&self) -> Duration {
        const LONGEST: Duration = Duration::from_millis(500);
        let next = self.recording.at_ms(self.next).filter(|_| !self.paused);
        next.map_or(LONGEST, |at_ms| {
            let left_ms = (float(at_ms) - self.position_ms).max(0.0) / self.speed;
            Duration::from_secs_f64(left_ms / 1000.0).min(LONGEST)
        })
    }

    /// Time goes on.
    fn advance(&mut self) {
        let passed = self.moved.elapsed();
        self.moved = Instant::now();
        if !self.paused {
            let end = float(self.recording.length_ms());
            self.position_ms =
                (self.position_ms + passed.as_secs_f64() * 1000.0 * self.speed).min(end);
        }
    }

    fn control(&mut self, control: Control, inbox: &Inbox) -> Result<(), Over> {
        match control {
            Control::Pause(paused) => self.paused = paused,
            Control::Speed(speed) => self.speed = speed,
            Control::Seek(by_ms) => {
                let by = float(by_ms.unsigned_abs()) * if by_ms < 0 { -1.0 } else { 1.0 };
                let end = float(self.recording.length_ms());
                self.position_ms = (self.position_ms + by).clamp(0.0, end);
                if by_ms < 0 {
                    // The state is that of all frames before: it is made again from the first.
                    self.next = 0;
                    inbox.send(Arrival::Restart).map_err(|_| Over)?;
                }
            }
        }
        Ok(())
    }

    /// Hands on what is due, and says how far it is.
    fn catch_up(&mut self, inbox: &Inbox) -> Result<(), Over> {
        let due = self
            .recording
            .until(super::num::whole(self.position_ms))
            .max(1);
        while self.next < due {
            let frame = self.recording.frame(self.next).map_err(|_| Over)?;
            self.next += 1;
            inbox
                .send(Arrival::Frame(Box::new(frame)))
                .map_err(|_| Over)?;
        }
        let length_ms = self.recording.length_ms();
        let position_ms = super::num::whole(self.position_ms);
        let replay = Replay {
            position_ms,
            length_ms,
            speed: self.speed,
            ended: position_ms >= length_ms,
        };
        inbox.send(Arrival::Replayed(replay)).map_err(|_| Over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_can_be_read_and_a_torn_line_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recording");
        let mut recorder = Recorder::create(&path).unwrap();
        for time_ms in [5, 6] {
            let frame = WatchFrame {
                time_ms,
                ..WatchFrame::default()
            };
            recorder.write(&frame).unwrap();
        }
        drop(recorder);
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"{\"at_ms\": 99, \"fra").unwrap();
        let mut recording = Recording::open(&path).unwrap();
        assert_eq!(recording.frames.len(), 2);
        assert_eq!(recording.frame(1).unwrap().time_ms, 6);
        assert!(
            Recorder::create(&path).is_err(),
            "a recording is never written over"
        );
    }

    #[test]
    fn what_is_no_recording_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other");
        for (content, reason) in [
            ("", "no recording"),
            ("hello\n", "no recording"),
            (
                "{\"pcpm_recording\":9,\"pcpm_version\":\"x\"}\n",
                "of format 9",
            ),
            (
                "{\"pcpm_recording\":1,\"pcpm_version\":\"x\"}\n",
                "without a frame",
            ),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = format!("{:#}", Recording::open(&path).map(|_| ()).unwrap_err());
            assert!(error.contains(reason), "{content}: {error}");
        }
    }
}
