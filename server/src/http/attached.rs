//! What a response has beside its body, in place of it: a body that the sender knows more of than how to read it.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::lock::unpoisoned;
use http_types::Response;

/// Something that stands for the body of a response. The body holds one of these, too, so that it is seen where another
/// body took its place.
#[derive(Debug)]
pub(crate) struct Attached<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Attached<T> {
    fn clone(&self) -> Attached<T> {
        Attached(Arc::clone(&self.0))
    }
}

impl<T: Send + 'static> Attached<T> {
    /// Puts `value` beside the body of a response. The body, which is to be set next, has to hold what is returned.
    pub(super) fn attach(response: &mut Response, value: T) -> Attached<T> {
        let attached = Attached(Arc::new(Mutex::new(Some(value))));
        response.ext_mut().insert(attached.clone());
        attached
    }

    /// Looks at it, if it is the response's body still.
    pub(super) fn of(response: &Response) -> Option<&Attached<T>> {
        // One that was replaced as the body is held by nobody else.
        response.ext().get::<Attached<T>>().filter(|attached| Arc::strong_count(&attached.0) > 1)
    }

    /// What was attached, unless it was taken.
    pub(super) fn value(&self) -> MutexGuard<'_, Option<T>> {
        // A panic while it was held leaves at worst a body that fails.
        unpoisoned(self.0.lock())
    }
}
