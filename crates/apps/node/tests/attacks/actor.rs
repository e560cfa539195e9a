//! Attackers and victims: this program, run again with a part to play.
//!
//! They and the tests wait for each other by lines: of their standard error, and of their standard
//! input.

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::wire::{self, Reader};

pub(crate) const PART: &str = "MUSTER_ATTACK_PART";
const SOCKET: &str = "MUSTER_ATTACK_SOCKET";
const THEN: &str = "MUSTER_ATTACK_THEN";
/// How often a flooder connects.
pub(crate) const FLOOD: usize = 500;
/// The arguments with which this program plays a part.
pub(crate) const ARGUMENTS: [&str; 3] = ["--exact", "actor::a_child_plays_its_part", "--nocapture"];

/// Lets `command` be this program, or something that runs it, in a part.
pub(crate) fn in_part(command: &mut Command, part: &str, socket: &Path) {
    command.env(PART, part).env(SOCKET, socket);
}

/// This program, in a part.
pub(crate) fn player(part: &str, socket: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(ARGUMENTS);
    in_part(&mut command, part, socket);
    command
}

/// A copy of this program, so another program to the kernel. Made by another process: while this
/// one had it open for writing, a child of another test could keep it open, and busy.
pub(crate) fn copy_to(path: &Path) {
    let copied = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(path)
        .status();
    assert!(copied.unwrap().success());
}

/// One that plays.
pub(crate) struct Actor {
    pub(crate) child: Child,
    lines: std::io::Lines<BufReader<File>>,
    input: Option<ChildStdin>,
}

