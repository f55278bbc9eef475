//! Threads that help a caller. Only this module hands borrowed work to other threads and waits for
//! it.
//!
//! Every thread that computes has a [`Crew`]. A *helper* is a job in rayon's current pool that
//! looks for work of one crew:
//!
//! ```text
//! caller                                  helper, on any thread of the pool
//! ------                                  ---------------------------------
//! open: publish `work`, room for n        for as long as there is work or the crew is kept awake:
//! invite helpers, unless invited already      enter: under the lock, if the region is open and has room, running += 1
//! run `work` itself                           run `work`
//! close: under the lock, withdraw `work`,     leave: under the lock, withdraw `work`, running -= 1
//!        wait until running = 0
//! ```
//!
//! The caller waits only for helpers that have entered, and runs no other job meanwhile, so it may
//! hold any lock. If all threads of the pool are busy, the caller does the work alone. Rayon's own
//! ways of waiting (`join`, `scope`) do run other jobs of the pool, which may want the lock that
//! the caller holds.
//!
//! Helpers that were invited and have not come yet are not invited again, so a thread that is
//! blocked for long costs one small job, however many regions there are.
//!
//! A helper may leave while a caller opens a region and counts on that helper. So each side first
//! publishes its own step and then reads the other's: the caller opens the region and then counts
//! helpers; the helper takes itself off the count and then checks whether the region is open. All
//! four steps have one total order ([`Ordering::SeqCst`]), so the later side sees the other's
//! step.

use std::any::Any;
use std::cell::Cell;
use std::hint;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a helper that is kept awake waits for the next region.
const PATIENCE: Duration = Duration::from_micros(500);

/// How long a helper stays, if another job of the pool may be waiting below it on the same thread.
const STAY: Duration = Duration::from_millis(5);

/// How often a caller checks whether the last helpers are done before it sleeps. It yields to other
/// processes meanwhile.
const LOOKS: u32 = 200;

thread_local! {
    static CREW: Arc<Crew> = Arc::default();
    /// Whether this thread is a helper, or keeps helpers awake: another helper on top of it must
    /// not stay.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// The helpers of one calling thread.
#[derive(Default)]
struct Crew {
    region: Mutex<Region>,
    /// Whether the region has work and room. Helpers read it without the lock.
    open: AtomicBool,
    /// Notified when the last helper has left a region whose caller sleeps.
    left: Condvar,
    /// The depth of nested calls of [`keep_awake`].
    awake: AtomicUsize,
    /// The number of helpers that have been invited and have not left.
    invited: AtomicUsize,
}

/// The work of a crew at one time.
#[derive(Default)]
struct Region {
    /// `None` when no unstarted work is left.
    work: Option<Work>,
    /// How many more helpers may enter.
    room: usize,
    /// How many helpers have entered and not left.
    running: usize,
    /// The payload of the first panic.
    panic: Option<Box<dyn Any + Send>>,
    /// Whether the caller sleeps and must be woken.
    sleeping: bool,
}

/// A borrowed closure, without the lifetime of the borrow.
#[derive(Clone, Copy)]
struct Work {
    closure: *const (),
    /// Calls the closure.
    ///
    /// # Safety
    /// The closure must be alive.
    call: unsafe fn(*const ()),
}

// SAFETY: `Work::new` takes closures that are `Sync` only, so that any thread may call them through
// a shared pointer.
#[expect(unsafe_code, reason = "a pointer to what threads may share")]
unsafe impl Send for Work {}

impl Work {
    #[expect(unsafe_code, reason = "takes the lifetime from a borrow")]
    fn new<W: Fn() + Sync>(work: &W) -> Self {
        /// # Safety
        /// `closure` must point to a `W` that is alive.
        unsafe fn call<W: Fn()>(closure: *const ()) {
            // SAFETY: the caller guarantees that it is alive.
            let work = unsafe { &*closure.cast::<W>() };
            work();
        }
        Self { closure: std::ptr::from_ref(work).cast(), call: call::<W> }
    }

    /// Runs the closure.
    ///
    /// # Safety
    /// The closure must be alive until this returns.
    #[expect(unsafe_code, reason = "calls through a pointer")]
    unsafe fn run(self) {
        // SAFETY: `call` is the one of the closure's own type (see `new`), and the caller
        // guarantees that it is alive.
        unsafe { (self.call)(self.closure) }
    }
}

/// Runs `work` on this thread and at the same time on up to `threads - 1` threads of rayon's
/// current pool. Returns when all of them have returned.
///
/// `work` takes pieces from its own queue until none are left: when it has returned on any thread,
/// no other thread begins it. It must not wait for other jobs of the pool. If it panics, so does
/// the caller, after all threads have returned.
pub(super) fn together<W: Fn() + Sync>(threads: usize, work: W) {
    let crew = CREW.with(Arc::clone);
    if threads <= 1 || !crew.open(&work, threads - 1) {
        return work();
    }
    crew.invite(threads - 1);
    let here = catch_unwind(AssertUnwindSafe(&work));
    let elsewhere = crew.close();
    if let Some(panic) = here.err().or(elsewhere) {
        resume_unwind(panic);
    }
}

/// Runs `work` on this thread and keeps the other threads of rayon's current pool awake meanwhile,
/// so that they join its products at once.
///
/// Rayon's threads fall asleep some 25 µs after the last product. Waking one takes some 15 µs of
/// the caller's time, and it arrives 50 µs late. Wrap the computation of one token, where other
/// work lies between products. Waiting threads yield to other processes, run any other work of the
/// pool, and fall asleep after half a millisecond without work, so keep longer work outside.
/// Results are the same without this function; in a pool of one thread, it only runs `work`.
///
/// The calling thread neither waits for nor runs jobs of the pool, so it may hold a lock.
///
/// ```
/// let token = qruntime::keep_awake(|| { /* layers, attention, more layers */ 42 });
/// assert_eq!(token, 42);
/// ```
pub fn keep_awake<R>(work: impl FnOnce() -> R) -> R {
    struct Over<'a> {
        crew: &'a Crew,
        was_busy: bool,
    }
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.crew.awake.fetch_sub(1, Ordering::Relaxed);
            BUSY.set(self.was_busy);
        }
    }

    let threads = rayon::current_num_threads();
    if threads == 1 {
        return work();
    }
    let crew = CREW.with(Arc::clone);
    crew.awake.fetch_add(1, Ordering::Relaxed);
    let _over = Over { crew: &crew, was_busy: BUSY.replace(true) };
    crew.invite(threads - 1);
    work()
}

