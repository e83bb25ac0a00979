//! Who asked for a lock: the first function on the stack behind those of locks.
//!
//! The kernel's own walk takes microseconds. But where functions call each other, the distance from one return address to the
//! next one on the stack is always the same, or one of two where a frame is aligned. A stack that the kernel has walked
//! teaches who called whom and at which distance; by that a few words lead to the caller the next time. Whatever is not known
//! from a walk, or could be one of two, is walked.
#![expect(
    unsafe_code,
    reason = "reads the stack, and shares functions with the verifier"
)]

use core::hint::black_box;

use aya_ebpf::{EbpfContext as _, programs::RawTracePointContext};
use pcpm_ebpf::locks::{CALLER_FRAMES, Tracing, hash};

use crate::{maps, task};

/// Places for what walks have taught, on each CPU. Pairs of places share what belongs to one of them.
pub(crate) const LESSONS: u32 = 1024;

/// Words of the stack that are looked at.
const WORDS: usize = 64;

/// Return addresses on the way to the caller, at most: of the tracepoint, of the lock, of wrappers.
const STEPS: usize = 6;

/// Stands for the return address where the way begins.
const START: u64 = 1;

/// What was learnt of a return address: the distances to the next one in words, one in the lower and one in the upper half;
/// or of a return address and the next one: the kind of that. All zero: nothing.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Lesson {
    about: u64,
    says: u64,
}

/// The end of a stack.
#[repr(C)]
pub(crate) struct Stack {
    /// Where it is.
    at: u64,
    words: Words,
}

#[repr(C)]
struct Words([u64; WORDS]);

/// A return address on the stack.
#[derive(Clone, Copy)]
struct Frame {
    address: u64,
    /// Where it is, in words.
    place: usize,
}

/// Who asked for the lock, 0 if that is not known.
#[inline(always)]
pub(crate) fn caller(ctx: &RawTracePointContext, tracing: &Tracing) -> u64 {
    if tracing.lock_text.end == 0 {
        return 0;
    }
    let Some(stack) = maps::stack() else {
        return 0;
    };
    stack.read(ctx);
    match stack.follow() {
        0 => stack.walk(ctx, tracing),
        caller => caller,
    }
}

impl Stack {
    /// Reads it from where the kernel has put the arguments of the tracepoint.
    #[inline(always)]
    fn read(&mut self, ctx: &RawTracePointContext) {
        // To the verifier `ctx` is no number, but what is read from a map is one.
        let at = &raw mut self.at;
        // SAFETY: a word of a map.
        let at = unsafe {
            at.write_volatile(ctx.as_ptr() as u64);
            at.read_volatile()
        };
        task::read(&mut self.words.0, at);
    }

    /// The caller as walks have taught, 0 if they do not lead there.
    #[inline(always)]
    fn follow(&self) -> u64 {
        let mut frame = Frame::START;
        let mut in_lock = false;
        for _ in 0..STEPS {
            let Some((next, kind)) = self.next(frame) else {
                return 0;
            };
            frame = next;
            match kind {
                LOCK_FRAME => in_lock = true,
                OTHER_FRAME if in_lock => return frame.address,
                _ => {}
            }
        }
        0
    }

    /// The next frame and its kind, if there is one that is known, and only one.
    #[inline(always)]
    fn next(&self, frame: Frame) -> Option<(Frame, u64)> {
        let distances = lesson(frame.address);
        let near = self.at_distance(frame, distances & 0xffff_ffff);
        let far = self.at_distance(frame, distances >> 32);
        match (near, far) {
            (Some(next), None) | (None, Some(next)) => Some(next),
            _ => None,
        }
    }

    #[inline(always)]
    fn at_distance(&self, frame: Frame, words: u64) -> Option<(Frame, u64)> {
        if words == 0 {
            return None;
        }
        let place = frame.place + words as usize;
        let address = *self.words.0.get(black_box(place))?;
        match lesson(pair(frame.address, address)) {
            0 => None,
            kind => Some((Frame { address, place }, kind)),
        }
    }

