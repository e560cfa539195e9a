//! `/proc/PID/environ`: the first environment of a process. Names are kept, values are not.

use std::collections::BTreeSet;

use zeroize::Zeroize as _;

/// The longest name that is looked at.
const LONGEST: usize = 128;

/// Takes the names for which `known` is true out of an environment, and overwrites all of it.
///
/// Nothing but those names is copied: an entry without `=` may be a secret that somebody put there
/// by mistake, and so may the name of a variable that no rule knows.
pub fn take_names(environ: &mut [u8], known: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in environ.split(|byte| *byte == 0) {
        let Some(end) = entry
            .iter()
            .take(LONGEST + 1)
            .position(|byte| *byte == b'=')
        else {
            continue;
        };
        let name = entry.get(..end).map(std::str::from_utf8);
        if let Some(Ok(name)) = name
            && !name.is_empty()
            && known(name)
        {
            names.insert(name.to_owned());
        }
    }
    environ.zeroize();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_known_are_kept_and_all_is_wiped() {
        let mut bytes =
            b"HOME=/x\0OPENAI_API_KEY=sk-secret=1\0=odd\0sk-loose\0A=OPENAI_API_KEY=2\0".to_vec();
        let names = take_names(&mut bytes, |name| name == "OPENAI_API_KEY");
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["OPENAI_API_KEY"]);
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}