impl Crew {
    fn lock(&self) -> MutexGuard<'_, Region> {
        // No code panics while it holds the lock.
        self.region.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes work for this many helpers. Returns `false` if there is some already: then the
    /// caller is itself within `work`, and computes alone.
    ///
    /// After `true`, `work` must stay alive until [`close`](Self::close) has returned.
    fn open<W: Fn() + Sync>(&self, work: &W, helpers: usize) -> bool {
        let mut region = self.lock();
        if region.work.is_some() || region.running > 0 {
            return false;
        }
        region.work = Some(Work::new(work));
        region.room = helpers;
        self.open.store(true, Ordering::SeqCst);
        true
    }

    /// Withdraws the work and waits for the helpers that have begun it. If one panicked, returns
    /// the payload.
    fn close(&self) -> Option<Box<dyn Any + Send>> {
        let mut region = self.withdraw(self.lock());
        for look in 0..LOOKS {
            if region.running == 0 {
                break;
            }
            drop(region);
            match look {
                0..50 => (0..10).for_each(|_| hint::spin_loop()),
                _ => thread::yield_now(),
            }
            region = self.lock();
        }
        while region.running > 0 {
            region.sleeping = true;
            region = self.left.wait(region).unwrap_or_else(PoisonError::into_inner);
        }
        region.sleeping = false;
        region.panic.take()
    }

