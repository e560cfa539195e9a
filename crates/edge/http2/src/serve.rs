//! One connection, served: the machine, its socket, its calls and its clock.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::{Request, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::error::{Code, Error, Violation};
use crate::frame;
use crate::inbound::RequestBody;
use crate::listen::Ended;
use crate::machine::{Event, Last, Machine, Sent};

/// How much is read at once, in bytes.
const CHUNK: usize = 8 * 1024;
/// How many pieces are written at once.
const SLICES: usize = 16;
/// How long a client that violated the protocol may take to read why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What answers a request.
pub type Answer<B> = Pin<Box<dyn Future<Output = Response<B>> + Send>>;

/// What a connection may do.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How many calls may be open at a time; further ones are refused, and may be tried again.
    pub calls: u32,
    /// How much a client may send of all bodies, and of each of them, before a call has taken any,
    /// in bytes; between 65,535 ([`Settings::WINDOW`]) and 2^31-1.
    pub window: u32,
    /// While calls are open and nothing comes for so long, the client is asked whether it is there;
    /// if it does not answer for as long again, the connection ends.
    pub keepalive: Duration,
}

impl Settings {
    /// The window that connections have by themselves (RFC 9113, 6.9.2), in bytes.
    pub const WINDOW: u32 = frame::WINDOW;
}

/// Serves one connection, as a future. Calls are polled with it.
///
/// It ends without an error when the client goes, or, after [`Connection::leave`], when all calls
/// have ended. Dropped, it drops its calls and closes the socket.
pub struct Connection<I, F, B> {
    io: I,
    machine: Machine,
    calls: Vec<Call<B>>,
    serve: F,
    wakers: Arc<AtomicWaker>,
    keepalive: Keepalive,
    stage: Stage,
    is_unflushed: bool,
}

// Nothing in it is pinned: answers are boxed, and bodies may be moved.
impl<I: Unpin, F, B: Unpin> Unpin for Connection<I, F, B> {}

/// How far a connection has come.
#[derive(Debug)]
enum Stage {
    Open,
    /// What is left to write is written; then nothing more is said. The error, if that is why.
    Closing(Option<Violation>),
    /// What the client still sends is read and dropped, so that it is not cut off from our last
    /// word, until it has gone or has had its time.
    Lingering(Violation),
}

