//! The protocol, without I/O and without time.
//!
//! Doors: [`Machine::receive`] takes what came, [`Machine::poll_event`] says what follows from it,
//! the verbs of an answer (`answer.rs`), [`Machine::leave`] and [`Machine::ping`] write into
//! [`Machine::output`], which is for the caller to send.

mod answer;
mod receive;

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use futures::task::AtomicWaker;
use http::Request;

use crate::closed::{Closed, End};
use crate::error::{Code, Violation};
use crate::frame::{self, STREAM_MAX, WINDOW_MAX};
use crate::inbound::RequestBody;
use crate::output::Output;
use crate::reader::Reader;
use crate::serve::Settings;
use crate::stream::{Credit, Stream};
use crate::{HEADER_LIST_MAX, hpack};

pub(crate) use self::answer::{Last, Sent};

/// What the pings say that ask whether the client is there, and whether it has heard that the
/// connection ends.
const THERE: [u8; 8] = *b"there?\0\0";
const HEARD: [u8; 8] = *b"heard?\0\0";

/// One connection's state.
#[derive(Debug)]
pub(crate) struct Machine {
    reader: Reader,
    table: hpack::Table,
    block: Option<Box<Block>>,
    /// By their numbers.
    streams: Vec<Stream>,
    closed: Closed,
    /// The highest number that the client used.
    last: u32,
    is_settled: bool,
    most: usize,
    /// How much the client takes on the whole connection, in bytes.
    window: i64,
    /// How much it takes on a new stream, in bytes.
    initial_window: i64,
    /// How much is taken on a new stream, in bytes.
    receive_window: u32,
    credit: Credit,
    encoding: Encoding,
    leaving: Leaving,
    /// Whether the client will open no further stream.
    is_left: bool,
    events: VecDeque<Event>,
    is_widened: bool,
    output: Output,
    /// Wakes whoever drives the machine when a body was taken.
    driver: Arc<AtomicWaker>,
}

/// What follows from what came.
#[derive(Debug)]
pub(crate) enum Event {
    /// A call begins.
    Opened {
        stream: u32,
        request: Box<Request<RequestBody>>,
    },
    /// A call is over: nobody waits for its answer.
    Reset { stream: u32 },
    /// There may be room for what could not be sent.
    Widened,
}

/// A header block that has not ended.
#[derive(Debug)]
struct Block {
    stream: u32,
    ends_stream: bool,
    octets: Vec<u8>,
    frames: usize,
}

/// Whether the client's decoder knows that no table is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// It has not asked for a smaller one.
    Default,
    /// It is to be told (RFC 7541, 4.2).
    Due,
    Told,
}

/// How far our leaving has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// It has been said that we will; streams that were opened before that was heard are served.
    Announced,
    /// No stream above this one is served.
    After(u32),
}

impl Machine {
    /// For a new connection; `driver` is woken when a body was taken.
    pub(crate) fn new(settings: Settings, driver: Arc<AtomicWaker>) -> Self {
        let mut output = Output::default();
        let list_max = u32::try_from(HEADER_LIST_MAX).unwrap_or(u32::MAX);
        let window = settings.window.clamp(frame::WINDOW, WINDOW_MAX);
        frame::put_settings(
            output.tail(),
            &[
                (frame::MAX_CONCURRENT_STREAMS, settings.calls),
                (frame::INITIAL_WINDOW_SIZE, window),
                (frame::MAX_HEADER_LIST_SIZE, list_max),
            ],
        );
        // Settings are for streams only (6.9.2).
        if window > frame::WINDOW {
            put_window(output.tail(), 0, window - frame::WINDOW);
        }
        Self {
            reader: Reader::new(),
            table: hpack::Table::new(),
            block: None,
            streams: Vec::new(),
            closed: Closed::default(),
            last: 0,
            is_settled: false,
            most: usize::try_from(settings.calls).unwrap_or(usize::MAX),
            window: frame::WINDOW.into(),
            initial_window: frame::WINDOW.into(),
            receive_window: window,
            credit: Credit::new(window),
            encoding: Encoding::Default,
            leaving: Leaving::No,
            is_left: false,
            events: VecDeque::new(),
            is_widened: false,
            output,
            driver,
        }
    }

