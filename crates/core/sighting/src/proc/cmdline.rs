//! `/proc/PID/cmdline`: the arguments, each ended by NUL; processes may write over them.

/// How many words are looked at; what gives an agent away comes first.
pub const MOST_WORDS: usize = 64;

/// The arguments that are text, in their order. One that is not is an empty word.
///
/// A process that gives itself a title writes one text over all its arguments: then the words are
/// those of the title.
pub fn words(cmdline: &[u8]) -> Vec<&str> {
    let end = cmdline
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    let all = cmdline.get(..end).unwrap_or_default();
    if all.is_empty() {
        return Vec::new();
    }
    let word = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
    if !all.contains(&0) {
        return word(all).split_whitespace().take(MOST_WORDS).collect();
    }
    all.split(|byte| *byte == 0)
        .take(MOST_WORDS)
        .map(word)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_titles() {
        let check = |bytes: &[u8], expected: &[&str]| assert_eq!(words(bytes), expected);
        check(b"", &[]);
        check(b"\0\0", &[]);
        check(b"claude\0", &["claude"]);
        check(b"python3\0-m\0a b\0\0", &["python3", "-m", "a b"]);
        check(
            b"npm exec @x/y /tmp\0\0\0\0",
            &["npm", "exec", "@x/y", "/tmp"],
        );
        check(b"a\0\xff\0c\0", &["a", "", "c"]);
    }
}