    /// Lets no other helper enter.
    fn withdraw<'r>(&self, mut region: MutexGuard<'r, Region>) -> MutexGuard<'r, Region> {
        region.work = None;
        self.open.store(false, Ordering::Relaxed);
        region
    }

    /// Ensures that this many helpers are present or invited.
    fn invite(self: &Arc<Self>, helpers: usize) {
        let missing = helpers.saturating_sub(self.invited.load(Ordering::SeqCst));
        if missing > 0 {
            self.invited.fetch_add(missing, Ordering::Relaxed);
            Arc::clone(self).send(missing);
        }
    }

    /// Spawns a helper in the pool, which invites the others.
    fn send(self: Arc<Self>, helpers: usize) {
        if helpers == 0 {
            return;
        }
        rayon::spawn(move || {
            let mut here = helpers;
            loop {
                if self.is_wanted() {
                    let others = here - 1;
                    Arc::clone(&self).send(others / 2);
                    Arc::clone(&self).send(others - others / 2);
                    here = 1;
                    self.help();
                }
                self.invited.fetch_sub(here, Ordering::SeqCst);
                if !self.open.load(Ordering::SeqCst) {
                    return;
                }
                self.invited.fetch_add(here, Ordering::SeqCst);
            }
        });
    }

    /// Returns whether there is work, or may soon be.
    fn is_wanted(&self) -> bool {
        self.open.load(Ordering::Relaxed) || self.awake.load(Ordering::Relaxed) > 0
    }

    /// Looks for work and does it, until there is none and none is expected.
    fn help(&self) {
        // A waiting helper runs other jobs of the pool, which may be helpers, too: those work but
        // do not wait.
        let nested = BUSY.replace(true);
        let start = Instant::now();
        let mut last = start;
        loop {
            if self.open.load(Ordering::Relaxed) && self.enter() {
                last = Instant::now();
                continue;
            }
            if nested || !self.is_wanted() || last.elapsed() >= PATIENCE || start.elapsed() >= STAY {
                break;
            }
            match rayon::yield_now() {
                Some(rayon::Yield::Executed) => last = Instant::now(),
                _ => thread::yield_now(),
            }
        }
        BUSY.set(nested);
    }

    /// Runs the region's work, if there is any and room for another helper.
    fn enter(&self) -> bool {
        let mut region = self.lock();
        let Some(work) = region.work.filter(|_| region.room > 0) else { return false };
        region.room -= 1;
        region.running += 1;
        if region.room == 0 {
            self.open.store(false, Ordering::Relaxed);
        }
        drop(region);

        // SAFETY: the closure is alive from before `open` publishes it until `close` has returned
        // (see `open`). `work` was found published under the lock, so `close` has not withdrawn it
        // yet; it will then wait, under the same lock, until `running` is 0, and this thread is
        // counted there until after the call.
        #[expect(unsafe_code, reason = "calls a closure whose owner waits for it")]
        let result = catch_unwind(AssertUnwindSafe(|| unsafe { work.run() }));

        // No unstarted work is left.
        let mut region = self.withdraw(self.lock());
        region.running -= 1;
        if let Err(panic) = result {
            region.panic.get_or_insert(panic);
        }
        if region.running == 0 && region.sleeping {
            self.left.notify_one();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;

    use rayon::ThreadPoolBuilder;

    use super::*;

    /// How often races are provoked; Miri is some thousand times slower.
    const TIMES: usize = if cfg!(miri) { 16 } else { 2000 };

    fn pool(threads: usize) -> rayon::ThreadPool {
        ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// Lets threads take the numbers below `end` from a queue, each once, and returns their sum.
    fn sum(threads: usize, end: usize) -> usize {
        let (next, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
        together(threads, || {
            loop {
                let taken = next.fetch_add(1, Ordering::Relaxed);
                if taken >= end {
                    return;
                }
                sum.fetch_add(taken, Ordering::Relaxed);
            }
        });
        sum.into_inner()
    }

    #[test]
    fn every_piece_is_done_once_when_a_region_is_over() {
        for threads in [1, 2, 3, 8] {
            let pool = pool(threads);
            let regions = || (0..TIMES).for_each(|end| assert_eq!(sum(threads, end), (0..end).sum::<usize>()));
            pool.install(regions);
            pool.install(|| keep_awake(regions));
            // Several callers that help each other.
            pool.scope(|scope| (0..2 * threads).for_each(|_| scope.spawn(|_| keep_awake(regions))));
        }
        sum(3, 100);
    }

    #[test]
    fn helpers_come_at_the_same_time_and_not_more_than_there_is_room_for() {
        let pool = pool(4);
        for threads in [2, 3, 4] {
            for _ in 0..TIMES / 16 {
                let seen = Mutex::new(HashSet::new());
                let start = Instant::now();
                let in_time = || start.elapsed() < Duration::from_secs(60);
                // Ends when this many threads have entered.
                pool.install(|| {
                    together(threads, || {
                        seen.lock().unwrap().insert(thread::current().id());
                        while seen.lock().unwrap().len() < threads && in_time() {
                            thread::yield_now();
                        }
                    });
                });
                assert_eq!(seen.into_inner().unwrap().len(), threads);
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_next_region_is_a_new_one() {
        let pool = pool(2);
        for panics_here in [true, false] {
            let both = Barrier::new(2);
            let panic = pool.install(|| {
                let caller = thread::current().id();
                let region = || {
                    together(2, || {
                        both.wait();
                        if (thread::current().id() == caller) == panics_here {
                            resume_unwind(Box::new(7));
                        }
                    });
                };
                catch_unwind(AssertUnwindSafe(region)).unwrap_err()
            });
            assert_eq!(panic.downcast_ref::<i32>(), Some(&7));
            assert_eq!(pool.install(|| sum(2, 100)), 4950);
        }
    }

    #[test]
    fn a_region_within_a_region_is_done_by_its_thread_alone() {
        let within = pool(3).install(|| {
            let sums = Mutex::new(Vec::new());
            together(3, || sums.lock().unwrap().push(sum(3, 100)));
            sums.into_inner().unwrap()
        });
        assert!(!within.is_empty() && within.iter().all(|&sum| sum == 4950));
    }

    #[test]
    fn threads_that_do_not_come_are_invited_once() {
        let pool = pool(3);
        let (blocked, unblock) = (Barrier::new(3), Barrier::new(3));
        pool.in_place_scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|_| {
                    blocked.wait();
                    unblock.wait();
                });
            }
            blocked.wait();
            pool.install(|| {
                for _ in 0..TIMES {
                    assert_eq!(keep_awake(|| sum(3, 10)), 45);
                }
                assert_eq!(CREW.with(|crew| crew.invited.load(Ordering::Relaxed)), 2);
            });
            unblock.wait();
        });
    }
}
