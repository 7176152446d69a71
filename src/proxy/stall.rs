//! HTTP/2 streams whose client does not read. Flow control stops such a stream before its body is asked for more, so
//! no timeout of the body's own would ever be looked at: the stream's task is watched from outside.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use super::deadline::Deadline;
use super::worker::Worker;

tokio::task_local! {
    static STALL: Rc<Stall>;
}

/// How long the stream of this task has been waiting for its client.
#[derive(Debug)]
pub struct Stall {
    worker: Rc<Worker>,
    deadline: Deadline,
}

impl Stall {
    /// The one of the stream that is running; `None` outside of [`watched`].
    #[must_use]
    pub fn current() -> Option<Rc<Stall>> {
        STALL.try_with(Rc::clone).ok()
    }

    /// The client has something to read.
    pub fn begin(&self) {
        self.deadline.set(self.worker.deadlines.now().plus(self.worker.limits.get().client_write));
    }

    /// The client is not waited for.
    pub fn end(&self) {
        self.deadline.clear();
    }
}

/// Runs a stream until it ends, or its client has not read for too long: dropped, it is reset.
pub async fn watched(worker: Rc<Worker>, stream: impl Future) {
    let stall = Rc::new(Stall { deadline: worker.deadlines.deadline(), worker });
    let watch = stall.clone();
    STALL
        .scope(stall, async move {
            let mut stream = pin!(stream);
            poll_fn(|cx| match stream.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => watch.deadline.poll(cx).map(|_late| ()),
            })
            .await;
        })
        .await;
}
