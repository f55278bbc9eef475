//! SIGINT, SIGTERM and SIGHUP, for every command.
//!
//! * The first one sets the flag of [`cancel_on_signal`]. Long work polls it, and stops with an
//!   error. A program that has not ended half a second later (it waits for a pipe, or is in the
//!   middle of a long step) is ended here. A command that never asked for the flag is ended at
//!   once.
//! * The second one ends the program at once.
//! * The exit status is 128 + the number of the signal, whoever ends the program.
//! * Files and folders that are [temporaries] are removed first. Whoever makes something that must
//!   not stay behind does so through [`Temporary`](crate::output::Temporary), which is registered.
//! * A command that has another use for Ctrl-C takes it for a while: see [`Stop`].
//!
//! A signal that was ignored when the program started (as `nohup` does) stays ignored.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use crate::temporaries;

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

/// Handles a signal, on a thread of its own, not in the system's handler.
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
        temporaries::remove_all();
        let _ = sender.send(());
    };
    if thread::Builder::new().spawn(remove).is_ok() {
        let _ = removed.recv_timeout(patience);
    }
    system::exit(128 + signal)
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
