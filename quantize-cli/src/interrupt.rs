//! What SIGINT, SIGTERM and SIGHUP do, for every command.
//!
//! * The first one sets the flag of [`cancel_on_signal`]. Long work polls it, and stops with an
//!   error. A program that has not ended half a second later (it waits for a pipe, or is in the
//!   middle of a long step) is ended here. A command that never asked for the flag is ended at
//!   once.
//! * The second one ends the program at once.
//! * The exit status is 128 + the number of the signal, whoever ends the program.
//! * Files and folders that were made by [`create`] and not yet given to [`release`] are removed
//!   first. Whoever makes something that must not stay behind does so through
//!   [`Temporary`](crate::output::Temporary), which is registered.
//! * A command that has another use for Ctrl-C takes it for a while: see [`Stop`].
//!
//! A signal that was ignored when the program started (as `nohup` does) stays ignored.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

/// How long a command has to see the flag and to clean up by itself.
const GRACE: Duration = Duration::from_millis(500);

/// How long a second signal waits for temporary files to be removed.
const IMPATIENCE: Duration = Duration::from_millis(500);

/// SIGINT, on every system.
const INTERRUPT: u8 = 2;

/// The signal that came first; 0 before.
static SIGNAL: AtomicU8 = AtomicU8::new(0);

/// Whether a signal came: what long work polls.
static CANCELLED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Whether anything polls [`CANCELLED`].
static POLLED: AtomicBool = AtomicBool::new(false);

/// What a [`Stop`] makes of Ctrl-C: one of the three below.
static STOP: AtomicU8 = AtomicU8::new(NO_STOP);
const NO_STOP: u8 = 0;
const STOP_WAITS: u8 = 1;
const STOP_CAME: u8 = 2;

/// What is removed when a signal ends the program.
static TEMPORARIES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Handles signals from now on. Called once, by the program; a library that is used by another one
/// leaves them alone.
pub(crate) fn handle_signals() {
    // Without a handler a signal ends the program as the system does it: no reason not to run.
    let _ = system::on_signal(came);
}

/// A flag that becomes true when the program is asked to end: what is half written is then removed.
pub(crate) fn cancel_on_signal() -> Arc<AtomicBool> {
    POLLED.store(true, Ordering::SeqCst);
    Arc::clone(&CANCELLED)
}

/// The exit status of a program that a signal asked to end; nothing if none did.
pub(crate) fn status() -> Option<u8> {
    let signal = SIGNAL.load(Ordering::SeqCst);
    (signal != 0).then_some(128 + signal)
}

/// Makes a temporary file or folder. Until [`release`] or [`forget`] it is removed if a signal ends
/// the program.
///
/// # Errors
/// Those of `make`; nothing is registered then.
pub(crate) fn create<T>(path: &Path, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    // Under the lock: never made and not yet registered when a signal ends the program.
    let mut temporaries = temporaries();
    let made = make(path)?;
    temporaries.insert(std::path::absolute(path)?);
    Ok(made)
}

/// Gives a temporary file or folder its place by `place`, after which it is temporary no more.
///
/// # Errors
/// Those of `place`; it stays registered then.
pub(crate) fn release<T, E>(path: &Path, place: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    release_if(path, place, Result::is_ok)
}

/// Does something to a temporary file or folder, which is temporary no more if `stays` says so of
/// what came of it. No signal removes anything meanwhile.
pub(crate) fn release_if<T>(path: &Path, act: impl FnOnce() -> T, stays: impl FnOnce(&T) -> bool) -> T {
    // Under the lock: what is in its place is not removed any more.
    let mut temporaries = temporaries();
    let done = act();
    if stays(&done)
        && let Ok(path) = std::path::absolute(path)
    {
        temporaries.remove(&path);
    }
    done
}

/// Whether a signal that came now would remove `path`, and `so` is the case of it.
#[cfg(test)]
pub(crate) fn with_temporary(path: &Path, so: impl FnOnce() -> bool) -> bool {
    temporaries().contains(path) && so()
}

/// Strikes a temporary file or folder off, which was removed.
pub(crate) fn forget(path: &Path) {
    let forgotten: Result<(), ()> = release(path, || Ok(()));
    debug_assert!(forgotten.is_ok(), "nothing that can fail");
}