impl Actor {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped());
        Self::start_with_input(command)
    }

    /// With a standard input that the command has already.
    pub(crate) fn start_with_input(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = File::from(OwnedFd::from(child.stderr.take().unwrap()));
        Self {
            lines: BufReader::new(stderr).lines(),
            input: child.stdin.take(),
            child,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it reports.
    pub(crate) fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }

    pub(crate) fn hear(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// Lets it go on.
    pub(crate) fn tell(&mut self) {
        self.input.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// Everything else that it, or what runs in its place, writes until its end.
    pub(crate) fn rest(self) -> String {
        let mut this = self;
        drop(this.input.take());
        let rest: Vec<String> = this.lines.by_ref().map(Result::unwrap_or_default).collect();
        this.child.wait().unwrap();
        rest.join("\n")
    }

    pub(crate) fn end(mut self) {
        drop(self.input.take());
        self.child.wait().unwrap();
    }
}

/// Hands a descriptor to whoever holds the other end of `door`, with a byte.
pub(crate) fn hand_over(door: impl AsFd, byte: u8, descriptor: Option<&dyn AsFd>) {
    let borrowed = descriptor.map(|one| [one.as_fd()]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(one) = &borrowed {
        assert!(control.push(SendAncillaryMessage::ScmRights(one)));
    }
    sendmsg(
        door,
        &[IoSlice::new(&[byte])],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
}

/// Takes what comes through `door`; `None` when nobody is there any more.
pub(crate) fn take_over(door: impl AsFd) -> Option<(u8, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let message = recvmsg(
        door,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    let descriptor = control.drain().find_map(|message| {
        if let RecvAncillaryMessage::ScmRights(mut all) = message {
            all.next()
        } else {
            None
        }
    });
    (message.bytes != 0).then_some((byte[0], descriptor))
}

fn report(line: &str) {
    eprintln!("{line}");
}

fn wait_for_word() {
    // Byte by byte: what follows the word may be for another program.
    let mut byte = [0];
    while nix::unistd::read(std::io::stdin(), &mut byte).unwrap() == 1 && byte != *b"\n" {}
}

fn standard_input() -> UnixStream {
    UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap())
}

/// Asks on `socket`, which is already connected, as its first or a later stream.
fn ask_on(socket: &UnixStream, stream: u32) {
    let mut to = socket;
    let asked = if stream == 1 {
        wire::ask(&mut to)
    } else {
        wire::ask_again(&mut to, stream)
    };
    let seen = match asked {
        Ok(()) => Reader::new(socket).next().word(),
        Err(_) => "closed".to_owned(),
    };
    report(&seen);
}

/// Not a test by itself: what the children do.
#[test]
fn a_child_plays_its_part() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let path = PathBuf::from(std::env::var_os(SOCKET).unwrap());
    match part.as_str() {
        // Asks for itself, and tells what comes, a line each.
        "caller" => {
            wait_for_word();
            let socket = wire::connect_and_ask(&path).unwrap();
            let mut reader = Reader::new(&socket);
            loop {
                let seen = reader.next();
                report(&seen.word());
                if seen == wire::Seen::Closed || matches!(seen, wire::Seen::Ended(_)) {
                    break;
                }
            }
        }
        // Its standard input is a connection of another process.
        "heir" => ask_on(&standard_input(), 1),
        "late-heir" => ask_on(&standard_input(), 3),
        // It is handed a connection of another process.
        "receiver" => {
            let (_, socket) = take_over(standard_input()).unwrap();
            ask_on(&UnixStream::from(socket.unwrap()), 1);
        }
        // Has a stream of its own, then becomes another program, which has the connection.
        "changer" => {
            let socket = wire::connect_and_ask(&path).unwrap();
            report(&Reader::new(&socket).next().word());
            wait_for_word();
            become_another(socket);
        }
        // Becomes another program before it said anything.
        "connector" => {
            let socket = UnixStream::connect(&path).unwrap();
            report("connected");
            wait_for_word();
            become_another(socket);
        }
        // Has a stream, and gives the connection away as well.
        "sharer" => {
            let door = standard_input();
            let socket = wire::connect_and_ask(&path).unwrap();
            hand_over(&door, 0, Some(&socket));
            take_over(&door);
        }
        // Asks on the connection of the process that had its number before; then connects and
        // leaves its own behind.
        "reborn" => {
            let door = standard_input();
            let (_, before) = take_over(&door).unwrap();
            let answered = before.is_some_and(|socket| {
                let socket = UnixStream::from(socket);
                wire::ask(&mut &socket).is_ok() && Reader::new(&socket).next() != wire::Seen::Closed
            });
            let own = UnixStream::connect(&path).unwrap();
            hand_over(&door, u8::from(answered), Some(&own));
        }
        // Connects and connects, and counts how often it is turned away.
        "flooder" => {
            let mut open = Vec::new();
            for _ in 0..FLOOD {
                let mut socket = UnixStream::connect(&path).unwrap();
                let spoken = socket.write_all(wire::PREFACE);
                // Who is served is sent settings.
                if spoken.is_ok() && socket.read_exact(&mut [0]).is_ok() {
                    open.push(socket);
                }
            }
            report(&format!("{} closed", FLOOD - open.len()));
            wait_for_word();
        }
        // Never reads what it asks for.
        "deaf" => {
            let mut socket = wire::connect_and_ask(&path).unwrap();
            report("asked");
            let mut stream = 3;
            while wire::ask_again(&mut socket, stream).is_ok() {
                stream += 2;
            }
            report("closed");
        }
        other => crate::hardening::play(other, &path),
    }
}

fn become_another(socket: UnixStream) {
    let mut then = Command::new(std::env::var_os(THEN).unwrap());
    then.stdin(Stdio::from(OwnedFd::from(socket)));
    match std::env::var("MUSTER_ATTACK_NEXT_PART") {
        Ok(part) => then.args(ARGUMENTS).env(PART, part).stdout(Stdio::null()),
        Err(_) => then.stdout(Stdio::from(std::io::stderr())),
    };
    let error = then.exec();
    panic!("{error}");
}

/// What a changer becomes: this copy of this program, in another part.
pub(crate) fn then_play(command: &mut Command, program: &Path, part: &str) {
    command
        .env(THEN, program)
        .env("MUSTER_ATTACK_NEXT_PART", part);
}

/// What a changer becomes: any program.
pub(crate) fn then_run(command: &mut Command, program: &str) {
    command.env(THEN, program);
}