    /// Takes all of `input`. After an error the connection is to be ended: its last word is written.
    pub(crate) fn receive(&mut self, mut input: &[u8]) -> Result<(), Violation> {
        let received = self.receive_all(&mut input);
        if let Err(violation) = received {
            let why = violation.to_string();
            frame::put_go_away(self.output.tail(), self.last, violation.code(), &why);
            self.break_off();
        }
        received
    }

    /// Nothing more will come.
    pub(crate) fn break_off(&mut self) {
        for stream in mem::take(&mut self.streams) {
            stream.break_off();
        }
    }

    fn receive_all(&mut self, input: &mut &[u8]) -> Result<(), Violation> {
        while let Some((head, payload)) = self.reader.next(input)? {
            self.frame(head, &payload)?;
        }
        Ok(())
    }

    /// What has happened; to be asked until there is nothing, after every [`Machine::receive`].
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        self.events = VecDeque::new();
        mem::take(&mut self.is_widened).then_some(Event::Widened)
    }

    /// What is to be written.
    pub(crate) fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// Whether a stream is open.
    pub(crate) fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// Whether there is nothing more to be said on this connection.
    pub(crate) fn is_over(&self) -> bool {
        self.is_idle() && (self.is_left || matches!(self.leaving, Leaving::After(_)))
    }

    /// Asks whether the client is there.
    pub(crate) fn ping(&mut self) {
        frame::put_ping(self.output.tail(), 0, &THERE);
    }

    /// Tells the client to open no further stream (6.8): first so that nothing is lost that is on
    /// its way, and for good when it has heard that.
    pub(crate) fn leave(&mut self) {
        if self.leaving != Leaving::No {
            return;
        }
        self.leaving = Leaving::Announced;
        let out = self.output.tail();
        frame::put_go_away(out, STREAM_MAX, Code::NoError, "");
        frame::put_ping(out, 0, &HEARD);
    }

    /// Gives back to the client what calls have taken of their bodies.
    pub(crate) fn collect(&mut self) {
        for stream in &mut self.streams {
            let Some(receiving) = &mut stream.receiving else {
                continue;
            };
            let taken = receiving.inbound.taken();
            let taken = u32::try_from(taken).unwrap_or(u32::MAX);
            let taken = taken.min(receiving.unread);
            receiving.unread -= taken;
            receiving.credit.owe(taken);
            self.credit.owe(taken);
            if receiving.has_ended {
                if receiving.unread == 0 {
                    stream.receiving = None;
                }
            } else if let Some(due) = receiving.credit.due() {
                put_window(self.output.tail(), stream.id, due);
            }
        }
        self.widen();
    }

    fn widen(&mut self) {
        if let Some(due) = self.credit.due() {
            put_window(self.output.tail(), 0, due);
        }
    }

    fn position(&self, id: u32) -> Option<usize> {
        self.streams
            .binary_search_by_key(&id, |stream| stream.id)
            .ok()
    }

    fn remove(&mut self, at: usize, end: End) {
        let stream = self.streams.remove(at);
        self.closed.insert(stream.id, end);
        if self.streams.is_empty() {
            self.streams = Vec::new();
        }
        if let Some(receiving) = &stream.receiving {
            self.credit.owe(receiving.unread);
            self.widen();
        }
        stream.break_off();
    }

    /// Ends a stream for what the client did on it.
    fn refuse(&mut self, id: u32, code: Code) {
        frame::put_reset(self.output.tail(), id, code);
        match self.position(id) {
            Some(at) => {
                self.remove(at, End::Reset);
                self.events.push_back(Event::Reset { stream: id });
            }
            None => self.closed.insert(id, End::Reset),
        }
    }
}

fn put_window(out: &mut Vec<u8>, stream: u32, increment: u32) {
    frame::put_number(out, frame::WINDOW_UPDATE, stream, increment);
}
