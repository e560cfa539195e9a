//! `/proc/PID/net/tcp` and `tcp6`: the TCP sockets of a network namespace; and the links of
//! `/proc/PID/fd`, by which a socket is a process's.

/// The state of a socket that listens (`TCP_LISTEN` of the kernel's `tcp_states.h`).
const LISTEN: &str = "0A";

/// A TCP socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listening {
    /// The socket's inode number.
    pub inode: u64,
    /// The port.
    pub port: u16,
}

/// The sockets of a table that listen.
pub fn listening(table: &[u8]) -> impl Iterator<Item = Listening> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter_map(of_line)
}

/// `sl local remote st queues timer retransmits uid timeout inode ...`, where `local` is the address
/// and the port in hexadecimal.
fn of_line(line: &str) -> Option<Listening> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let (_, port) = local.rsplit_once(':')?;
    Some(Listening {
        inode: fields.nth(5)?.parse().ok()?,
        port: u16::from_str_radix(port, 16).ok()?,
    })
}

/// The inode number of the socket that a descriptor is, by the text of its link.
pub fn socket(link: &[u8]) -> Option<u64> {
    let number = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_listen() {
        let table = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
           0: 0100007F:22E3 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 100 0 0 10 0\n\
           1: 0100007F:22E3 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1\n\
           2: junk\n";
        assert_eq!(
            listening(table).collect::<Vec<_>>(),
            [Listening {
                inode: 4711,
                port: 8931
            }]
        );
        let six = b"   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99 1";
        assert_eq!(
            listening(six).collect::<Vec<_>>(),
            [Listening {
                inode: 99,
                port: 8080
            }]
        );
    }

    #[test]
    fn links() {
        assert_eq!(socket(b"socket:[4711]"), Some(4711));
        for other in [&b"socket:[]"[..], b"pipe:[1]", b"/dev/null", b"socket:[1"] {
            assert_eq!(socket(other), None);
        }
    }
}