impl<I, F, B> Connection<I, F, B>
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<RequestBody>) -> Answer<B>,
    B: Body<Data = Bytes> + Unpin,
{
    /// Serves `io`, on which `seen` was read before, with `serve`.
    pub fn new(io: I, seen: &[u8], settings: Settings, serve: F) -> Self {
        let wakers = Arc::new(AtomicWaker::new());
        let mut machine = Machine::new(settings, Arc::clone(&wakers));
        let received = machine.receive(seen);
        let mut connection = Self {
            io,
            machine,
            calls: Vec::new(),
            serve,
            wakers,
            keepalive: Keepalive::new(settings.keepalive),
            stage: Stage::Open,
            is_unflushed: false,
        };
        if let Err(violation) = received {
            connection.finish(Some(violation));
        }
        connection
    }

    /// Tells the client to open no further call. To be polled on until it ends.
    pub fn leave(&mut self) {
        self.machine.leave();
    }

    /// Serves until the end of the connection. When it is to end, the client is told to open no
    /// further call, and the calls that are open may go on for as long as `patience`, if that is a
    /// limit.
    pub async fn until(
        &mut self,
        mut ended: Ended,
        patience: Option<Duration>,
    ) -> Result<(), Error> {
        tokio::select! {
            closed = &mut *self => return closed,
            _gone = ended.changed() => self.leave(),
        }
        match patience {
            // In a box: it is not to make room for what most connections never come to.
            Some(patience) => Box::pin(timeout(patience, self)).await.unwrap_or(Ok(())),
            None => self.await,
        }
    }

    /// Takes what the machine has to say.
    fn heed(&mut self) {
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Opened { stream, request } => {
                    let answer = (self.serve)(*request);
                    // Most connections have one call.
                    if self.calls.is_empty() {
                        self.calls.reserve_exact(1);
                    }
                    self.calls.push(Call {
                        stream,
                        state: State::Answering(answer),
                        signal: Signal::new(&self.wakers),
                    });
                }
                Event::Reset { stream } => self.calls.retain(|call| call.stream != stream),
                Event::Widened => {
                    for call in self.calls.iter().filter(|call| call.is_blocked()) {
                        call.signal.is_ready.store(true, Ordering::Release);
                    }
                }
            }
        }
        if self.calls.is_empty() {
            self.calls = Vec::new();
        }
    }

    /// Polls the calls that were woken; whether there were any.
    fn answer(&mut self) -> bool {
        let mut any = false;
        let mut at = 0;
        while let Some(call) = self.calls.get_mut(at) {
            if !self.machine.output().has_room() {
                break;
            }
            if !call.signal.is_ready.swap(false, Ordering::AcqRel) {
                at += 1;
                continue;
            }
            any = true;
            let waker = Waker::from(Arc::clone(&call.signal));
            let mut cx = Context::from_waker(&waker);
            if call.poll(&mut cx, &mut self.machine).is_ready() {
                self.calls.remove(at);
            } else {
                at += 1;
            }
        }
        if any {
            // Whoever wrote most is asked last the next time.
            if self.calls.len() > 1 {
                self.calls.rotate_left(1);
            }
            self.machine.collect();
        }
        any
    }

    /// Writes what waits; whether anything was.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut any = false;
        while !self.machine.output().is_empty() {
            let output = self.machine.output();
            let mut slices: [_; SLICES] = std::array::from_fn(|_| IoSlice::new(&[]));
            let used = output.slices(&mut slices);
            let slices = slices.get(..used).unwrap_or_default();
            let written = match Pin::new(&mut self.io).poll_write_vectored(cx, slices) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => written?,
                Poll::Pending => break,
            };
            output.advance(written);
            self.is_unflushed = true;
            any = true;
        }
        // Below TLS what was written may still wait for its socket.
        if self.is_unflushed
            && let Poll::Ready(flushed) = Pin::new(&mut self.io).poll_flush(cx)
        {
            flushed?;
            self.is_unflushed = false;
        }
        Ok(any)
    }

    /// Reads a chunk.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read, Error>> {
        let mut chunk = [const { MaybeUninit::uninit() }; CHUNK];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut chunk))?;
        let came = chunk.filled();
        if came.is_empty() {
            return Poll::Ready(Ok(Read::End));
        }
        self.keepalive.has_heard = true;
        if matches!(self.stage, Stage::Open) {
            self.machine.receive(came)?;
            // What nobody wants comes back at once.
            self.machine.collect();
        }
        Poll::Ready(Ok(Read::Some))
    }

    /// Nothing more is answered.
    fn finish(&mut self, why: Option<Violation>) {
        self.calls = Vec::new();
        self.keepalive.restart(LAST_WORDS);
        self.stage = Stage::Closing(why);
    }

    /// One round; pending if it got no further.
    fn round(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.heed();
        let mut any = self.answer();
        any |= self.write(cx)?;
        if self.machine.output().has_room() {
            match self.read(cx)? {
                Poll::Ready(Read::End) => {
                    // Its calls end with the client, who may still read what was said.
                    self.machine.break_off();
                    self.finish(None);
                    any = true;
                }
                Poll::Ready(Read::Some) => any = true,
                Poll::Pending => {}
            }
        }
        if self.machine.is_over() && self.calls.is_empty() {
            self.finish(None);
            any = true;
        }
        if any {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Says the last word.
    fn close(&mut self, cx: &mut Context<'_>, why: Option<Violation>) -> Poll<Result<(), Error>> {
        self.write(cx)?;
        if self.machine.output().is_empty() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            match why {
                None => return Poll::Ready(Ok(())),
                Some(violation) => {
                    self.stage = Stage::Lingering(violation);
                    return Poll::Pending;
                }
            }
        }
        Poll::Pending
    }
}

enum Read {
    Some,
    End,
}

impl<I, F, B> Future for Connection<I, F, B>
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<RequestBody>) -> Answer<B>,
    B: Body<Data = Bytes> + Unpin,
{
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        // First, so that calls that are woken from now on wake us.
        this.wakers.register(cx.waker());
        loop {
            match this.stage {
                Stage::Open => match this.round(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(Error::Violation(violation))) => this.finish(Some(violation)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        ready!(this.keepalive.poll(cx, &mut this.machine))?;
                    }
                },
                Stage::Closing(why) => {
                    let closed = this.close(cx, why);
                    if !matches!(this.stage, Stage::Lingering(_)) {
                        if closed.is_ready() {
                            return closed;
                        }
                        ready!(this.keepalive.timer.as_mut().poll(cx));
                        return Poll::Ready(why.map_or(Ok(()), |why| Err(why.into())));
                    }
                }
                Stage::Lingering(why) => {
                    // First: whoever sends on and on is left as well.
                    let is_late = this.keepalive.timer.as_mut().poll(cx).is_ready();
                    if is_late || !matches!(ready!(this.read(cx)), Ok(Read::Some)) {
                        return Poll::Ready(Err(why.into()));
                    }
                }
            }
        }
    }
}

