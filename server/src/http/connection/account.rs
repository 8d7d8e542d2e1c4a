//! The account of the request that a connection serves: begun with its first byte, shown to the observers at its end.

use std::time::{Duration, Instant};

use http_types::Request;

use super::state::Connection;
use crate::http::handler::{Context, Decoration, Handler, Proxied};
use crate::http::message::encode;
use crate::http::observe::{Account, Served};

impl<H: Handler> Connection<'_, H> {
    /// Begins the account of a request whose first byte came so long ago, if somebody wants to be told of it.
    pub(super) fn open_account(&mut self, ago: Duration) {
        if !self.context.observers.is_empty() {
            let now = Instant::now();
            self.account = Some(Box::new(Account::begun(now.checked_sub(ago).unwrap_or(now))));
        }
    }

    /// Takes down what has come of a head that did not pass, or did not come whole.
    pub(super) fn take_unchecked(&mut self) {
        if let Some(account) = &mut self.account {
            account.take_unchecked(self.wire.transport.received().filled());
        }
    }

    /// Tells the observers of a request that was given up, if there is one: within its head, or before its answer.
    pub(super) fn give_up_account(&mut self) {
        self.take_unchecked();
        self.close_account(false);
    }

    /// Tells the observers of a request that the deadline of the drain or the stop has cut, if there is one: within its
    /// head, before its answer, or within that.
    pub(super) fn cut_account(&mut self) {
        self.take_unchecked();
        self.tell(|served| Served { cut: true, ..served });
    }

    /// Tells the observers of a request that is over, its response `complete` or not.
    pub(super) fn close_account(&mut self, complete: bool) {
        self.tell(|served| Served { complete, ..served });
    }

    fn tell(&mut self, became: impl for<'a> FnOnce(Served<'a>) -> Served<'a>) {
        if let Some(account) = self.account.take() {
            let peer = self.client.as_deref().or(self.peer.as_deref());
            let proxy = self.peer.as_deref().filter(|_| self.client.is_some());
            let served = account.served(self.listener.as_deref(), (peer, proxy), self.tls.as_ref());
            let served = became(served);
            self.context.observers.iter().for_each(|observe| observe(&served));
        }
    }

    /// The headers that every response gets.
    pub(super) fn decoration(&self, request: Option<&Request>) -> Decoration {
        let Context { decorate, secured, .. } = self.context;
        let mut decoration = decorate.as_ref().map(|decorate| decorate(request)).unwrap_or_default();
        // Where nothing would be said, no request pays for a look at who has brought it.
        if !secured.is_empty() && (self.tls.is_some() || request.is_some_and(Proxied::by_https)) {
            decoration.extend(secured.iter().cloned());
        }
        decoration.retain(|(name, value)| encode::check_header(name, value).is_ok());
        decoration
    }
}
