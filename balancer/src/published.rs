//! Values that every request looks at and hardly anything changes: settings, rules, the members of a pool.
//!
//! A lock that is only ever read, and a count of references, are written all the same, and what two cores write in turn moves from one to
//! the other each time. So each thread keeps the value it saw last, and looks only whether another one has been published since, which
//! writes nothing. Old values go when their thread looks again, or with [`forget`]. Rejected: a list of such values with an owner for
//! each; one place per thread, found by number, needs none and is bounded.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Values a thread keeps. Where there are more, two may have one place in turn, and be fetched anew each time.
const KEPT_MAX: usize = 256;

/// Numbers values over the life of the process.
static NEXT_NUMBER: AtomicUsize = AtomicUsize::new(0);

/// What a thread keeps in one place.
struct Kept {
    number: usize,
    version: u64,
    value: Rc<dyn Any>,
}

thread_local! {
    static KEPT: RefCell<Vec<Option<Kept>>> = const { RefCell::new(Vec::new()) };
}

/// Lets go of all that this thread keeps. Done now and then, it leaves nothing of what was replaced where nobody asks any more.
pub(crate) fn forget() {
    let kept = KEPT.with_borrow_mut(std::mem::take);
    // Not before the places are given back: what goes with it may look at other values.
    drop(kept);
}

/// A value as one thread has it: counted by that thread alone, for as long as it is used.
#[derive(Debug)]
pub(crate) struct Local<T>(Arc<T>);

impl<T> Deref for Local<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A value that is replaced as a whole.
pub(crate) struct Published<T> {
    number: usize,
    version: AtomicU64,
    value: RwLock<Arc<T>>,
}

impl<T: 'static> Published<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            version: AtomicU64::new(0),
            value: RwLock::new(Arc::new(value)),
        }
    }

    /// The value in force.
    pub(crate) fn get(&self) -> Arc<T> {
        Arc::clone(&self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another one in force.
    pub(crate) fn set(&self, value: T) {
        self.change(|_| value);
    }

    /// Puts one in force that is made of the one before; nobody else changes it meanwhile.
    pub(crate) fn change(&self, make: impl FnOnce(&T) -> T) {
        let mut place = self.value.write().unwrap_or_else(PoisonError::into_inner);
        *place = Arc::new(make(&place));
        // After the value, so that whoever sees the number finds what it stands for.
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The value in force, for this thread.
    pub(crate) fn local(&self) -> Rc<Local<T>> {
        // Before the value: one that comes in between is fetched once more and not missed.
        let version = self.version.load(Ordering::Acquire);
        let place = self.number % KEPT_MAX;
        let known = KEPT.try_with(|kept| match kept.borrow().get(place) {
            Some(Some(kept)) if (kept.number, kept.version) == (self.number, version) => {
                Rc::clone(&kept.value).downcast::<Local<T>>().ok()
            }
            _ => None,
        });
        // A thread that ends keeps nothing.
        known.ok().flatten().unwrap_or_else(|| self.fetch(place, version))
    }

    #[cold]
    fn fetch(&self, place: usize, version: u64) -> Rc<Local<T>> {
        let value = Rc::new(Local(self.get()));
        let kept = Kept { number: self.number, version, value: Rc::clone(&value) as Rc<dyn Any> };
        let before = KEPT.try_with(|places| {
            let mut places = places.borrow_mut();
            if places.len() <= place {
                places.resize_with(place + 1, || None);
            }
            places[place].replace(kept)
        });
        // Not before the places are given back: what goes with it may look at other values.
        drop(before);
        value
    }
}

impl<T: fmt::Debug> fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn every_thread_finds_what_was_published_before_it_looked() {
        let value = Published::new(0);
        let (set, seen) = (Barrier::new(3), Barrier::new(3));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for round in 0..100 {
                        set.wait();
                        assert_eq!((**value.local(), *value.get()), (round, round));
                        assert!(Rc::ptr_eq(&value.local(), &value.local()));
                        seen.wait();
                    }
                });
            }
            for round in 0..100 {
                value.change(|_| round);
                set.wait();
                seen.wait();
            }
        });
    }

    #[test]
    fn values_that_share_a_place_are_told_apart_and_old_ones_go() {
        let values: Vec<_> = (0..KEPT_MAX * 2).map(Published::new).collect();
        for _ in 0..2 {
            for (n, value) in values.iter().enumerate() {
                assert_eq!(**value.local(), n);
            }
        }
        let last = values.last().unwrap();
        let old = last.get();
        last.set(7);
        assert_eq!(Arc::strong_count(&old), 2, "this thread has not looked yet");
        assert_eq!(**last.local(), 7);
        assert_eq!(Arc::strong_count(&old), 1);
        let kept = last.get();
        assert_eq!(Arc::strong_count(&kept), 3);
        forget();
        assert_eq!(Arc::strong_count(&kept), 2);
        assert_eq!(**last.local(), 7);
    }

    #[test]
    fn a_value_may_look_at_others_when_it_goes() {
        struct Parting(Arc<Published<u8>>);
        impl Drop for Parting {
            fn drop(&mut self) {
                assert_eq!(**self.0.local(), 1);
            }
        }
        let other = Arc::new(Published::new(1));
        let value = Published::new(Parting(Arc::clone(&other)));
        drop(value.local());
        value.set(Parting(Arc::clone(&other)));
        drop(value.local());
    }
}