/// Ctrl-C is for the command while this lives: to stop an answer, say, rather than the program.
///
/// The first SIGINT makes [`requested`](Self::requested) true and does nothing else. A second one
/// before the command has dropped this ends the program at once. Other signals mean what they
/// always do. One of them exists at a time.
#[derive(Debug)]
pub(crate) struct Stop(());

impl Stop {
    /// Takes Ctrl-C over.
    pub(crate) fn on_interrupt() -> Self {
        STOP.store(STOP_WAITS, Ordering::SeqCst);
        Self(())
    }

    /// Whether Ctrl-C was pressed since [`on_interrupt`](Self::on_interrupt).
    pub(crate) fn requested(&self) -> bool {
        STOP.load(Ordering::SeqCst) == STOP_CAME
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        STOP.store(NO_STOP, Ordering::SeqCst);
    }
}

/// What a signal does. Runs on a thread of its own, not in the handler.
fn came(signal: u8) {
    if signal == INTERRUPT {
        let taken = STOP.compare_exchange(STOP_WAITS, STOP_CAME, Ordering::SeqCst, Ordering::SeqCst);
        match taken {
            Ok(_) => return,
            Err(STOP_CAME) => end(signal, IMPATIENCE),
            Err(_) => {}
        }
    }
    if SIGNAL.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        end(signal, IMPATIENCE);
    }
    CANCELLED.store(true, Ordering::SeqCst);
    let last = move || {
        if POLLED.load(Ordering::SeqCst) {
            thread::sleep(GRACE);
        }
        end(signal, Duration::MAX);
    };
    // On a thread of its own, so that the second signal finds this one idle.
    if thread::Builder::new().spawn(last).is_err() {
        end(signal, IMPATIENCE);
    }
}

/// Removes what is temporary, for which it waits so long, and ends the program.
fn end(signal: u8, patience: Duration) -> ! {
    let (sender, removed) = mpsc::channel();
    let remove = move || {
        let temporaries = temporaries();
        temporaries.iter().for_each(|path| remove(path));
        // Kept, so that nothing is made or put in its place any more.
        std::mem::forget(temporaries);
        let _ = sender.send(());
    };
    if thread::Builder::new().spawn(remove).is_ok() {
        let _ = removed.recv_timeout(patience);
    }
    system::exit(128 + signal)
}

/// Removes a file or a folder, into which other threads may still be writing.
fn remove(path: &Path) {
    for _ in 0..100 {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            _ => return,
        }
    }
}

fn temporaries() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(unix)]
mod system {
    use std::io;
    use std::thread;

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    /// Has a thread call `came` with the number of each signal.
    pub(super) fn on_signal(came: fn(u8)) -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal)))?;
        let each = move || signals.forever().filter_map(|signal| u8::try_from(signal).ok()).for_each(came);
        thread::Builder::new().name("signals".into()).spawn(each).map(drop)
    }

    /// Whether whoever started the program has it ignore a signal.
    #[expect(unsafe_code, reason = "no crate asks how a signal is handled without handling it")]
    fn is_ignored(signal: libc::c_int) -> bool {
        let mut found = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: without a new action nothing changes, and there is room for the present one.
        if unsafe { libc::sigaction(signal, std::ptr::null(), found.as_mut_ptr()) } != 0 {
            return false;
        }
        // SAFETY: all zeros are a value of this plain struct, and `sigaction` wrote another one.
        unsafe { found.assume_init() }.sa_sigaction == libc::SIG_IGN
    }

    /// Ends the program without waiting for anything: stdout may be a pipe that nobody reads.
    pub(super) fn exit(status: u8) -> ! {
        signal_hook::low_level::exit(status.into())
    }
}

#[cfg(not(unix))]
mod system {
    /// Has a thread call `came` when Ctrl-C is pressed.
    pub(super) fn on_signal(came: fn(u8)) -> Result<(), ctrlc::Error> {
        ctrlc::set_handler(move || came(super::INTERRUPT))
    }

    /// Ends the program.
    pub(super) fn exit(status: u8) -> ! {
        std::process::exit(status.into())
    }
}