impl<I: fmt::Debug, F, B> fmt::Debug for Connection<I, F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("io", &self.io)
            .field("calls", &self.calls.len())
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// When the client is asked whether it is there.
struct Keepalive {
    every: Duration,
    timer: Pin<Box<Sleep>>,
    /// Whether anything came since the timer was set.
    has_heard: bool,
    has_asked: bool,
}

impl Keepalive {
    fn new(every: Duration) -> Self {
        Self {
            every,
            timer: Box::pin(sleep(every)),
            has_heard: false,
            has_asked: false,
        }
    }

    fn restart(&mut self, after: Duration) {
        self.timer.as_mut().reset(Instant::now() + after);
    }

    /// Resolves when there is something to write, or when the client has gone silent.
    fn poll(&mut self, cx: &mut Context<'_>, machine: &mut Machine) -> Poll<Result<(), Error>> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let is_quiet = !std::mem::take(&mut self.has_heard);
            let asked = std::mem::take(&mut self.has_asked);
            self.restart(self.every);
            if is_quiet && !machine.is_idle() {
                if asked {
                    return Poll::Ready(Err(Error::Silent));
                }
                self.has_asked = true;
                machine.ping();
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Wakes a connection, and tells it for which call.
struct Signal {
    is_ready: AtomicBool,
    connection: Arc<AtomicWaker>,
}

impl Signal {
    fn new(connection: &Arc<AtomicWaker>) -> Arc<Self> {
        Arc::new(Self {
            is_ready: AtomicBool::new(true),
            connection: Arc::clone(connection),
        })
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_ready.swap(true, Ordering::AcqRel) {
            self.connection.wake();
        }
    }
}

/// A request that is being answered.
struct Call<B> {
    stream: u32,
    state: State<B>,
    signal: Arc<Signal>,
}

enum State<B> {
    Answering(Answer<B>),
    /// The head of the answer has been written.
    Sending {
        body: B,
        /// What the body gave and the client had no room for.
        data: Bytes,
    },
}

impl<B: Body<Data = Bytes> + Unpin> Call<B> {
    /// Resolves when there is nothing more to be said.
    fn poll(&mut self, cx: &mut Context<'_>, machine: &mut Machine) -> Poll<()> {
        loop {
            match &mut self.state {
                State::Answering(answer) => {
                    let (head, body) = ready!(answer.as_mut().poll(cx)).into_parts();
                    let last = last(&body);
                    machine.respond(self.stream, head.status, &head.headers, last);
                    if last == Last::Yes {
                        return Poll::Ready(());
                    }
                    let data = Bytes::new();
                    self.state = State::Sending { body, data };
                }
                State::Sending { body, data } if data.is_empty() => {
                    if !machine.output().has_room() {
                        return self.later();
                    }
                    match ready!(Pin::new(body).poll_frame(cx)) {
                        None => {
                            machine.send(self.stream, data, Last::Yes);
                            return Poll::Ready(());
                        }
                        Some(Err(_broken)) => {
                            machine.reset(self.stream, Code::Internal);
                            return Poll::Ready(());
                        }
                        Some(Ok(frame)) => match frame.into_data() {
                            Ok(piece) => *data = piece,
                            Err(frame) => {
                                if let Ok(trailers) = frame.into_trailers() {
                                    machine.trailers(self.stream, &trailers);
                                    return Poll::Ready(());
                                }
                            }
                        },
                    }
                }
                State::Sending { body, data } => {
                    if !machine.output().has_room() {
                        return self.later();
                    }
                    let last = last(body);
                    if machine.send(self.stream, data, last) == Sent::Nothing {
                        return Poll::Pending;
                    }
                    if last == Last::Yes && data.is_empty() {
                        return Poll::Ready(());
                    }
                }
            }
        }
    }

    /// Whether there is something that the client had no room for.
    fn is_blocked(&self) -> bool {
        matches!(&self.state, State::Sending { data, .. } if !data.is_empty())
    }

    /// Goes on when there is room again.
    fn later(&self) -> Poll<()> {
        self.signal.is_ready.store(true, Ordering::Release);
        Poll::Pending
    }
}

/// Whether nothing more comes out of a body.
fn last<B: Body>(body: &B) -> Last {
    if body.is_end_stream() {
        Last::Yes
    } else {
        Last::No
    }
}