    /// The caller by the kernel's own walk, which teaches.
    #[inline(always)]
    fn walk(&self, ctx: &RawTracePointContext, tracing: &Tracing) -> u64 {
        let mut frames = [0; CALLER_FRAMES];
        task::stack(ctx, &mut frames);
        let mut last = Frame::START;
        let mut learns = true;
        let mut in_lock = false;
        for address in frames {
            // SAFETY: references.
            let (place, kind) = unsafe {
                (
                    only_place(&self.words, address),
                    kind_of_frame(tracing, address),
                )
            };
            let frame = Frame {
                address,
                place: place as usize,
            };
            if frame.place < WORDS {
                if learns && frame.place > last.place {
                    learn(last, frame, kind);
                }
                last = frame;
            } else {
                // The frames of the programs come before what is read.
                learns = learns && last.address == START;
            }
            match kind {
                LOCK_FRAME => in_lock = true,
                OTHER_FRAME if in_lock => return address,
                _ => {}
            }
        }
        0
    }
}

impl Frame {
    const START: Self = Self {
        address: START,
        place: 0,
    };
}

/// Stands for both of them; return addresses differ in their lower halves.
#[inline(always)]
const fn pair(address: u64, next: u64) -> u64 {
    address ^ next.rotate_left(32)
}

/// What is known about that, 0 for nothing.
#[inline(always)]
fn lesson(about: u64) -> u64 {
    let place = place_of(about);
    match maps::lesson(place) {
        Some(lesson) if lesson.about == about => return lesson.says,
        _ => {}
    }
    match maps::lesson(place ^ 1) {
        Some(lesson) if lesson.about == about => lesson.says,
        _ => 0,
    }
}

#[inline(always)]
fn learn(frame: Frame, next: Frame, kind: u64) {
    let words = (next.place - frame.place) as u64;
    let known = lesson(frame.address);
    let (near, far) = (known & 0xffff_ffff, known >> 32);
    if words != near && words != far {
        keep(frame.address, near << 32 | words);
    }
    keep(pair(frame.address, next.address), kind);
}

#[inline(always)]
fn keep(about: u64, says: u64) {
    let place = place_of(about);
    let Some(mut lesson) = maps::lesson(place) else {
        return;
    };
    if lesson.about != 0
        && lesson.about != about
        && let Some(other) = maps::lesson(place ^ 1)
    {
        lesson = other;
    }
    *lesson = Lesson { about, says };
}

#[inline(always)]
fn place_of(about: u64) -> u32 {
    (hash(about) >> 32) as u32 % LESSONS
}

/// The place of a word, `WORDS` if it is at none or at several: something may be left over on the stack. A global function
/// like `kind_of_frame`.
///
/// # Safety
/// `words` is null or valid.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn only_place(words: *const Words, word: u64) -> u32 {
    // SAFETY: the caller's promise.
    let Some(words) = (unsafe { words.as_ref() }) else {
        return WORDS as u32;
    };
    let first = words.0.iter().position(|&other| other == word);
    let last = words.0.iter().rposition(|&other| other == word);
    match first {
        Some(place) if first == last => place as u32,
        _ => WORDS as u32,
    }
}

const LOCK_FRAME: u64 = 1;
const OTHER_FRAME: u64 = 2;
const WRAPPER_FRAME: u64 = 3;

/// Whether `frame` is one of locks, or a wrapper, or neither. A global function (its name is exported), which the verifier
/// follows once instead of for every way to every frame: 122,000 instructions without.
///
/// # Safety
/// `tracing` is null or valid.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn kind_of_frame(tracing: *const Tracing, frame: u64) -> u64 {
    // SAFETY: the caller's promise.
    match unsafe { tracing.as_ref() } {
        Some(tracing) if tracing.lock_text.contains(frame) => LOCK_FRAME,
        Some(tracing) if !is_wrapper(tracing, frame) => OTHER_FRAME,
        _ => WRAPPER_FRAME,
    }
}

#[inline(always)]
fn is_wrapper(tracing: &Tracing, frame: u64) -> bool {
    let mut found = false;
    for wrapper in &tracing.wrappers {
        found |= wrapper.contains(frame);
    }
    found
}
