//! `/proc/PID/maps`: what is mapped where; only the files matter here.

/// The file of one line, if a file is mapped there.
///
/// A line is `address perms offset dev inode path`, and the path goes to its end, spaces included.
pub fn file(line: &[u8]) -> Option<&str> {
    let mut rest = line;
    for _field in 0..5 {
        let start = rest.iter().position(|byte| *byte != b' ')?;
        let begun = rest.get(start..)?;
        let end = begun.iter().position(|byte| *byte == b' ')?;
        rest = begun.get(end..)?;
    }
    let start = rest.iter().position(|byte| *byte != b' ')?;
    let path = std::str::from_utf8(rest.get(start..)?).ok()?;
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.starts_with('/').then_some(path)
}

/// The files of a whole table, one after the other; the same file has several lines, of which the
/// first counts.
pub fn files(maps: &[u8]) -> impl Iterator<Item = &str> {
    let mut last = None;
    maps.split(|byte| *byte == b'\n')
        .filter_map(file)
        .filter(move |path| last.replace(*path) != Some(*path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_nothing_else() {
        let table = b"55d0-55d1 r--p 00000000 08:01 131 /usr/bin/python3.11\n\
            55d1-55d2 r-xp 00001000 08:01 131 /usr/bin/python3.11\n\
            7f00-7f01 rw-p 00000000 00:00 0 \n\
            7f01-7f02 rw-p 00000000 00:00 0                          [heap]\n\
            7f02-7f03 r--p 00000000 08:01 9    /opt/a b/lib.so (deleted)\n\
            broken\n";
        assert_eq!(
            files(table).collect::<Vec<_>>(),
            ["/usr/bin/python3.11", "/opt/a b/lib.so"]
        );
    }
}
